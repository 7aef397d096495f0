"""The command `imagestreams`, which is also `kubectl imagestreams`: the list of its subcommands, and how it ends.

A subcommand's module is imported when it is called, or described in detail, so that a small one starts fast; what the
list says about each stands here.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

import click

from imagestreams import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Lazy(NamedTuple):
    module: str  # has the command as its attribute `command`
    words: str


_COMMANDS = {
    "explain": _Lazy("imagestreams.cli.explain", "Tell step by step how one image is looked up."),
    "import-image": _Lazy("imagestreams.cli.import_image", "Look up the image that a tag points to, now."),
    "resolve": _Lazy("imagestreams.cli.resolve", "Resolve the tags of manifests, without a cluster."),
    "run": _Lazy("imagestreams.cli.run", "Run the controller."),
}


# Kubectl's flags with a value, which it takes before the command as well.
_MAY_COME_FIRST = frozenset(
    {
        "-n",
        "--namespace",
        "--context",
        "--kubeconfig",
        "--cluster",
        "--user",
        "--as",
        "--as-group",
        "--request-timeout",
    }
)


class _Group(click.Group):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _command_first(args))

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        lazy = _COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        command = importlib.import_module(lazy.module).command
        assert isinstance(command, click.Command)  # noqa: S101  # our own table
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.words) for name, lazy in sorted(_COMMANDS.items())])


def _command_first(args: Sequence[str]) -> list[str]:
    """`-n shop import-image web` as `import-image -n shop web`."""
    flags, rest = list[str](), list(args)
    while rest and rest[0].partition("=")[0] in _MAY_COME_FIRST:
        has_value = "=" in rest[0]
        flags.append(rest.pop(0))
        if rest and not has_value:
            flags.append(rest.pop(0))
    return [*rest[:1], *flags, *rest[1:]]


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, message="imagestreams %(version)s")
def group() -> None:
    """ImageStreams for any Kubernetes."""


def program_name(called_as: str) -> str:
    """What people typed: kubectl runs plugins by the file's name."""
    name = PurePath(called_as).name
    return "kubectl imagestreams" if name.startswith("kubectl-") else "imagestreams"


def invoke(args: Sequence[str], called_as: str) -> int:
    """Run a command line, `args` without the program's name; gives the exit code.

    0: done, 1: failed, 2: called wrongly, 130: interrupted.
    """
    try:
        code = group.main(args=list(args), prog_name=program_name(called_as), standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output (`| head`) is gone. Python would complain at exit when it flushes what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def main() -> None:
    """The entry point of both names."""
    # A command ends before there is garbage worth looking for. The looking, while modules are loaded and once more at
    # the end, is a fifth of its time. `run`, which does not end, turns it on again.
    gc.disable()
    code = invoke(sys.argv[1:], sys.argv[0])
    gc.freeze()
    sys.exit(code)
