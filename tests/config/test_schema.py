"""What the CRD promises that no single request to a server would show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from imagestreams import settings
from imagestreams.core import reference, stream

if TYPE_CHECKING:
    from collections.abc import Iterator

CRD = yaml.safe_load((Path(__file__).parents[2] / "crds/imagestreams.yaml").read_text())
(VERSION,) = CRD["spec"]["versions"]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]

# openshift/api, image/v1/types.go: ImageStream, TagReference, TagImportPolicy, TagReferencePolicy, NamedTagEventList,
# TagEvent, TagEventCondition; and core/v1 ObjectReference.
OPENSHIFT = {
    "spec": "lookupPolicy dockerImageRepository tags",
    "spec.lookupPolicy": "local",
    "spec.tags": "name annotations from reference generation importPolicy referencePolicy",
    "spec.tags.from": "kind namespace name uid apiVersion resourceVersion fieldPath",
    "spec.tags.importPolicy": "insecure scheduled importMode",
    "spec.tags.referencePolicy": "type",
    "status": "dockerImageRepository publicDockerImageRepository tags",
    "status.tags": "tag items conditions",
    "status.tags.items": "created dockerImageReference image generation platforms",
    "status.tags.conditions": "type status lastTransitionTime reason message generation",
}

# What Go clients write null for, and what a template leaves without a value.
NULLS = """
    spec spec.lookupPolicy spec.tags spec.tags.annotations spec.tags.from spec.tags.generation spec.tags.importPolicy
    spec.tags.referencePolicy status.tags.items status.tags.items.created status.tags.items.platforms
    status.tags.conditions status.tags.conditions.lastTransitionTime
"""


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field below `schema` by its path; a list's elements have the list's path."""
    for name, child in schema.get("properties", {}).items():
        where = f"{path}.{name}".lstrip(".")
        yield where, child
        yield from fields(child, where)
    if "items" in schema:
        yield from fields(schema["items"], path)


FIELDS = dict(fields(SCHEMA))


@pytest.mark.parametrize("path", [f"{path}.{name}" for path, names in OPENSHIFT.items() for name in names.split()])
def test_every_field_of_openshift_is_listed(path):
    assert path in FIELDS


def test_kubectl_explain_has_words_for_every_field():
    assert [path for path, field in FIELDS.items() if path != "metadata" and not field.get("description")] == []


def test_there_are_no_defaults():
    assert [path for path, field in FIELDS.items() if "default" in field] == []


@pytest.mark.parametrize("path", NULLS.split())
def test_null_is_allowed_where_manifests_have_it(path):
    assert FIELDS[path]["nullable"]


def test_lists_are_merged_as_they_are_meant_to():
    kinds = {path: field["x-kubernetes-list-type"] for path, field in FIELDS.items() if field.get("type") == "array"}
    assert kinds == {
        "spec.tags": "map",
        "status.conditions": "map",
        "status.tags": "atomic",
        "status.tags.items": "atomic",
        "status.tags.items.platforms": "atomic",
        "status.tags.conditions": "atomic",
    }


def test_delete_all_spares_the_streams():
    assert "categories" not in CRD["spec"]["names"]


def test_the_group_is_the_one_that_the_settings_have_by_default():
    assert (CRD["spec"]["group"], VERSION["name"]) == (settings.DEFAULT_GROUP, settings.VERSION)


def written(struct: type, path: str) -> Iterator[str]:
    """The paths of what we write of `struct`."""
    for field in msgspec.structs.fields(struct):
        where = f"{path}.{field.encode_name}"
        yield where
        inner = msgspec.inspect.type_info(field.type)
        for option in getattr(inner, "types", (inner,)):
            element = getattr(option, "item_type", option)
            if cls := getattr(element, "cls", None):
                yield from written(cls, where)


def test_every_field_of_status_that_we_write_is_listed():
    ours = set(written(stream.Status, "status"))
    assert "status.tags.observed.from.kind" in ours
    assert sorted(ours - FIELDS.keys()) == []


# --- patterns, which are RE2's there and Python's here; none of them holds what the two read differently --------------


def patterns(rules: list[dict[str, Any]], begin: str) -> list[re.Pattern[str]]:
    """What the rules that contain `begin` match their text against."""
    found = [re.search(r"matches\('(.*)'\)", each["rule"]) for each in rules if begin in each["rule"]]
    return [re.compile(each[1].replace("\\\\", "\\")) for each in found if each]


SLIPS = patterns(FIELDS["spec.tags.from"]["x-kubernetes-validations"], "'DockerImage' ||")
(NAME,) = patterns(SCHEMA["x-kubernetes-validations"], "metadata.name")
(TAGGED,) = patterns(FIELDS["spec.dockerImageRepository"]["x-kubernetes-validations"], "'@'")
PARTS = [
    "a",
    "A",
    "0",
    ".",
    "-",
    "_",
    "__",
    ":",
    "/",
    "@",
    "sha256:",
    "f" * 32,
    "f" * 31,
    "t" * 128,
    "\n",
    " ",
    "é",
    "",
]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=9).map("".join)


@given(TEXTS)
def test_no_image_that_the_controller_takes_is_refused(text):
    if reference._REFERENCE.fullmatch(text):
        assert not [slip for slip in SLIPS if slip.search(text)]


@pytest.mark.parametrize(
    "text",
    """
    foo bar/foo/baz:t docker.io/foo bar:5000/baz quay.io/a/b/c:t foo@sha256:{hex} h:5000/n:t@sha256:{hex} sha256:{hex}
    quay.io localhost:5000 my.image:1.0 Foo/bar foo@sha256:{HEX} a--b a__b foo:A_.- foo@x+y:{hex} Q.io:5/a:B@x:{HEX}
    """.format(hex="0a" * 32, HEX="0A" * 32).split(),
)
def test_an_image_is_taken(text):
    assert not [slip for slip in SLIPS if slip.search(text)]


@pytest.mark.parametrize(
    "text",
    """
    foo/Bar FOO FOO:1 Foo@x q.io/a/B:t -foo .foo foo: foo@ foo/ /foo x////y @x:y :tag [::1]:5000/x a,b é a/-b a-/b
    """.split(),  # noqa: SIM905 (as a list it is a page)
)
def test_a_slip_is_named_once(text):
    assert len([slip for slip in SLIPS if slip.search(text)]) == 1


@given(TEXTS)
def test_a_repository_with_tag_or_digest_is_told_from_one_without(text):
    try:
        parsed = reference.ImageReference.parse(text)
    except reference.InvalidReference:
        return
    if parsed.name:
        assert bool(parsed.tag or parsed.digest) == bool("@" in text or TAGGED.search(text))


@pytest.mark.parametrize(
    ("name", "is_valid"),
    [
        *((name, True) for name in ("a", "web", "my-app", "my.app", "3scale", "a_b", "a" * 253)),
        *((name, False) for name in ("", "a--b", "a..b", "a.-b", "-a", "a-", "a.", "Web", "a/b", "a:b", "a\n", "a__b")),
    ],
)
def test_a_streams_name(name, is_valid):
    assert bool(NAME.fullmatch(name)) is is_valid


@given(TEXTS)
def test_a_streams_name_can_be_part_of_a_repositorys(name):
    if NAME.fullmatch(name) and len(name) < 200:
        assert reference.ImageReference.parse(f"registry.example.com/shop/{name}").name == name
