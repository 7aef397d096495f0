"""Kubectl's template language: what kubectl prints, we print."""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dev import binaries
from imagestreams.cli.jsonpath import DoesNotFit, InvalidTemplate, evaluate, find, parse

if TYPE_CHECKING:
    from collections.abc import Callable

OBJECT: dict[str, Any] = {
    "apiVersion": "image.openshift.io/v1",
    "kind": "ImageStream",
    "metadata": {
        "name": "web",
        "namespace": "shop",
        "generation": 3,
        "labels": {"app": "web", "app.kubernetes.io/name": "<web> & \u2028 more", "üml": "ä"},
    },
    "spec": {
        "lookupPolicy": {"local": False},
        "tags": [
            {"name": "latest", "n": 3, "from": {"kind": "DockerImage", "name": "quay.io/acme/web"}},
            {"name": "1", "n": 4, "f": 1.5, "x": None, "ok": True, "deep": {"k": [1, 2, 3]}, "q": 'a"b'},
            {"name": "two words", "n": -5, "f": 1e21, "e": [], "m": {}, "small": 0.00000025, "big": 123456789.5},
        ],
        "two": [[3], [1, 2]],
        "one": [{"name": "only", "list": [[1, 2], [3]]}],
        "texts": ["a", "b", "c", "d", "e"],
        "none": None,
        "empty": [],
        "multi": "line one\nline two\ttab",
    },
}

# What each finds is kubectl's word: `test_the_table_is_kubectls` asks it.
TEMPLATES = [
    ("", ""),
    ("plain text", "plain text"),
    ("{.metadata.name}", "web"),
    ("{ .metadata.name }", "web"),
    ("{$.metadata.name}", "web"),
    ("{@.metadata.name}", "web"),
    ("a{.metadata.name}b{.kind}c", "awebbImageStreamc"),
    ("{.metadata.name}{.metadata.gone}{.gone.gone}", "web"),
    ("{.metadata['name']}", "web"),
    ("{['metadata'].name}", "web"),
    ("{.metadata['name','namespace']}", "web shop"),
    (r"{.metadata.labels.app\.kubernetes\.io/name}", "<web> & \u2028 more"),
    (r"{.metadata.labels['app\.kubernetes\.io/name']}", "<web> & \u2028 more"),
    ("{.metadata.labels['app.kubernetes.io/name']}", ""),
    ("{.metadata.labels.üml}", "ä"),
    (
        "{.metadata.labels}",
        r'{"app":"web","app.kubernetes.io/name":"\u003cweb\u003e \u0026 \u2028 more","üml":"ä"}',
    ),
    ("{.metadata.generation}", "3"),
    ("{.spec.lookupPolicy.local}", "false"),
    ("{.spec.none}", "null"),
    ("{.spec.none.gone}", ""),
    ("{.spec.empty}", "[]"),
    ("{.spec.multi}", "line one\nline two\ttab"),
    ("{.spec.tags[0].name}", "latest"),
    ("{.spec.tags[-1].name}", "two words"),
    ("{.spec.tags[-2].name}", "1"),
    ("{.spec.tags[*].name}", "latest 1 two words"),
    ("{.spec.tags[0:2].name}", "latest 1"),
    ("{.spec.tags[1:].name}", "1 two words"),
    ("{.spec.tags[:-1].name}", "latest 1"),
    ("{.spec.tags[-2:].name}", "1 two words"),
    ("{.spec.texts[::2]}", "a c e"),
    ("{.spec.texts[1:4:2]}", "b d"),
    ("{.spec.texts[2:2]}", ""),
    ("{.spec.texts[]}", "a"),
    ("{.spec.texts[0,2,-1]}", "a c e"),
    ("{.spec.texts[*]}", "a b c d e"),
    ("{.spec.texts}", '["a","b","c","d","e"]'),
    ("{.spec.two[*][0:]}", "3 1 2"),
    ("{.spec.two[*][1:]}", ""),  # one that has nothing ends it
    ("{.spec.one[*].list[*]}", "[1,2] [3]"),
    ("{.spec.one[*].list[*][*]}", "1 2 3"),
    ("{.spec.tags[1].deep}", '{"k":[1,2,3]}'),
    ("{.spec.tags[1].q}", 'a"b'),
    ("{.spec.tags[*].f}", "1.5 1e+21"),
    ("{.spec.tags[2]['small','big']}", "2.5e-07 1.234567895e+08"),
    (
        "{.spec.tags[2]}",
        '{"big":123456789.5,"e":[],"f":1e+21,"m":{},"n":-5,"name":"two words","small":2.5e-7}',
    ),
    ("{.spec.one[0].*}", None),  # in Go's random order
    ("{.spec.lookupPolicy.*}", "false"),
    ("{.metadata.name.*}", "119 101 98"),
    ("{.spec.one..name}", "only"),
    ("{..local}", "false"),
    ("{.spec.tags..kind}", "DockerImage"),
    ("{.spec.one[0].list..[0]}", "[1,2] 1 3"),
    ('{.spec.tags[?(@.name=="latest")].n}', "3"),
    ("{.spec.tags[?(@.name=='latest')].n}", "3"),
    ('{.spec.tags[?(@.name == "two words")].n}', "-5"),
    ('{.spec.tags[?(@.name!="latest")].name}', "1 two words"),
    ("{.spec.tags[?(@.n>3)].name}", "1"),
    ("{.spec.tags[?(@.n>=3)].name}", "latest 1"),
    ("{.spec.tags[?(@.n<3)].name}", "two words"),
    ("{.spec.tags[?(@.n<=3)].name}", "latest two words"),
    ("{.spec.tags[?(@.n==-5)].name}", "two words"),
    ("{.spec.tags[?(@.f==1.5)].name}", "1"),
    ("{.spec.tags[?(@.ok==true)].name}", "1"),
    ("{.spec.tags[?(@.from)].name}", "latest"),
    ("{.spec.tags[?(@.x)].name}", "1"),
    ("{.spec.tags[?(@.e[4])].name}", "two words"),
    ('{.spec.tags[?(@.from.kind=="DockerImage")].from.name}', "quay.io/acme/web"),
    ('{.spec.texts[?(@=="b")]}', "b"),
    ('{.spec.texts[?(@>"b")]}', "c d e"),
    ('{.spec.tags[?(@.gone=="b")]}', ""),
    ('{.spec.tags[?(@.q=="a\\"b")].name}', "1"),
    ("{.spec.tags[?(@.deep.k[0]==1)].name}", "1"),
    ('{range .spec.tags[*]}{.name}={.n}{"\\n"}{end}', "latest=3\n1=4\ntwo words=-5\n"),
    ("{range .spec.tags[*]}[{.name}]{end}{.kind}", "[latest][1][two words]ImageStream"),
    ("{range .spec.one[*].list[*]}({range [*]}{@},{end}){end};", "(1,2,)(3,);"),
    ("{range .spec.empty[*]}{.name}{end}after {.kind}", "after ImageStream"),
    ("{range .gone[*]}x{range .y[*]}z{end}{end}after", "after"),
    ("{range .spec.texts[*]}{@}", None),  # the body once more, for the whole object
    ('{"\\t\\"quoted\\" \\u00e4 \\x41 \\101 \\\\ \\n"}', '\t"quoted" ä A A \\ \n'),
    ("{'single'}{'it\\'s'}", "singleit's"),
    ("{'a}b'}", "a}b"),
    ('{"say"} {"{braces}"}', "say {braces}"),
    ("{1}{2.5}{-3}{+4}{true}{false}", "12.5-34truefalse"),
    ("{}", None),  # the whole object, to which kubectl has added nothing
    ("closing } alone", "closing } alone"),
    ("{.spec.tags[0].from.name}:{.spec.tags[0].name}", "quay.io/acme/web:latest"),
]

REFUSED = [
    ("{", "unclosed action"),
    ("{.metadata.name", "unclosed action"),
    ("{.metadata\n}", "unclosed action"),
    ("{.spec.tags[0}", "unterminated array"),
    ("{.spec.tags[x]}", "invalid array index x"),
    ('{.spec.tags["name"]}', 'invalid array index "name"'),
    ("{.spec.tags[1:2:3:4]}", "invalid array index 1:2:3:4"),
    ("{.spec.tags[-]}", "array index - is not a number"),
    ("{#}", "unrecognized character in action: U+0023 '#'"),
    ("{(1)}", "unrecognized character in action: U+0028 '('"),
    ('{"open}', "unterminated quoted string"),
    ('{"bad \\q"}', 'unquote string "bad \\q" error invalid syntax'),
    ("{.spec.tags[?(@.name=='x'].n}", "unterminated filter"),
    ("{.spec.tags[?(@.name=='x') ].n}", "unclosed array expect ]"),
    ("{......}", "invalid multiple recursive descent"),
    ("{1.2.3}", "cannot parse number 1.2.3"),
    ("{-}", "cannot parse number -"),
]

UNFIT = [
    ("{.spec.tags[7].name}", "array index out of bounds: index 7, length 3"),
    ("{.spec.tags[-4]}", "array index out of bounds: index -1, length 3"),
    ("{.spec.tags[0:9]}", "array index out of bounds: index 8, length 3"),
    ("{.spec.tags[2:1]}", "starting index 2 is greater than ending index 1"),
    ("{.spec.tags[0:2:0]}", "step must be > 0"),
    ("{.metadata[0]}", "map[string]interface {} is not array or slice"),
    ("{.metadata.name[0]}", "string is not array or slice"),
    ("{.metadata.generation[*]}", "int64 is not array or slice"),
    ("{.spec.tags[1].f[0]}", "float64 is not array or slice"),
    ("{.spec.tags[1].ok[0]}", "bool is not array or slice"),
    ('{.spec.lookupPolicy[?(@.a=="b")]}', "map[local:false] is not array or slice and cannot be filtered"),
    ("{.kind[?(@.a)]}", "ImageStream is not array or slice and cannot be filtered"),
    ('{.spec.tags[?(@.n=="3")]}', "incompatible types for comparison"),
    ("{.spec.tags[?(@.f==1)]}", "incompatible types for comparison"),
    ("{.spec.tags[?(@.x==1)]}", "invalid type for comparison"),
    ("{.spec.tags[?(@.ok>false)]}", "invalid type for comparison"),
    ("{.spec.tags[?(@.deep.k[*]==1)]}", "can only compare one element at a time"),
    ("{.spec.tags[?(@.n=>3)]}", "unrecognized filter operator =>"),
    ("{end}", "not in range, nothing to end"),
    ("{metadata.name}", "unrecognized identifier metadata"),
]


@pytest.mark.parametrize(("template", "text"), [row for row in TEMPLATES if row[1] is not None])
def test_what_a_template_prints(template, text):
    assert evaluate(parse(template), OBJECT) == text


@pytest.mark.parametrize(("template", "message"), REFUSED)
def test_a_template_that_cannot_be_read(template, message):
    with pytest.raises(InvalidTemplate) as caught:
        parse(template)
    assert str(caught.value) == message


@pytest.mark.parametrize(("template", "message"), UNFIT)
def test_a_template_that_does_not_fit(template, message):
    parsed = parse(template)
    with pytest.raises(DoesNotFit) as caught:
        evaluate(parsed, OBJECT)
    assert str(caught.value) == message


def test_each_part_by_itself():
    assert find(parse("{.metadata.name}x{.spec.texts[0:2]}"), OBJECT) == [["web"], ["x"], ["a", "b"]]


def test_nothing_is_nested_without_end():
    deep: Any = None
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(DoesNotFit, match="nested too deeply"):
        evaluate(parse("{..x}"), {"a": deep})
    nested = "@"
    for _ in range(200):
        nested = f"@[?({nested})]"
    with pytest.raises(InvalidTemplate):
        parse(f"{{{nested}}}")


# ---- kubectl itself ----


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Kubectl's answer to a template for OBJECT, without a server."""
    program = binaries.find("kubectl")
    if program is None:
        pytest.skip("kubectl is not built: python -m dev.binaries kubectl")
    file = tmp_path_factory.mktemp("jsonpath") / "object.json"
    file.write_text(json.dumps(OBJECT))

    def run(template: str) -> subprocess.CompletedProcess[str]:
        # A label that the object has already: what else `--local` allows adds something.
        command = [program, "label", "--local", "-f", file, "--overwrite", "app=web", "-o", f"jsonpath={template}"]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=30, env={"KUBECONFIG": "/dev/null"}
        )

    return run


@pytest.mark.parametrize(("template", "text"), TEMPLATES)
def test_the_table_is_kubectls(kubectl, template, text):
    done = kubectl(template or "{''}")
    assert done.returncode == 0, done.stderr
    mine = evaluate(parse(template), OBJECT)
    if text is None:
        assert sorted(mine) == sorted(done.stdout)
    else:
        assert mine == done.stdout


@pytest.mark.parametrize(("template", "message"), REFUSED)
def test_the_refusals_are_kubectls(kubectl, template, message):
    done = kubectl(template)
    assert done.returncode == 1
    assert done.stderr == f"error: error parsing jsonpath {template}, {message}\n"


@pytest.mark.parametrize(("template", "message"), UNFIT)
def test_what_does_not_fit_does_not_for_kubectl(kubectl, template, message):
    done = kubectl(template)
    assert done.returncode == 1
    assert f"Error executing template: {message}. Printing more information" in done.stderr


# ---- any ----

_TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4),
    max_leaves=20,
)


@given(st.text(st.sampled_from("{}[].*?()@='\"abc019-: ,\\nrange end<>$!"), max_size=40), _TREES)
def test_any_template_prints_or_says_why_not(template, tree):
    with contextlib.suppress(InvalidTemplate, DoesNotFit):
        assert isinstance(evaluate(parse(template), tree), str)


@given(_TREES)
def test_the_whole_object_is_json(tree):
    text = evaluate(parse("{.a}"), {"a": {"b": tree}})
    assert json.loads(text) == {"b": tree}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_mean_what_they_were(number):
    assert float(evaluate(parse("{.a}"), {"a": number})) == number
    [written] = json.loads(evaluate(parse("{.a}"), {"a": [number]}))
    assert float(written) == number
