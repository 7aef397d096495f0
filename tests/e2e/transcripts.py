"""The pages of docs/commands: what is typed there is typed again, and what is printed must be what they show.

    python -m tests.e2e.transcripts docs/commands/get.md            compares; ends with 1 if something differs
    python -m tests.e2e.transcripts --write docs/commands/get.md    writes into the page what is printed

A page has one console block: `$ command` lines (`> ` goes on with a command, as the shell shows it), each followed by
all that it prints, first what goes to stdout, then what goes to stderr. The world is that of `tests.e2e.shop`, made
anew for each page. A command that fails is followed by `$ echo $?`, which `--write` adds. Each is typed into a shell of
its own, which knows nothing of the one before but `$?`.

What differs from one run to the next is in the table `VARIES`, each with its reason; all else is compared to the
letter, except for spaces at the ends of lines.
"""

from __future__ import annotations

import difflib
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.e2e.shop import Shop

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ASK: Final = "echo $?\n"
_BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)


class Varies(NamedTuple):
    """Something that is not the same each time. `words` stands for what `pattern` matches, but for its group, which is
    there to say where; no pattern matches a word.
    """

    words: str
    pattern: str
    reason: str


_AGE = r"\d{1,4}[smhdy](?:\d{1,3}[smhd])?"

VARIES: Final = (
    Varies(
        "TIME",
        r"\b20(?!24-01-01T00:00:00Z)\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z",
        "when it happened; the time at which an image was made is fixed, and compared",
    ),
    Varies(
        "DATE",
        r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} 20(?!24 00:00:00)\d\d \d\d:\d\d:\d\d [+]0000\b",
        "the same, as `kubectl describe` has it",
    ),
    Varies("AGE", rf"(?:(?<=  )|^){_AGE}(?=  |$)", "how long it took to make the world: a cell of its own"),
    Varies("AGE ago", rf"\b{_AGE} ago\b", "the same, in a sentence or a cell"),
    Varies(
        "AGE (xN over AGE)",
        rf"(?<=  ){_AGE} \(x\d+ over {_AGE}\)",
        "the same, and how often an Event was told, which is as often as its causes came apart",
    ),
    Varies("resourceVersion: N", r"\b[rR]esource ?[vV]ersion\"?: *\"?\d+\"?", "counts all writes of the cluster"),
    Varies("UID", r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "made of random bits"),
    Varies(
        "xxxxx",
        r"(?<=[a-z0-9]-)[bcdfghjklmnpqrstvwxz2456789]{5}\b",
        "the end of a generated name; Kubernetes leaves vowels out, so that it is no word",
    ),
    Varies(
        "HASH",
        r"(served\.imagestreams\.dev/[a-z0-9.-]+\"?[:=] *\"?)[0-9a-f]{16}\b",
        "of a tag's event, to which its time belongs",
    ),
    Varies("NONCE", r"(\brefresh\"?[:=] *\"?)[0-9a-f]{16}\b", "how a request is told from others like it"),
    Varies("N ms", r"\b\d+(?:\.\d+)? ?ms\b", "how long a request took"),
)
"""In this order. Two spaces or more count as two where they part columns: a column is as wide as its widest age."""


class Step(NamedTuple):
    """A command, and what the page shows as its output; the end of a line is its own."""

    command: str
    shown: str


@dataclass(frozen=True)
class Page:
    """A page with its one console block."""

    before: str
    steps: tuple[Step, ...]
    after: str

    @classmethod
    def parse(cls, text: str) -> Page:
        """Raises ValueError: there is not exactly one block, or it does not begin with a command."""
        blocks = list(_BLOCK.finditer(text))
        if len(blocks) != 1 or text.count("\n```") != 2:
            raise ValueError("a page has one block, ```console, and no other")
        before, after = text[: blocks[0].start()], text[blocks[0].end() :]
        steps: list[Step] = []
        for line in blocks[0][0].splitlines(keepends=True):
            if line.startswith("$ "):
                steps.append(Step(line[2:], ""))
            elif not steps:
                raise ValueError(f"a transcript begins with a command: {line!r}")
            elif line.startswith("> ") and not steps[-1].shown:
                steps[-1] = Step(f"{steps[-1].command}{line[2:]}", "")
            else:
                steps[-1] = Step(steps[-1].command, steps[-1].shown + line)
        if not steps:
            raise ValueError("a transcript has a command")
        return cls(before, tuple(steps), after)

    def __str__(self) -> str:
        typed = (f"$ {'> '.join(step.command.splitlines(keepends=True))}{step.shown}" for step in self.steps)
        return f"{self.before}{''.join(typed)}{self.after}"


def canonical(text: str) -> str:
    """The text with all that varies replaced by its name."""
    text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    for varies in VARIES:
        text = re.sub(varies.pattern, partial(_named, varies.words), text, flags=re.MULTILINE)
    return re.sub(r"(?<=\S) {2,}", "  ", text)


def _named(words: str, found: re.Match[str]) -> str:
    return "".join([*found.groups(""), words])


def replay(page: Page, shop: Shop) -> Page:
    """The page as it would be today: what is printed, except where only that differs which varies. What fails and is
    not followed by the question for `$?` is followed by it here.
    """
    last, steps = 0, list[Step]()
    for step in page.steps:
        if last and step.command != _ASK:
            steps.append(Step(_ASK, f"{last}\n"))
        done = shop.type(step.command, last=last)
        last = done.returncode
        printed = _plain(done.stdout + done.stderr, shop.stand_ins)
        steps.append(step if canonical(printed) == canonical(step.shown) else Step(step.command, printed))
    if last:
        steps.append(Step(_ASK, f"{last}\n"))
    return Page(page.before, tuple(steps), page.after)


def differences(page: Page, today: Page) -> list[str]:
    """Lines of a diff, with the names of what varies; none where the page is right."""
    shown, printed = canonical(str(page)).splitlines(), canonical(str(today)).splitlines()
    return list(difflib.unified_diff(shown, printed, "what the page shows", "what is printed", lineterm=""))


def _plain(text: str, stand_ins: Iterable[tuple[str, str]]) -> str:
    for real, shown in stand_ins:
        text = text.replace(real, shown)
    lines = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    if "```" in lines:
        raise ValueError("what is printed would end the page's block")
    return lines


def main(arguments: Sequence[str]) -> int:
    """Compare or write the pages that are named, in one world."""
    is_writing = "--write" in arguments
    paths = [Path(argument) for argument in arguments if argument != "--write"]
    if not paths:
        print("usage: python -m tests.e2e.transcripts [--write] PAGE...", file=sys.stderr)
        return 2
    pages = [Page.parse(path.read_text()) for path in paths]
    code = 0
    with Shop() as shop:
        for path, page in zip(paths, pages, strict=True):
            shop.begin()
            today = replay(page, shop)
            if is_writing:
                path.write_text(str(today))
            elif different := differences(page, today):
                print(f"{path}:", *different, sep="\n")
                code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
