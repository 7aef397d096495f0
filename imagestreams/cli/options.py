"""What the commands share: kubectl's way of writing flags, the flags that choose cluster and namespace, and how a
command fails.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from imagestreams.core.duration import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imagestreams.cli.api import Client
    from imagestreams.cli.kubeconfig import Access

_Function = TypeVar("_Function", bound="Callable[..., Any]")


class Failure(click.ClickException):
    """The command did not do what it was asked for. The text is printed to stderr as it is; exit code 1."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        click.echo(self.message, file=file, err=file is None)


class Misuse(Failure):
    """The command was called in a way that cannot work."""

    exit_code = 2


class Switch(click.Option):
    """A boolean written as kubectl's: `--all`, `--all=true`, `--wait=false`, `-R`; never `--wait false`."""


class Command(click.Command):
    """A command that understands `Switch` options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        switches = {name for option in self.params if isinstance(option, Switch) for name in option.opts}
        end = args.index("--") if "--" in args else len(args)
        # What follows one dash and a letter is the value itself.
        given = [f"{arg}{'=' if arg.startswith('--') else ''}true" if arg in switches else arg for arg in args[:end]]
        return super().parse_args(ctx, given + args[end:])


def boolean(text: str) -> bool:
    """An option's type; what Go's flags take."""
    if text in {"true", "True", "TRUE", "1", "t", "T"}:
        return True
    if text in {"false", "False", "FALSE", "0", "f", "F"}:
        return False
    raise click.BadParameter(f"{text!r} is neither true nor false")


def seconds(text: str) -> float | None:
    """An option's type: a duration as kubectl takes them, "30s", "2m" or a bare number of seconds.

    0 means no limit, which is None.
    """
    try:
        return parse_duration(f"{text}s" if re.fullmatch(r"[0-9]{1,9}", text) else text).total_seconds() or None
    except ValueError as error:
        raise click.BadParameter(f"{text!r} {error}") from error


def switch(*names: str, default: bool, words: str) -> Callable[[_Function], _Function]:
    """A boolean flag."""
    return click.option(
        *names, cls=Switch, type=boolean, default="true" if default else "false", metavar="", help=words
    )


_CONNECTION = (
    click.option("-n", "--namespace", default="", metavar="NAMESPACE", help="Namespace; default: the context's."),
    click.option("--context", default="", metavar="NAME", help="Context of the kubeconfig; default: its current one."),
    click.option("--kubeconfig", default="", metavar="FILE", help="Kubeconfig file; default: as kubectl finds it."),
    click.option("--cluster", default="", metavar="NAME", help="Cluster of the kubeconfig, instead of the context's."),
    click.option("--user", default="", metavar="NAME", help="User of the kubeconfig, instead of the context's."),
    click.option("--as", "as_user", default="", metavar="USER", help="User, or service account, to impersonate."),
    click.option("--as-group", multiple=True, metavar="GROUP", help="Group to impersonate; may be repeated."),
    click.option(
        "--request-timeout",
        type=seconds,
        default="0",
        metavar="DURATION",
        help="Limit for one request to the API server, such as 30s; 0: none.",
    ),
)


def connection_options(function: _Function) -> _Function:
    """Kubectl's flags that say which cluster, as whom, and in which namespace; `connected` takes them."""
    for option in reversed(_CONNECTION):
        function = option(function)
    return function


@contextlib.contextmanager
def connected(
    *,
    namespace: str,
    context: str,
    kubeconfig: str,
    cluster: str,
    user: str,
    as_user: str,
    as_group: tuple[str, ...],
    request_timeout: float | None,
) -> Iterator[tuple[Client, Access]]:
    """A client of the chosen cluster. What goes wrong within, on our side or the server's, becomes a `Failure`."""
    from imagestreams.cli import api  # noqa: PLC0415  # `--help` needs no client
    from imagestreams.cli import kubeconfig as config  # noqa: PLC0415

    overrides = config.Overrides(kubeconfig, context, cluster, user, namespace, as_user, as_group)
    try:
        access = config.load(overrides, os.environ)
        with contextlib.closing(api.Client(access, request_timeout=request_timeout)) as client:
            yield client, access
    except config.KubeconfigError as error:
        raise Failure(f"error: {error}") from error
    except api.ApiError as error:
        raise Failure(str(error)) from error


@contextlib.contextmanager
def progress(words: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal what is waited for, and take it away again; elsewhere say nothing. Gives what puts other words
    in their place.
    """
    if not sys.stderr.isatty():
        yield lambda _words: None
        return
    click.echo(words, err=True, nl=False)
    try:
        yield lambda words: click.echo(f"\r\033[K{words}", err=True, nl=False)
    finally:
        click.echo("\r\033[K", err=True, nl=False)


def read_bytes(name: str, most: int) -> bytes:
    """A file's content, if it has at most so many bytes; raises OSError."""
    with Path(name).expanduser().open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content
