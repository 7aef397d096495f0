"""What `resolve` and `explain` share: the flags that say how registries are asked, and what they make.

The flags are those of `imagestreams run`, from the same table, and so are the environment variables and the file.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from imagestreams import settings
from imagestreams.cli.options import Command, Misuse, Switch, read_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from yarl import URL

    from imagestreams.core.keychain import Entry
    from imagestreams.core.policy import Policy
    from imagestreams.core.wish import ImportRules
    from imagestreams.registry.client import RegistryClient
    from imagestreams.registry.messages import Step
    from imagestreams.registry.quota import Quota

_Function = TypeVar("_Function", bound="Callable[..., Any]")

_SECTION: Final = "Registries"
_SWITCH: Final = "true|false"
# These are read in a cluster, or have a flag of their own here.
_NOT_HERE: Final = frozenset(
    {"registries_file", "registries_configmap", "local_registry_hosting", "mirror_sets", "max_lanes"}
)
_MAX_FILE: Final = 1 << 20  # bytes; as large as a Secret

_ROWS: Final = {row.name: row for row in settings.TABLE}


class RegistryCommand(Command):
    """Lists its own options first, then those of `imagestreams run` that count here."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        own = [record for option in options if option.name not in _ROWS if (record := option.get_help_record(ctx))]
        rows = [row for option in options if (row := _ROWS.get(option.name or ""))]
        with formatter.section("Options"):
            formatter.write_dl(own, col_max=34)
        with formatter.section("Registries, as for `imagestreams run`"):
            formatter.write_dl([(_usage(row), f"{row.help} [default: {row.shown or 'none'}]") for row in rows], 34)


def _usage(row: settings.Setting) -> str:
    if row.kind.metavar == _SWITCH:
        return f"{row.flag}[={_SWITCH}]"
    return f"{row.flag} {row.kind.metavar}{',...' if row.kind.many else ''}"


def registry_options(*also: str) -> Callable[[_Function], _Function]:
    """The flags that `chosen` takes: those of `imagestreams run` on registries, and `also` others of its table."""
    rows = [
        row for row in _ROWS.values() if row.name in also or (row.section == _SECTION and row.name not in _NOT_HERE)
    ]

    def decorate(function: _Function) -> _Function:
        for row in reversed(rows):
            kind = Switch if row.kind.metavar == _SWITCH else click.Option
            function = click.option(row.flag, row.name, cls=kind, type=str, multiple=True)(function)
        for option in reversed(_FILES):
            function = option(function)
        return function

    return decorate


_FILES: Final = (
    click.option(
        "--credentials", metavar="FILE", help="Docker configuration with logins, such as ~/.docker/config.json."
    ),
    click.option(
        "--registries",
        "registries_file",
        metavar="FILE",
        help="Registries document (YAML): hosts, mirrors, what is allowed and blocked.",
    ),
    click.option(
        "--config", metavar="FILE", help="YAML file of settings, as for `imagestreams run`; those below count."
    ),
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the flags, the environment and the files come to.

    Attributes:
        entries: the logins of the credentials file.
        notes: what people should hear of it, one line each.
    """

    settings: settings.Settings
    policy: Policy
    rules: ImportRules
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]

    def quota(self) -> Quota:
        """What registries may still be asked; one for a client and its lanes."""
        from imagestreams.core.policy import rule_of  # noqa: PLC0415
        from imagestreams.registry.quota import Quota  # noqa: PLC0415

        return Quota(_now, lambda host: rule_of(self.policy, host))

    @contextlib.asynccontextmanager
    async def client(
        self, quota: Quota, on_step: Callable[[Step], None] | None = None
    ) -> AsyncIterator[RegistryClient]:
        """A client with these rules; `on_step` is told of its requests."""
        from imagestreams import rules  # noqa: PLC0415
        from imagestreams.core.policy import proxy_for  # noqa: PLC0415
        from imagestreams.registry.client import RegistryClient  # noqa: PLC0415
        from imagestreams.registry.transport import Reach  # noqa: PLC0415

        def proxy(url: URL) -> str:
            return proxy_for(self.policy, url.scheme, url.host or "", url.port or 0)

        made = RegistryClient(
            Reach.of(self.policy, proxy_for=proxy),
            clock=_now,
            timeouts=rules.timeouts_of(self.settings),
            quota=quota,
            on_step=on_step,
        )
        try:
            yield made
        finally:
            await made.close()


def _now() -> datetime:
    return datetime.now(UTC)


def chosen(flags: Mapping[str, Any], credentials: str | None) -> Chosen:
    """Read what was given.

    Raises:
        Misuse: with every setting that cannot be used, or what is wrong with a file.
    """
    from imagestreams import rules  # noqa: PLC0415  # the heavy half

    try:
        given = settings.load(flags, os.environ, lambda name: read_bytes(name, _MAX_FILE).decode())
    except settings.InvalidSettings as error:
        raise Misuse("\n".join(f"error: {problem}" for problem in error.problems)) from error
    entries, notes = _logins(credentials)
    policy = _with_document(rules.base_policy_of(given), given.registries_file)
    return Chosen(given, policy, rules.import_rules_of(given, policy), entries, notes)


def _with_document(policy: Policy, name: str) -> Policy:
    if not name:
        return policy
    from imagestreams.core.registries import InvalidRegistries, parse_registries, policy_of  # noqa: PLC0415

    try:
        return policy_of(policy, parse_registries(read_bytes(name, _MAX_FILE).decode()))
    except OSError as error:
        raise Misuse(f"error: --registries {name}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise Misuse(f"error: --registries {name}: is no text in UTF-8") from error
    except InvalidRegistries as error:
        raise Misuse("\n".join(f"error: --registries {name}: {problem}" for problem in error.problems)) from None


def _logins(name: str | None) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    if name is None:
        return (), ()
    from imagestreams.core.keychain import MalformedSecret, parse_docker_config  # noqa: PLC0415

    try:
        logins = parse_docker_config(name, read_bytes(name, _MAX_FILE))
    except OSError as error:
        raise Misuse(f"error: --credentials {name}: cannot be read: {error.strerror or error}") from error
    except MalformedSecret as error:
        raise Misuse(f"error: --credentials: {error}") from None
    return logins.entries, logins.notes


def quiet() -> None:
    """Have the library parts log what is wrong with them, and nothing else, to stderr."""
    import sys  # noqa: PLC0415

    import structlog  # noqa: PLC0415

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("error"),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
