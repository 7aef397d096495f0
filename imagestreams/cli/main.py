"""The command `imagestreams`, which is also `kubectl imagestreams`: the list of its subcommands, and how it ends.

A subcommand's module is imported when it is called, or described in detail, so that a small one starts fast; what the
list says about each stands here.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import re
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from imagestreams import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from click.shell_completion import CompletionItem


class _Lazy(NamedTuple):
    module: str  # has the command as its attribute `command`
    words: str


_SECTIONS = {
    "Streams, tags and images": {
        "get": _Lazy("imagestreams.cli.get", "List streams, tags or images."),
        "describe": _Lazy("imagestreams.cli.describe", "Tell all about a stream, tag, image or workload."),
        "create": _Lazy("imagestreams.cli.create", "Create an image stream, or a tag of one."),
        "tag": _Lazy("imagestreams.cli.tag", "Point tags to images or other tags, or remove tags."),
        "import-image": _Lazy("imagestreams.cli.import_image", "Look up the image that a tag points to, now."),
    },
    "History": {
        "history": _Lazy("imagestreams.cli.history", "List what a tag pointed to, and when."),
        "rollback": _Lazy("imagestreams.cli.rollback", "Point a tag to an image it had before, and hold it there."),
        "resume": _Lazy("imagestreams.cli.resume", "Let a tag that is held follow its source again."),
        "diff": _Lazy("imagestreams.cli.diff", "Compare what workloads run with what tags point to."),
    },
    "Workloads": {
        "set-triggers": _Lazy("imagestreams.cli.set_triggers", "Say which containers of a workload follow which tags."),
        "set-lookup": _Lazy("imagestreams.cli.set_lookup", "Let pods name a stream's tags as their image."),
    },
    "Without a cluster": {
        "resolve": _Lazy("imagestreams.cli.resolve", "Resolve the tags of manifests, without a cluster."),
        "explain": _Lazy("imagestreams.cli.explain", "Tell step by step how one image is looked up."),
    },
    "Others": {
        "run": _Lazy("imagestreams.cli.run", "Run the controller."),
        "version": _Lazy("imagestreams.cli.version", "Print the versions of this program and of the cluster's side."),
        "completion": _Lazy("imagestreams.cli.completion", "Print what makes a shell complete these commands."),
    },
}

_COMMANDS = {
    **{name: lazy for section in _SECTIONS.values() for name, lazy in section.items()},
    # What the shells ask, by the script that `completion` prints: not listed.
    "__complete": _Lazy("imagestreams.cli.completion", ""),
}

COMMANDS: Final = tuple(name for section in _SECTIONS.values() for name in section)
"""Those that help lists."""

# What people type who come from elsewhere, and what they find here.
_KNOWN_ELSEWHERE = {
    "import": "import-image",
    "list": "get",
    "ls": "get",
    "pin": "rollback",
    "undo": "rollback",
    "rollout": "rollback",
    "unpin": "resume",
    "untag": "tag",
    "delete-tag": "tag",
    "new": "create",
    "status": "describe",
    "show": "describe",
    "set": "set-triggers",
    "triggers": "set-triggers",
    "lookup": "set-lookup",
    "image-lookup": "set-lookup",
    "set-image-lookup": "set-lookup",
    "start": "run",
    "controller": "run",
}


# Kubectl's flags, which it takes before the command as well: with a value, and without.
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
        "--as-uid",
        "--request-timeout",
        "-s",
        "--server",
        "--api-group",
        "--token",
        "--certificate-authority",
        "--client-certificate",
        "--client-key",
        "--tls-server-name",
    }
)
_MAY_COME_FIRST_ALONE = frozenset({"-v", "--v", "--verbose", "-A", "--all-namespaces", "--insecure-skip-tls-verify"})
_LOUDNESS = re.compile(r"-v=?[0-9]{1,2}")


class _Group(click.Group):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = command_first(args)
        if given[:1] == ["help"]:
            given = command_first([*given[1:], "--help"])
        return super().parse_args(ctx, given)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        lazy = _COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        module = importlib.import_module(lazy.module)
        command = module.answer if cmd_name == "__complete" else module.command
        assert isinstance(command, click.Command)  # noqa: S101  # our own table
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        from click.shell_completion import CompletionItem  # noqa: PLC0415  # only for shells

        return [
            CompletionItem(name, help=lazy.words)
            for section in _SECTIONS.values()
            for name, lazy in section.items()
            if name.startswith(incomplete)
        ]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(_unknown(args))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        width = max(map(len, _COMMANDS))
        for title, section in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), lazy.words) for name, lazy in section.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(
            f"\n{ctx.command_path} COMMAND --help has each command's flags, and examples.\n"
            "\n"
            "Commands that speak to a cluster take kubectl's flags, before or after the command:\n"
            "  --kubeconfig --context --cluster --user -n/--namespace --as --as-group --as-uid\n"
            "  --request-timeout -s/--server --token --certificate-authority --client-certificate\n"
            "  --client-key --tls-server-name --insecure-skip-tls-verify\n"
            "and -v, which shows their requests, and --api-group, where the cluster has two of image streams.\n"
            "\n"
            "Exit codes: 0 done, 1 failed, 2 called wrongly, 130 interrupted. Those of diff are kubectl diff's.\n"
        )


def _unknown(args: Sequence[str]) -> str:
    """What to say of a command that there is not, and which one may be meant."""
    import difflib  # noqa: PLC0415  # only for who mistypes

    joined = "-".join(args[:2])  # `oc set triggers` is a command of two words
    typed = args[0].lower()
    known = list(COMMANDS)
    if joined in known or joined in _KNOWN_ELSEWHERE:
        meant = [_KNOWN_ELSEWHERE.get(joined, joined)]
    elif typed in _KNOWN_ELSEWHERE:
        meant = [_KNOWN_ELSEWHERE[typed]]
    else:
        meant = difflib.get_close_matches(typed, known, n=3) or [name for name in known if name.startswith(typed)][:3]
    shown = args[0] if args[0].isprintable() else repr(args[0])
    return f'unknown command "{shown[:60]}"' + (f"; did you mean {' or '.join(meant)}?" if meant else "")


def command_first(args: Sequence[str]) -> list[str]:
    """`-n shop import-image web` as `import-image -n shop web`."""
    flags, rest = list[str](), list(args)
    while rest and ((name := rest[0].partition("=")[0]) in _MAY_COME_FIRST or _stands_alone(rest[0])):
        has_value = "=" in rest[0] or name not in _MAY_COME_FIRST
        flags.append(rest.pop(0))
        is_loudness = flags[-1] in {"-v", "--v"} and rest[:1] and rest[0].isdecimal()
        if rest and (is_loudness or not has_value):
            flags.append(rest.pop(0))
    return [*rest[:1], *flags, *rest[1:]]


def _stands_alone(arg: str) -> bool:
    return arg.partition("=")[0] in _MAY_COME_FIRST_ALONE or _LOUDNESS.fullmatch(arg) is not None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, message="imagestreams %(version)s")
def group() -> None:
    """ImageStreams for any Kubernetes: tags of images with a history, and workloads that follow them."""


def program_name(called_as: str) -> str:
    """What people typed: kubectl runs plugins by the file's name."""
    name = PurePath(called_as).name
    return "kubectl imagestreams" if name.startswith("kubectl-") else "imagestreams"


def invoke(args: Sequence[str], called_as: str) -> int:
    """Run a command line, `args` without the program's name; gives the exit code.

    0: done, 1: failed, 2: called wrongly, 130: interrupted.
    """
    failed = 2 if command_first(args)[:1] == ["diff"] else 1  # its 1 says that there are differences
    try:
        for arg in args:
            if not _is_unicode(arg):
                _say(f"error: {arg!r} is no UTF-8 text")
                return 2
        code = group.main(args=list(args), prog_name=program_name(called_as), standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        return 130
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        return max(error.exit_code, failed)
    except BrokenPipeError:
        # The reader of our output (`| head`) is gone. Python would complain at exit when it flushes what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failed
    except OSError as error:
        place = f"{error.filename}: " if error.filename else "cannot write: "
        _say(f"error: {place}{error.strerror or error}")
        return failed
    return code if isinstance(code, int) else 0


def _is_unicode(text: str) -> bool:
    """False for what Python made of bytes that are no UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _say(words: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(words, err=True)


def _open_closed() -> None:
    """Where the shell closed a standard stream (`>&-`), nothing is read, and what is printed goes nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115  # until the end


def main() -> None:
    """The entry point of both names."""
    _open_closed()
    # A command ends before there is garbage worth looking for. The looking, while modules are loaded and once more at
    # the end, is a fifth of its time. `run`, which does not end, turns it on again.
    gc.disable()
    code = invoke(sys.argv[1:], sys.argv[0])
    gc.freeze()
    sys.exit(code)


def complete() -> None:
    """The entry point `kubectl_complete-imagestreams`, which kubectl runs to complete `kubectl imagestreams ...`."""
    sys.argv[:] = ["kubectl-imagestreams", "__complete", *sys.argv[1:]]
    main()
