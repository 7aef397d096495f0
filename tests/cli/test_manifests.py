"""What manifests hold: which objects count, what is refused and where that stands; and no input makes us run on."""

# ruff: noqa: E501  # what is written beside what is said of it

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from imagestreams.cli import manifests
from imagestreams.cli.manifests import NAME, PAST, SPEC, Field, InvalidManifests, parse_manifests, read_manifests

API = "image.openshift.io/v1"
ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "a" * 64


def stream(*tags: dict[str, Any], name: str = "web", api: str = API, **more: Any) -> dict[str, Any]:
    return {"apiVersion": api, "kind": "ImageStream", "metadata": {"name": name}, "spec": {"tags": list(tags)}, **more}


def tag(name: str = "latest", source: str = "nginx", kind: str = "DockerImage", **more: Any) -> dict[str, Any]:
    return {"name": name, "from": {"kind": kind, "name": source}, **more}


def read(text: str | object, namespace: str = "default") -> manifests.Manifests:
    content = text if isinstance(text, str) else json.dumps(text)
    return parse_manifests(content, origin="f.yaml", namespace=namespace)


def names(found: manifests.Manifests) -> list[str]:
    return [str(manifest.stream.key) for manifest in found.streams]


def faults(text: str | object) -> tuple[str, ...]:
    with pytest.raises(InvalidManifests) as caught:
        read(text)
    return caught.value.problems


# ---- what counts ----


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param(json.dumps(stream(tag())), ["default/web"], id="JSON"),
        pytest.param(f"{json.dumps(stream())}\n\t{json.dumps(stream(name='b'))}", ["default/web", "default/b"], id="two"),
        pytest.param(yaml.dump(stream(tag())), ["default/web"], id="YAML"),
        pytest.param("\ufeff" + yaml.dump(stream(tag())), ["default/web"], id="a byte order mark"),
        pytest.param(f"---\n---\n{yaml.dump(stream())}---\n# no more\n", ["default/web"], id="empty documents"),
        pytest.param(yaml.dump(stream(api="imagestreams.dev/v1")), ["default/web"], id="the other group"),
        pytest.param(f"{{apiVersion: {API}, kind: ImageStream, metadata: {{name: a}}}}", ["default/a"], id="YAML's short form"),
        pytest.param(
            yaml.dump({"apiVersion": "v1", "kind": "List", "items": [stream(), stream(name="b")]}),
            ["default/web", "default/b"],
            id="List",
        ),
        pytest.param(
            yaml.dump({"apiVersion": API, "kind": "ImageStreamList", "items": [{"metadata": {"name": "a"}}]}),
            ["default/a"],
            id="an API's list, whose items have no kind",
        ),
        pytest.param(
            yaml.dump({"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "List", "items": [stream()]}]}),
            ["default/web"],
            id="a list in a list",
        ),
        pytest.param(
            yaml.dump_all([stream(), stream(metadata={"name": "web", "namespace": "shop"})]),
            ["default/web", "shop/web"],
            id="one name in two namespaces",
        ),
    ],
)  # fmt: skip
def test_streams_are_found(text, found):
    assert names(read(text)) == found


def test_the_namespace_is_that_of_those_that_name_none():
    assert names(read(stream(), namespace="shop")) == ["shop/web"]


def test_others_are_passed_over_in_one_line_for_each_file():
    others = [{"apiVersion": "apps/v1", "kind": "Deployment"}, {"apiVersion": "v1", "kind": "Service"}]
    text = yaml.dump_all(
        [*others, stream(), others[0], {"a": 1}, stream(api="v1"), stream(api="image.openshift.io/v2")]
    )
    assert read(text).skipped == (
        (
            "f.yaml: skipped 2 Deployment, 1 ImageStream of image.openshift.io/v2, which is not image.openshift.io/v1 or "
            "imagestreams.dev/v1, 1 ImageStream of v1, which is not image.openshift.io/v1 or imagestreams.dev/v1, "
            "1 Service, 1 object without apiVersion and kind: only ImageStreams are resolved"
        ),
    )


def test_nothing_found_is_a_fault_that_says_what_was_there():
    assert faults("apiVersion: v1\nkind: Pod\n") == (
        "f.yaml: skipped 1 Pod: only ImageStreams are resolved",
        "no ImageStream was found in: f.yaml",
    )


def test_a_stream_is_read_as_a_new_one_is_stored():
    annotations = {
        "imagestreams.dev/refresh": "now",
        "imagestreams.dev/suspend": "true",
        "imagestreams.dev/interval": "1m",
        "openshift.io/image.insecureRepository": "true",
    }
    metadata = {"name": "web", "annotations": annotations, "uid": "theirs", "resourceVersion": "7", "generation": 9}
    (found,) = read(stream(tag("1"), metadata=metadata)).streams
    assert found.is_suspended
    assert (found.stream.metadata.uid, found.stream.metadata.generation) == ("manifest-1", 1)
    assert found.stream.annotations.refresh is None
    assert not found.stream.is_suspended
    assert found.stream.annotations.insecure_repository == "true"
    assert found.stream.spec_tag("1") is not None


def test_of_an_exports_status_only_history_counts_and_not_as_the_tags_own():
    item = {"created": "2026-01-01T00:00:00Z", "dockerImageReference": f"nginx@{DIGEST}", "image": DIGEST}
    status = {
        "dockerImageRepository": "registry.svc/x/web",
        "tags": [
            {"tag": "asked", "items": [item], "conditions": [{"type": "ImportSuccess", "status": "True"}]},
            {"tag": "pushed", "items": [item]},
            {"tag": "empty", "items": None},
        ],
    }
    (found,) = read(stream(tag("asked"), {"name": "pushed"}, status=status)).streams
    assert found.stream.status is not None
    assert [(each.tag, len(each.items or ())) for each in found.stream.status.tags or ()] == [("pushed", 1), (PAST, 1)]
    assert found.stream.status_tag("asked") is None


# ---- what YAML means ----


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("1.20", "the number 1.2"),
        ("3", "the number 3"),
        ("010", "the number 8"),
        ("0x1F", "the number 31"),
        ("1_000", "the number 1000"),
        ("12e3", "the number 12000.0"),
        ("on", "true"),
        ("y", "true"),
        ("No", "false"),
        ("[a]", "a list"),
        ("{a: b}", "a mapping"),
    ],
)
def test_a_tag_that_kubectl_does_not_read_as_a_text(written, shown):
    (fault,) = faults(
        f"apiVersion: {API}\nkind: ImageStream\nmetadata: {{name: web}}\nspec:\n  tags:\n  - name: {written}\n"
    )
    remedy = "" if written[0] in "[{" else "; write it in quotes"
    assert fault == f"f.yaml: document 1, line 6: ImageStream web: spec.tags[0].name is {shown}, not a text{remedy}"


@pytest.mark.parametrize(
    "written", ["'1.20'", '"on"', "!!str 3", "1.20.1", "v1", "2026-01-01", "12:30x", "0x", "1e", "truE"]
)
def test_a_tag_that_it_does(written):
    text = f"apiVersion: {API}\nkind: ImageStream\nmetadata: {{name: web}}\nspec:\n  tags:\n  - name: {written}\n"
    if ":" in written:
        assert "is no tag" in faults(text)[0]
    else:
        assert read(text).streams[0].stream.spec_tags[0].name == yaml.load(written, yaml.BaseLoader)


def test_anchors_aliases_and_merges():
    text = f"""
apiVersion: v1
kind: List
items:
- &first
  apiVersion: {API}
  kind: ImageStream
  metadata: {{name: a}}
  spec: &spec
    tags: [{{name: "1", from: &nginx {{kind: DockerImage, name: nginx}}}}, {{name: "2", from: *nginx}}]
- <<: *first
  metadata: {{name: b}}
- <<: [{{metadata: {{name: c}}}}, *first]
"""
    found = read(text)
    assert names(found) == ["default/a", "default/b", "default/c"]
    assert len({manifest.stream.spec for manifest in found.streams}) == 1


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdef<", max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(PLAIN, max_size=4))
def test_what_is_written_as_yaml_is_read_back(values):
    text = yaml.dump_all(values, Dumper=yaml.SafeDumper, allow_unicode=True, default_style='"')
    assert [document.value for document in manifests._documents(text)] == values


@given(PLAIN)
def test_what_is_written_as_json_is_read_back(value):
    for indent in (None, 2):
        (document,) = manifests._documents(json.dumps({"a": value}, indent=indent))
        assert document.value == {"a": value}


FRAGMENTS = st.sampled_from(
    [
        *"{}[]:,-&*!|>'\"%@`#?\n\t ",
        "---\n",
        "<<",
        "&a ",
        "*a",
        "kind: ",
        "List",
        "items",
        "ImageStream",
        "spec",
        "tags",
        API,
    ]
)


@settings(max_examples=300)
@given(st.lists(FRAGMENTS | st.text(max_size=8), max_size=60).map("".join))
def test_no_text_does_more_than_be_refused(text):
    try:
        found = read(text)
    except InvalidManifests:
        return
    assert found.streams


# ---- what is refused, and where ----

HEAD = f"apiVersion: {API}\nkind: ImageStream\nmetadata:\n  name: web\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{a: b", "document 1, line 1: no valid YAML: did not find expected ',' or '}'"),
        ("a: b\n c: d\n", "document 1, line 2: no valid YAML: mapping values are not allowed in this context"),
        (f"{HEAD}---\nx: [1\n", "document 2, line 7: no valid YAML: did not find expected ',' or ']'"),
        ("a: b\nx: \x01", "document 1, line 2: no valid YAML: a character that is not allowed in it"),
        ("a: {{ .Values.tag }}\n", "document 1, line 1: a field's name must be a text"),
        ('{"a": 1,\n "b" 2}', "document 1, line 2: no valid JSON: Expecting ':' delimiter"),
        ('{"a": 1, "a": 2}', 'document 1: the field "a" is given twice'),
        ("a: 1\nb: 2\na: 3\n", 'document 1, line 3: the field "a" is given twice'),
        ("- a\n", "document 1: a list is no object; write apiVersion, kind, metadata and spec"),
        ("a: *b\n", "document 1, line 1: *b stands for nothing that is complete there"),
        ("a: &a [*a]\n", "document 1, line 1: *a stands for nothing that is complete there"),
        ("a:\n  <<: 3\n", "document 1, line 3: << takes a mapping, or a list of mappings"),
        ("apiVersion: v1\nkind: List\nitems: {}\n", "document 1, line 3: items is a mapping, not a list"),
        ("apiVersion: v1\nkind: List\nitems: [3]\n", "document 1, line 3: the number 3 is no object; write apiVersion, kind, metadata and spec"),
    ],
)  # fmt: skip
def test_documents_that_are_none(text, fault):
    assert faults(text)[0] == f"f.yaml: {fault}"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("metadata: {}", "metadata.name is missing"),
        ("metadata: {name: 7}", "metadata.name is the number 7, not a text; write it in quotes"),
        ("metadata: {name: Web}", 'metadata.name "Web" is no name of a stream; write lower-case letters and digits, joined by one of . _ -'),
        ("metadata: {name: a, namespace: A/B}", 'metadata.namespace is "A/B", which is no name of a namespace'),
        ("metadata: {name: a, annotations: {x: 1}}", "metadata.annotations.x is the number 1, not a text; write it in quotes"),
        ("metadata: {name: a}\nSpec: {}", 'unknown field "Spec" (did you mean spec?)'),
        ("metadata: {name: a}\nspec: []", "spec is a list, not a mapping"),
        ("metadata: {name: a}\nspec: {tagz: []}", 'unknown field "spec.tagz" (did you mean tags?)'),
        ("metadata: {name: a}\nspec: {tags: {}}", "spec.tags is a mapping, not a list"),
        ("metadata: {name: a}\nspec: {tags: [null]}", "spec.tags[0] is null, not a mapping; leave it out or give it a value"),
        ("metadata: {name: a}\nspec: {tags: [{}]}", "spec.tags[0].name is missing"),
        ("metadata: {name: a}\nspec: {tags: [{name: -a}]}", "spec.tags[0].name \"-a\" is no tag; write letters, digits, '_', '.' and '-', the first a letter, a digit or '_'"),
        ("metadata: {name: a}\nspec: {tags: [{name: b}, {name: b}]}", 'spec.tags[1].name "b" is that of spec.tags[0] too'),
        ("metadata: {name: a}\nspec: {tags: [{name: b, from: {}}]}", "spec.tags[0].from.kind is missing; write DockerImage, ImageStreamTag or ImageStreamImage"),
        ("metadata: {name: a}\nspec: {tags: [{name: b, from: {kind: Docker, name: x}}]}", 'spec.tags[0].from.kind is "Docker"; write DockerImage, ImageStreamTag or ImageStreamImage'),
        ("metadata: {name: a}\nspec: {tags: [{name: b, from: {kind: DockerImage}}]}", "spec.tags[0].from.name is missing; name the source, such as quay.io/team/app:1.2 for a DockerImage"),
        ("metadata: {name: a}\nspec: {tags: [{name: b, from: {kind: DockerImage, name: https://x/y}}]}", 'spec.tags[0].from.name "https://x/y" must be an image without a scheme, such as registry.example.com/team/app:1.2'),
        ("metadata: {name: a}\nspec: {tags: [{name: b, from: {kind: DockerImage, name: x/Y}}]}", 'spec.tags[0].from.name "x/Y" is no image: a repository is written in lower case, as in quay.io/team/app:1.2'),
        ("metadata: {name: a}\nspec: {tags: [{name: b, from: {kind: DockerImage, name: x//y}}]}", 'spec.tags[0].from.name "x//y" is no image: write [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST], as in quay.io/team/app:1.2'),
        ("metadata: {name: a}\nspec: {tags: [{name: b, from: {kind: DockerImage, name: x y}}]}", 'spec.tags[0].from.name "x y" must not hold spaces or line breaks'),
        ("metadata: {name: a}\nspec: {tags: [{name: b, from: {kind: ImageStreamTag, name: x/y:z}}]}", 'spec.tags[0].from.name "x/y:z" is no ImageStreamTag; write TAG (stable) or STREAM:TAG (app:stable); an image is of kind DockerImage'),
        ("metadata: {name: a}\nspec: {tags: [{name: b, from: {kind: ImageStreamImage, name: x@y}}]}", 'spec.tags[0].from.name "x@y" is no ImageStreamImage; write STREAM@DIGEST (app@sha256:...); an image is of kind DockerImage'),
        ("metadata: {name: a}\nspec: {tags: [{name: b, from: {kind: ImageStreamTag, name: c}, importPolicy: {scheduled: true}}]}", "spec.tags[0].importPolicy.scheduled: only a tag with from.kind DockerImage is looked up on schedule; leave `scheduled` out here"),
        ("metadata: {name: a}\nspec: {tags: [{name: b, importPolicy: {importMode: All}}]}", 'spec.tags[0].importPolicy.importMode is "All"; write Legacy or PreserveOriginal'),
        ("metadata: {name: a}\nspec: {tags: [{name: b, generation: true}]}", "spec.tags[0].generation is true, not a whole number"),
        ("metadata: {name: a}\nspec: {dockerImageRepository: 'x/y:1'}", 'spec.dockerImageRepository "x/y:1" must be a repository without tag and digest: all of its tags are imported; for a single one write an entry of spec.tags'),
        (f"metadata: {{name: a}}\nspec: {{dockerImageRepository: {'x' * 513}}}", "spec.dockerImageRepository has 513 characters, 512 are allowed"),
    ],
)  # fmt: skip
def test_streams_that_the_api_server_would_refuse(text, fault):
    (said,) = faults(f"apiVersion: {API}\nkind: ImageStream\n{text}\n")
    where, _, words = said.partition(": ImageStream ")
    assert words.partition(": ")[2] == fault
    assert where.startswith("f.yaml: document 1")


@pytest.mark.parametrize(
    "spec",
    [
        {"lookupPolicy": {"local": False}, "tags": None},
        {"tags": [tag(generation=None, annotations=None, importPolicy={}, referencePolicy={"type": "Local"})]},
        {
            "tags": [
                tag("a", "b", "ImageStreamTag"),
                tag("c", f"b@{DIGEST}", "ImageStreamImage"),
                {"name": "d", "from": None},
            ]
        },
        {"dockerImageRepository": "registry.example:5000/a/b"},
        {"dockerImageRepository": ""},
        {"tags": [{"name": "a", "from": {"kind": "DockerImage", "name": "x", "apiVersion": "v1", "uid": ""}}]},
        {},
        None,
    ],
)
def test_streams_that_it_takes(spec):
    assert names(read({**stream(), "spec": spec})) == ["default/web"]


def test_a_fault_in_a_list_names_its_line():
    text = f"apiVersion: v1\nkind: List\nitems:\n- {json.dumps(stream())}\n- {json.dumps(stream(tag('1', ''), name='b'))}\n"
    assert faults(text) == (
        (
            "f.yaml: document 1, line 5: ImageStream b: spec.tags[0].from.name is missing; name the source, such as "
            "quay.io/team/app:1.2 for a DockerImage"
        ),
    )


def test_a_stream_that_is_given_twice():
    assert faults(yaml.dump_all([stream(), stream(api="imagestreams.dev/v1")])) == (
        (
            "f.yaml: document 2: ImageStream web of namespace default is given twice, first in f.yaml: document 1; "
            "keep one of the two"
        ),
    )


def test_all_faults_are_told_and_no_end_of_them_is():
    text = yaml.dump({"apiVersion": "v1", "kind": "List", "items": [stream(tag(""), name=f"s{n}") for n in range(500)]})
    with pytest.raises(InvalidManifests) as caught:
        read(text)
    assert len(str(caught.value).splitlines()) == 21


# ---- hostile input ----


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 200_000, id="brackets"),
        pytest.param("- " * 100_000, id="dashes"),
        pytest.param("{a: " * 100_000, id="mappings"),
        pytest.param('{"a":' * 100_000, id="JSON"),
        pytest.param('{"a":' * 500 + "1" + "}" * 500, id="JSON that Python reads"),
        pytest.param("? " * 100_000, id="complex keys"),
    ],
)
def test_deep_nesting(text):
    assert "nested more than 100 deep" in faults(text)[0]


def test_aliases_that_multiply():
    levels = "".join(f"a{n}: &a{n} {{{', '.join(f'k{k}: *a{n - 1}' for k in range(10))}}}\n" for n in range(1, 30))
    text = f"a0: &a0 {{x: y}}\n{levels}apiVersion: {API}\nkind: ImageStream\nmetadata: {{name: a, annotations: *a29}}\n"
    assert any("annotations.k0 is a mapping, not a text" in fault for fault in faults(text))


def test_lists_of_one_alias():
    item = json.dumps(stream(*(tag(f"t{n}") for n in range(2000))))
    text = f"x: &x {item}\napiVersion: v1\nkind: List\nitems: [{', '.join(['*x'] * 20_000)}]\n"
    assert len(faults(text)) == 21


def test_lists_in_lists_without_end():
    inner: dict[str, Any] = stream()
    for _ in range(6):
        inner = {"apiVersion": "v1", "kind": "List", "items": [inner]}
    assert faults(yaml.dump(inner)) == ("f.yaml: document 1, line 10: lists are nested too deeply",)


@pytest.mark.parametrize(
    "given",
    [
        stream(tag("a", "x\x1b[2Jy z")),
        stream(name="a\x1b[2Jb"),
        {"apiVersion": "v1", "kind": "\x1b[2J"},
        stream(api="\x1b[2J"),
    ],
)
def test_words_that_would_steer_a_terminal(given):
    with pytest.raises(InvalidManifests) as caught:
        read(given)
    assert "\x1b" not in str(caught.value)


def test_a_number_of_too_many_digits():
    assert faults('{"a": ' + "9" * 5000 + "}")[0].endswith("only ImageStreams are resolved")
    assert "no valid JSON: a number that is too long" in faults('{"a": ' + "9" * 5000 + ',\n\t"b" 1}')[0]


# ---- files ----


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b.yaml").write_text(yaml.dump(stream(name="b")))
    (tmp_path / "a.json").write_text(json.dumps(stream(name="a")))
    (tmp_path / "notes.txt").write_text("no manifest")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.yml").write_text(yaml.dump(stream(name="c")))
    (tmp_path / "deep" / "back").symlink_to(tmp_path)
    return tmp_path


def load(*given: object, recursive: bool = False, stdin: bytes = b"") -> list[str]:
    found = read_manifests(
        list(map(str, given)), recursive=recursive, namespace="n", read_stdin=lambda most: stdin[:most]
    )
    return [manifest.stream.key.name for manifest in found.streams]


def test_directories_and_files(folder):
    assert load(folder) == ["a", "b"]
    assert load(folder, recursive=True) == ["a", "b", "c"]
    assert load(folder / "deep" / "c.yml", folder / "b.yaml", folder / "b.yaml") == ["c", "b"]


def test_the_standard_input():
    assert load("-", stdin=yaml.dump(stream()).encode()) == ["web"]


def test_a_file_may_have_any_name_where_it_is_named(folder):
    with pytest.raises(InvalidManifests, match=r"notes\.txt: document 1: \"no manifest\" is no object"):
        load(folder / "notes.txt")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.yaml", "nowhere.yaml: cannot be read: No such file or directory"),
        ("https://example.com/a.yaml", "https://example.com/a.yaml: is no file; fetch it first"),
    ],
)
def test_files_that_are_none(name, words):
    with pytest.raises(InvalidManifests) as caught:
        load(name)
    assert caught.value.problems[0].startswith(words)


def test_a_directory_without_manifests(tmp_path):
    with pytest.raises(InvalidManifests) as caught:
        load(tmp_path)
    assert caught.value.problems[0].endswith(
        "holds no file that ends in .json, .yaml, .yml; -R looks into its directories as well"
    )


def test_what_is_no_text_and_what_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "_MAX_FILE", 100)
    (tmp_path / "a.yaml").write_bytes(b"a: b\nc: \xff\n")
    (tmp_path / "b.yaml").write_bytes(b"#" * 101)
    with pytest.raises(InvalidManifests) as caught:
        load(tmp_path)
    assert [problem.removeprefix(str(tmp_path)) for problem in caught.value.problems] == [
        "/a.yaml: document 1, line 2: no text in UTF-8",
        "/b.yaml: document 1: larger than 0 MiB",
    ]


def test_all_files_are_read_before_anything_is_said(folder):
    (folder / "b.yaml").write_text("a: [")
    with pytest.raises(InvalidManifests) as caught:
        load(folder, "-", "-", stdin=b"kind: [")
    assert len(caught.value.problems) == 3


# ---- the schema, said twice ----


CRD = yaml.safe_load((ROOT / "crds/imagestreams.yaml").read_text())
WHOLE = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SCHEMA = WHOLE["properties"]["spec"]
FROM = SCHEMA["properties"]["tags"]["items"]["properties"]["from"]


def described(schema: dict[str, Any], path: str = "spec") -> dict[str, Any]:
    """What the CRD says of each field below `spec`, in the form of `known`."""
    found = {
        path: (
            schema["type"],
            schema.get("nullable", False),
            schema.get("maxLength", schema.get("maxItems", 0)),
            schema.get("pattern", ""),
            tuple(schema.get("enum", ())),
        )
    }
    for name, child in schema.get("properties", {}).items():
        found |= described(child, f"{path}.{name}")
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if inner:
            found |= described(inner, f"{path}[]")
    return found


def known(field: Field, path: str = "spec") -> dict[str, Any]:
    found = {path: (field.kind, field.nullable, field.longest, field.pattern, field.options)}
    for name, child in (field.fields or {}).items():
        found |= known(child, f"{path}.{name}")
    return found | known(field.items, f"{path}[]") if field.items else found


def test_what_is_said_here_of_the_schema_is_what_the_crd_says():
    assert known(SPEC) == described(SCHEMA)


def test_the_rules_of_names_are_the_crds():
    """Those that are said here are there, and none is there that is not said here."""
    ours = {rule.pattern for rules in manifests._NAME_RULES.values() for rule in rules}
    rules = FROM["properties"]["name"]["x-kubernetes-validations"] + FROM["x-kubernetes-validations"]
    theirs = {
        pattern.replace("\\\\", "\\")
        for rule in rules
        for pattern in re.findall(r"""self(?:\.name)?\.(?:matches|contains)\((?:'|")(.+?)(?:'|")\)""", rule["rule"])
    }
    assert ours == theirs


def test_a_streams_name_is_the_crds():
    [rule] = WHOLE["x-kubernetes-validations"]
    assert f"self.metadata.name.matches('{NAME.pattern}')" in rule["rule"]
    assert NAME.longest == WHOLE["properties"]["metadata"]["properties"]["name"]["maxLength"]


def test_a_repositorys_rules_are_the_crds():
    ours = {part for rule in manifests._REPOSITORY_RULES for part in rule.pattern.split("|")}
    rules = SCHEMA["properties"]["dockerImageRepository"]["x-kubernetes-validations"]
    found = [re.findall(r"""(?:matches|contains)\((?:'|")(.+?)(?:'|")\)""", rule["rule"]) for rule in rules]
    assert ours == {pattern.replace("\\\\", "\\") for patterns in found for pattern in patterns}


def test_the_kinds_of_a_source_are_the_crds():
    [rule] = FROM["properties"]["kind"]["x-kubernetes-validations"]
    assert rule["rule"] == f"self == '' || self in {list(manifests._FROM_KINDS)}"


def rules_of(schema: dict[str, Any], path: str = "") -> dict[str, tuple[int, list[str]]]:
    """How many rules each part of the CRD has, and which fields it must have."""
    count, required = len(schema.get("x-kubernetes-validations", ())), schema.get("required", [])
    found = {path: (count, required)} if count or required else {}
    for name, child in schema.get("properties", {}).items():
        found |= rules_of(child, f"{path}.{name}")
    return found | (rules_of(schema["items"], f"{path}[]") if "items" in schema else {})


def test_the_crd_has_no_rule_that_is_not_said_here():
    """Who adds one: say it in `manifests`, then count it here."""
    found = rules_of(WHOLE)
    assert {path: rule for path, rule in found.items() if not path.startswith(".status")} == {
        "": (1, []),
        ".spec.dockerImageRepository": (3, []),
        ".spec.tags[]": (1, ["name"]),
        ".spec.tags[].from": (7, []),
        ".spec.tags[].from.kind": (1, []),
        ".spec.tags[].from.name": (2, []),
    }


@pytest.mark.parametrize("name", ["latest\n", "\n", "late\u00e9"])
def test_a_pattern_ends_where_the_servers_does(name):
    """Go's `$` is the end, Python's also the place before the last line break."""
    [words] = faults(stream(tag(name)))
    assert "is no tag" in words


def test_every_export_of_openshift_is_taken():
    exports = sorted((ROOT / "tests/config/openshift").glob("*.*"))
    assert exports
    for path in exports:
        assert read_manifests([str(path)], recursive=False, namespace="default").streams
