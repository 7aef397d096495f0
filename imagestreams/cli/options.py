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
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from imagestreams.core.duration import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imagestreams.cli.api import Client
    from imagestreams.cli.kubeconfig import Access

_Function = TypeVar("_Function", bound="Callable[..., Any]")


class Failure(click.ClickException):
    """The command did not do what it was asked for. The text, which may quote strangers, is printed to stderr line by
    line; exit code 1.
    """

    exit_code = 1

    def show(self, file: Any = None) -> None:
        click.echo(shown(self.message), file=file, err=file is None)


class Misuse(Failure):
    """The command was called in a way that cannot work."""

    exit_code = 2


class Switch(click.Option):
    """A boolean written as kubectl's: `--all`, `--all=true`, `--wait=false`, `-R`; never `--wait false`.

    Or another flag that may go without a value: `bare` is what it means then.
    """

    def __init__(self, *args: Any, bare: str = "true", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bare = bare


class Command(click.Command):
    """A command that understands `Switch` options, and `-o=yaml` beside `-o yaml` and `-oyaml`, as kubectl does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        bare = {name: option.bare for option in self.params if isinstance(option, Switch) for name in option.opts}
        end = args.index("--") if "--" in args else len(args)
        # What follows one dash and a letter is the value itself.
        given = [
            f"{arg}{'=' if arg.startswith('--') else ''}{bare[arg]}" if arg in bare else arg
            for word in _loudness(args[:end])
            for arg in _without_equals(word)
        ]
        return super().parse_args(ctx, given + args[end:])


def _without_equals(arg: str) -> tuple[str, ...]:
    """`-oyaml` of `-o=yaml`; of `-o=` the flag and an empty value, or the next word would be its value."""
    if re.match(r"-[A-Za-z]=", arg) is None:
        return (arg,)
    return (f"{arg[:2]}{arg[3:]}",) if arg[3:] else (arg[:2], "")


def _loudness(args: Sequence[str]) -> list[str]:
    """`-v 6` as `-v6`: kubectl's way of asking for requests."""
    given = list[str]()
    for arg in args:
        if given and given[-1] in {"-v", "--v"} and re.fullmatch(r"[0-9]{1,2}", arg):
            given[-1] += arg if given[-1] == "-v" else f"={arg}"
        else:
            given.append(arg)
    return given


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


def _loud(text: str) -> bool:
    """The type of -v: with a number, as kubectl takes it, those from 6 on show requests."""
    return int(text) >= _REQUESTS_FROM if re.fullmatch(r"[0-9]{1,2}", text) else boolean(text)


_REQUESTS_FROM: Final = 6  # kubectl's level


def _rare(*names: str) -> Callable[[_Function], _Function]:
    """One of kubectl's other flags: `imagestreams --help` lists them, and not each command's."""
    return click.option(*names, default="", metavar="VALUE", hidden=True)


def _api_group(text: str) -> str:
    """An option's type: a group that may have ImageStreams, or none."""
    from imagestreams.settings import GROUPS  # noqa: PLC0415  # `--help` needs none

    if text not in {"", *GROUPS}:
        raise click.BadParameter(f"{text!r} is none of {', '.join(GROUPS)}")
    return text


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
    click.option(
        *("-v", "--verbose", "--v"),
        cls=Switch,
        type=_loud,
        default="false",
        metavar="",
        help="Show each request on stderr: method, URL, status and time.",
    ),
    click.option(
        "--api-group",
        type=_api_group,
        default="",
        envvar="IMAGESTREAMS_API_GROUP",
        metavar="GROUP",
        help="API group of the ImageStreams; needed where the cluster has two. Also as IMAGESTREAMS_API_GROUP.",
    ),
    _rare("-s", "--server"),
    _rare("--token"),
    _rare("--certificate-authority"),
    _rare("--client-certificate"),
    _rare("--client-key"),
    _rare("--tls-server-name"),
    click.option("--insecure-skip-tls-verify", cls=Switch, type=boolean, default="false", metavar="", hidden=True),
    _rare("--as-uid"),
)


CONNECTION_FLAGS: Final = (
    *("namespace", "context", "kubeconfig", "cluster", "user", "as_user", "as_group", "request_timeout", "verbose"),
    "api_group",
    *("server", "token", "certificate_authority", "client_certificate", "client_key", "tls_server_name"),
    *("insecure_skip_tls_verify", "as_uid"),
)
"""The arguments that `connection_options` gives a command."""


def connection_options(function: _Function) -> _Function:
    """Kubectl's flags that say which cluster, as whom, and in which namespace; `connected` takes them."""
    for option in reversed(_CONNECTION):
        function = option(function)
    return function


def all_namespaces(function: _Function) -> _Function:
    """The flag -A, as the argument `all_namespaces`."""
    words = "Of all namespaces, whatever -n says."
    return switch("-A", "--all-namespaces", default=False, words=words)(function)


def no_headers(function: _Function) -> _Function:
    """The flag --no-headers, as the argument `no_headers`."""
    return switch("--no-headers", default=False, words="Print tables without their first line.")(function)


def selector(function: _Function) -> _Function:
    """The flag -l, as the argument `selector`: the server's label selectors."""
    words = "Only those with such labels: key=value, key!=value, key, !key, 'key in (a,b)'; joined by commas."
    return click.option("-l", "--selector", default="", metavar="SELECTOR", help=words)(function)


def dry_run_option(function: _Function) -> _Function:
    """The flag --dry-run of what writes, as the argument `dry_run`: "none", "client" (nothing is sent) or "server" (all
    checks, nothing is stored).
    """
    return click.option(
        "--dry-run",
        cls=Switch,
        bare="client",
        type=click.Choice(["none", "client", "server"]),
        default="none",
        show_default=True,
        help="client: only print what would be sent; server: have it checked, and stored nowhere.",
    )(function)


FORMS: Final = ("name", "json", "yaml", "jsonpath", "jsonpath-file", "jsonpath-as-json")
"""What `imagestreams.cli.output` can do, and -o of most commands."""


def output_option(*forms: str) -> Callable[[_Function], _Function]:
    """The flag -o, as the argument `output`: None, or one of `forms`, as imagestreams.cli.output takes it. Without
    forms: FORMS. Those of jsonpath have their template behind an equals sign, and it can be read.
    """
    known = forms or FORMS

    def parse(text: str) -> str:
        form, equals, template = text.partition("=")
        if form not in known or (equals and not form.startswith("jsonpath")):
            raise click.BadParameter(f"{text!r} is none of {', '.join(map(_written, known))}")
        if form.startswith("jsonpath") and not template:
            raise click.BadParameter(f"{form} needs a template: {_written(form)}")
        return text

    def read(ctx: click.Context, _: click.Parameter, text: str | None) -> str | None:
        if text is None or "=" not in text or ctx.resilient_parsing:  # the last: a shell completes, and waits
            return text
        from imagestreams.cli.output import with_template  # noqa: PLC0415  # `--help` needs none

        return with_template(text)

    parse.__name__ = "|".join(known)
    words = f"Print it as {', '.join(map(_written, known[:-1]))} or {_written(known[-1])}." if known[1:] else None
    return click.option("-o", "--output", type=parse, callback=read, metavar="FORM", help=words)


def _written(form: str) -> str:
    return f"{form}={'FILE' if form.endswith('-file') else 'TEMPLATE'}" if form.startswith("jsonpath") else form


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
    verbose: bool = False,
    api_group: str = "",
    **rare: Any,
) -> Iterator[tuple[Client, Access]]:
    """A client of the chosen cluster. What goes wrong within, on our side or the server's, becomes a `Failure`. The
    server's warnings go to stderr, and its requests if -v is given.
    """
    from imagestreams.cli import api  # noqa: PLC0415  # `--help` needs no client
    from imagestreams.cli import kubeconfig as config  # noqa: PLC0415

    if namespace and NAMESPACE.fullmatch(namespace) is None:
        raise Misuse(f"error: {namespace!r} is no namespace; write lower-case letters, digits and '-', at most 63")
    overrides = config.Overrides(kubeconfig, context, cluster, user, namespace, as_user, as_group, **rare)
    try:
        access = config.load(overrides, os.environ)
        if NAMESPACE.fullmatch(access.namespace) is None:
            raise Failure(f"error: {access.origin}: {access.namespace!r} is no namespace; name another one with -n")
        client = api.Client(
            access,
            request_timeout=request_timeout,
            group=api_group,
            log=say if verbose else None,
            warn=lambda text: say(f"Warning: {text}"),
        )
        with contextlib.closing(client):
            yield client, access
    except config.KubeconfigError as error:
        raise Failure(f"error: {error}") from error
    except api.ApiError as error:
        raise Failure(str(error)) from error


NAMESPACE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""The name of one: a DNS label (RFC 1123)."""


def shown(error: Exception | str) -> str:
    """A text that may quote strangers, made fit for a terminal, line by line."""
    from imagestreams.cli.table import printable  # noqa: PLC0415

    return "\n".join(map(printable, str(error).split("\n")))


# ---- stderr ----


_progress: list[str] = []
"""The words on the terminal's last line; none, or one."""


def say(line: str) -> None:
    """Print a line to stderr, also while `progress` shows something there."""
    from imagestreams.cli.table import printable  # noqa: PLC0415

    waiting = _progress[-1] if _progress else ""
    click.echo(f"{_CLEAR if waiting else ''}{printable(line)}", err=True)
    if waiting:
        _draw(waiting)


@contextlib.contextmanager
def progress(words: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal what is waited for, and take it away again; on one that can take nothing away it stays, and
    elsewhere nothing is said. Gives what puts other words in their place. What is said meanwhile goes through `say`.
    """
    if not sys.stderr.isatty():
        yield lambda _words: None
        return
    if os.environ.get("TERM", "dumb") in {"", "dumb"}:
        say(words)
        yield say
        return

    def show(words: str) -> None:
        _progress[:] = [words]
        _draw(words)

    show(words)
    try:
        yield show
    finally:
        _progress.clear()
        click.echo(_CLEAR, err=True, nl=False)


_CLEAR: Final = "\r\033[K"


def _draw(words: str) -> None:
    """What is wider than the terminal would be two lines, of which one could be taken away."""
    from imagestreams.cli.table import printable  # noqa: PLC0415

    try:
        width = os.get_terminal_size(sys.stderr.fileno()).columns or _WIDTH
    except OSError:
        width = _WIDTH
    whole = printable(words)
    cut = whole if len(whole) < width else f"{whole[: max(0, width - 5)]} ..."
    click.echo(f"{_CLEAR}{cut[: width - 1]}", err=True, nl=False)


_WIDTH: Final = 80


def read_bytes(name: str, most: int) -> bytes:
    """A file's content, if it has at most so many bytes; raises OSError."""
    with Path(name).expanduser().open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content
