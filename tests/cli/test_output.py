"""What -o prints: kubectl's bytes where they are its formats."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dev import binaries
from imagestreams.cli.options import Failure, Misuse
from imagestreams.cli.output import as_json, as_yaml, name_of, rendered, show, with_template

if TYPE_CHECKING:
    from collections.abc import Callable

OBJECT: dict[str, Any] = {
    "kind": "ImageStream",
    "apiVersion": "image.openshift.io/v1",
    "metadata": {
        "name": "web",
        "labels": {"app": "web"},
        "annotations": {"html": "<b> & </b>", "umlaut": "ä€😀", "lines": "one\ntwo", "empty": "", "sep": "\u2028"},
        "managedFields": [{"manager": "kubectl"}],
    },
    "spec": {"tags": [{"name": "1"}, {"name": "true"}, {"name": "2024-01-01T00:00:00Z"}], "none": None, "list": []},
}


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory) -> Callable[[str], str]:
    """What kubectl prints of OBJECT, without a server."""
    program = binaries.find("kubectl")
    if program is None:
        pytest.skip("kubectl is not built: python -m dev.binaries kubectl")
    file = tmp_path_factory.mktemp("output") / "object.json"
    file.write_text(json.dumps(OBJECT))

    def run(form: str) -> str:
        command = [program, "label", "--local", "-f", file, "--overwrite", "app=web", "-o", form]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=30, env={"KUBECONFIG": "/dev/null"}
        )
        return done.stdout

    return run


@pytest.mark.parametrize(
    "form", ["json", "name", "jsonpath={.metadata.annotations}", "jsonpath-as-json={.spec.tags[*].name}"]
)
def test_it_is_kubectls_to_the_byte(kubectl, form):
    assert rendered([OBJECT], form) == kubectl(form)


def test_yaml_is_read_as_kubectls_is(kubectl):
    mine = rendered([OBJECT], "yaml")
    assert yaml.safe_load(mine) == yaml.safe_load(kubectl("yaml"))

    def keys(text: str) -> list[str]:
        return [line.partition(":")[0] for line in text.split("\n")]

    assert keys(mine) == keys(kubectl("yaml"))


def test_many_are_a_list():
    shown = json.loads(rendered([OBJECT, OBJECT], "json"))
    assert (shown["apiVersion"], shown["kind"], shown["metadata"]) == ("v1", "List", {"resourceVersion": ""})
    assert [item["metadata"]["name"] for item in shown["items"]] == ["web", "web"]
    assert json.loads(rendered([], "json"))["items"] == []
    assert json.loads(rendered([OBJECT], "json", many=True))["kind"] == "List"
    assert rendered([OBJECT, OBJECT], "jsonpath={.items[*].kind}") == "ImageStream ImageStream"
    assert rendered([OBJECT, OBJECT], "name") == "imagestream.image.openshift.io/web\n" * 2


def test_managers_are_not_shown():
    assert "managedFields" not in rendered([OBJECT], "yaml") + rendered([OBJECT], "json")


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}, "pod/a"),
        ({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}}, "deployment.apps/a"),
    ],
)
def test_names(value, name):
    assert name_of(value) == name


def test_templates_that_fail():
    with pytest.raises(Misuse) as unread:
        rendered([OBJECT], "jsonpath={.metadata")
    assert unread.value.message == "error: error parsing jsonpath {.metadata, unclosed action"
    with pytest.raises(Failure) as unfit:
        rendered([OBJECT], "jsonpath={.kind[0]}")
    words = "Error executing template: string is not array or slice."
    assert unfit.value.message == f'error: error executing jsonpath "{{.kind[0]}}": {words}'


def test_a_template_from_a_file(tmp_path):
    (tmp_path / "template").write_text('{.kind}{"\\n"}')
    assert rendered([OBJECT], with_template(f"jsonpath-file={tmp_path / 'template'}")) == "ImageStream\n"
    with pytest.raises(Misuse, match="No such file"):
        with_template(f"jsonpath-file={tmp_path / 'gone'}")
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(Misuse, match="no UTF-8"):
        with_template(f"jsonpath-file={tmp_path / 'binary'}")


HOSTILE = "\x1b[2J\x9b31m\u202e\x07\x00"


def test_nothing_of_a_stranger_steers_a_terminal(monkeypatch, capsys):
    value = {**OBJECT, "metadata": {"name": "web", "annotations": {HOSTILE: HOSTILE}}}
    for form in ("json", "yaml"):
        text = rendered([value], form)
        assert all(character == "\n" or character.isprintable() for character in text)
        assert yaml.safe_load(text)["metadata"]["annotations"] == {HOSTILE: HOSTILE}
    # A template's output is for programs, to the byte; at a terminal it is not.
    template = "jsonpath={range .metadata.annotations.*}{@}{'\\n'}{end}"
    show([value], template)
    assert capsys.readouterr().out == f"{HOSTILE}\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show([value], template)
    assert capsys.readouterr().out == " [2J 31m   \n"


_TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=15,
)


@given(_TREES)
def test_json_says_what_is_there(tree):
    text = as_json(tree)
    assert json.loads(text) == tree
    assert all(character == "\n" or character.isprintable() for character in text)


@given(st.dictionaries(st.text("ab", min_size=1), _TREES, max_size=4))
def test_yaml_says_what_is_there(tree):
    text = as_yaml(tree)
    assert yaml.safe_load(text) == tree
    assert all(character == "\n" or character.isprintable() for character in text)


def test_what_occurs_twice_is_written_twice():
    twice = {"b": ["c"]}
    assert as_yaml({"a": twice, "d": twice}) == "a:\n  b:\n  - c\nd:\n  b:\n  - c\n"


def test_output_that_nobody_reads_as_another_type():
    text = as_yaml({"a": "true", "b": "1", "c": "2024-01-01T00:00:00Z", "d": "null", "e": "x: y", "f": "", "g": "~"})
    assert text == 'a: "true"\nb: "1"\nc: "2024-01-01T00:00:00Z"\nd: "null"\ne: \'x: y\'\nf: ""\ng: "~"\n'
