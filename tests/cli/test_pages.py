"""Every command has examples in its help, and a page of docs/commands that shows it at work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from imagestreams.cli.main import COMMANDS, command_first, group

PAGES = Path(__file__).parents[2] / "docs" / "commands"


def command(name: str) -> click.Command:
    found = group.get_command(click.Context(group), name)
    assert found is not None
    return found


def examples(name: str) -> list[str]:
    """The lines below Examples: in a command's help."""
    text = command(name).get_help(click.Context(command(name), info_name=f"imagestreams {name}"))
    found = re.search(r"^ *Examples:\n((?:^ +\S.*\n)+)", text, re.MULTILINE)
    return [line.strip() for line in found[1].splitlines()] if found else []


@pytest.mark.parametrize("name", COMMANDS)
def test_its_help_has_examples_that_it_understands(name: str):
    found = examples(name)
    assert found, "no Examples: in its help"
    typed = [part.strip() for example in found for part in re.split(r"[|;]|&&|\$\(|<\(", example) if name in part]
    assert typed, found
    for example in typed:
        program, *args = command_first(shlex.split(example.partition(" #")[0].rstrip(")")))
        if program == "kubectl":
            program = args.pop(0)
        assert program == "imagestreams", example
        first, *rest = command_first(args)
        assert first == name, example
        command(name).make_context(name, rest)  # raises for a flag or a value that it does not have


@pytest.mark.parametrize("name", COMMANDS)
def test_it_has_a_page(name: str):
    assert (PAGES / f"{name}.md").is_file()
    assert f"| [{name}]({name}.md) | " in (PAGES / "README.md").read_text()


def test_every_page_is_of_a_command():
    assert {path.stem for path in PAGES.glob("*.md")} == {*COMMANDS, "README"}
