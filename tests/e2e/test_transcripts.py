"""Each page of docs/commands, typed again; and the rules by which two printings are the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.shop import HOST, NAMESPACES, USER, Shop, container, release
from tests.e2e.transcripts import VARIES, Page, canonical, differences, replay

COMMANDS = ROOT / "docs" / "commands"
PAGES = sorted(path for path in COMMANDS.glob("*.md") if path.name != "README.md")


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with Shop() as shop:
        yield shop


@pytest.mark.cluster
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_page_shows_what_is_printed(shop: Shop, path: Path):
    page = Page.parse(path.read_text())
    shop.begin()
    different = differences(page, replay(page, shop))
    assert not different, "\n".join([f"python -m tests.e2e.transcripts --write {path.relative_to(ROOT)}", *different])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_is_a_title_a_paragraph_and_a_transcript_of_its_command(path: Path):
    page = Page.parse(path.read_text())
    title, paragraph, fence, end = page.before.split("\n\n") + [""] * (4 - page.before.count("\n\n") - 1)
    assert title == f"# imagestreams {path.stem}"
    assert paragraph
    assert (fence, end) == ("```console\n", "")
    assert page.after == "```\n"
    assert any(re.search(rf"\bimagestreams {re.escape(path.stem)}\b", step.command) for step in page.steps)


def test_the_words_about_the_world_are_true():
    text = (COMMANDS / "README.md").read_text()
    for word in (HOST, USER, *NAMESPACES, release("1.0").digest, release("1.1").digest):
        assert word in text
    for path in PAGES:
        assert f"]({path.name})" in text


def test_images_are_the_same_bytes_everywhere():
    assert container("1.0").digest == "sha256:5df1981ca5f141337a5e7abc177bb57234d538681b5ea2034eb777ddd60e7235"
    assert release("1.0").digest == "sha256:3229155d9c06e7051b2dd9add6e4b667614aaf208dfa57705b3e687dc21dc971"


SAME = [
    pytest.param("Created 2026-11-24T00:03:08Z", "Created 2027-01-02T10:30:00.123456Z", id="times"),
    pytest.param("on Sun, 23 Nov 2025 23:59:53 +0000", "on Mon, 24 Nov 2025 00:00:01 +0000", id="dates"),
    pytest.param("NAME  AGE\nweb   9s\n", "NAME   AGE\nweb    2m10s\n", id="ages at the end, columns that move"),
    pytest.param("NAME  AGE  READY\nweb   9s   True", "NAME  AGE   READY\nweb   100s  True", id="ages between"),
    pytest.param("tag stable moved 9s ago", "tag stable moved 12s ago", id="ages in words"),
    pytest.param("  Normal  9s (x2 over 30s)  words", "  Normal  1s (x3 over 1m2s)  words", id="events"),
    pytest.param('resourceVersion: "12"', 'resourceVersion: "3456"', id="resource versions"),
    pytest.param("  Resource Version:    12", "  Resource Version:    3456", id="described resource versions"),
    pytest.param('"uid": "8e2a9cb4-68aa-4ccb-b20f-e5a1c069b4f6"', '"uid": "00b1ba49-0b18-4471-bd98-23b65dd70c72"'),
    pytest.param("imagestreamimports/web-x2b4z", "imagestreamimports/web-9cqwt", id="generated names"),
    pytest.param("served.imagestreams.dev/web: 9f244f91269f95c0", "served.imagestreams.dev/web: 0123456789abcdef"),
    pytest.param("imagestreams.dev/refresh: 9f244f91269f95c0 a", "imagestreams.dev/refresh: 0123456789abcdef a"),
    pytest.param("imagestreams.dev/refresh=9f244f91269f95c0 a", "imagestreams.dev/refresh=0123456789abcdef a"),
    pytest.param("    refresh: 9f244f91269f95c0 a", "    refresh: 0123456789abcdef a", id="handled requests"),
    pytest.param("GET /apis 200 in 9 ms", "GET /apis 200 in 12.5 ms", id="milliseconds"),
    pytest.param("words   ", "words", id="spaces at the end"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_varies_is_the_same(one: str, other: str):
    assert canonical(one) == canonical(other)


def test_each_rule_is_needed():
    """Without it one of the pairs would differ."""
    pairs = [param.values for param in SAME]
    for varies in VARIES:
        assert any(re.search(varies.pattern, str(text), re.MULTILINE) for pair in pairs for text in pair), varies
        assert varies.reason


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("deployment web held", "deployment web updated", id="words"),
        pytest.param("web  True", "web  False", id="cells"),
        pytest.param("sha256:" + "1" * 64, "sha256:" + "2" * 64, id="digests"),
        pytest.param("sha256:3229155d9c06", "sha256:59dc1b442141", id="short digests"),
        pytest.param("Created  2024-01-01T00:00:00Z", "Created  2024-01-02T00:00:00Z", id="an image's own time"),
        pytest.param("wait at most 30s for it", "wait at most 25s for it", id="a limit is no age"),
        pytest.param("--timeout=30s", "--timeout=25s", id="nor is a flag's value"),
        pytest.param("web-blank", "web-front", id="names that are words"),
        pytest.param("imagestreams.dev/refresh: 9f244f91269f95c0 a", "imagestreams.dev/refresh: 9f244f91269f95c0 b"),
        pytest.param("served.imagestreams.dev/web: 9f244f91269f95c0", "served.imagestreams.dev/log: 9f244f91269f95c0"),
        pytest.param("served.imagestreams.dev/web: none", "served.imagestreams.dev/web: some", id="no hash"),
        pytest.param("moved long ago", "moved days ago", id="words before ago"),
        pytest.param("  web", "    web", id="indents"),
        pytest.param("a web", "a  web", id="one space or a column"),
        pytest.param("one\ntwo", "one\n\ntwo", id="empty lines"),
        pytest.param("generation: 1", "generation: 2", id="generations"),
        pytest.param("tags: 2 of 3", "tags: 3 of 3", id="counts"),
        pytest.param("web  <none>", "web  3s", id="no age at all"),
    ],
)
def test_all_else_differs(one: str, other: str):
    assert canonical(one) != canonical(other)


PAGE = """# imagestreams get

Words.

```console
$ one
out
$ cat <<EOF
> two
> EOF
two
```
"""


def test_a_page_is_read_and_printed_back():
    page = Page.parse(PAGE)
    assert [tuple(step) for step in page.steps] == [("one\n", "out\n"), ("cat <<EOF\ntwo\nEOF\n", "two\n")]
    assert str(page) == PAGE


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("no block\n", id="no block"),
        pytest.param(PAGE + PAGE, id="two blocks"),
        pytest.param(PAGE.replace("$ one\n", ""), id="output before a command"),
        pytest.param("```console\n```\n", id="no command"),
        pytest.param(PAGE + "\n```yaml\na: b\n```\n", id="another block"),
    ],
)
def test_other_pages_are_refused(text: str):
    with pytest.raises(ValueError, match="a "):
        Page.parse(text)
