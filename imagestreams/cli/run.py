"""`imagestreams run`: the controller, with every setting as a flag made from the table in `imagestreams.settings`."""

from __future__ import annotations

import gc
import os
from typing import Final

import click

from imagestreams import settings
from imagestreams.cli.options import Command, Misuse, Switch, read_bytes

_MAX_FILE: Final = 1 << 20  # bytes of a configuration file
_SWITCH: Final = "true|false"


class _Run(Command):
    """Lists the settings under the table's headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title in dict.fromkeys(row.section for row in settings.TABLE):
            rows = [row for row in settings.TABLE if row.section == title]
            with formatter.section(title):
                formatter.write_dl([(_usage(row), _words(row)) for row in rows], col_max=34)
        with formatter.section("Other"):
            known = {row.name for row in settings.TABLE}
            records = [option.get_help_record(ctx) for option in self.get_params(ctx) if option.name not in known]
            formatter.write_dl([record for record in records if record], col_max=34)


def _usage(row: settings.Setting) -> str:
    if row.kind.metavar == _SWITCH:
        return f"{row.flag}[={_SWITCH}]"
    return f"{row.flag} {row.kind.metavar}{',...' if row.kind.many else ''}"


def _words(row: settings.Setting) -> str:
    return f"{row.help} [default: {row.shown or 'none'}; env: {row.variable}]"


def _options() -> list[click.Parameter]:
    """Every flag may be repeated as far as click is concerned: what contradicts is refused with the other settings."""
    config = click.Option(
        ["--config"],
        metavar="FILE",
        help="YAML file of settings; a key is the flag's name in camelCase, such as minInterval. "
        f"[env: {settings.CONFIG_VARIABLE}]",
    )
    made = [
        (Switch if row.kind.metavar == _SWITCH else click.Option)([row.flag, row.name], type=str, multiple=True)
        for row in settings.TABLE
    ]
    return [config, *made]


def _run(**flags: object) -> int:
    try:
        chosen = settings.load(flags, os.environ, lambda name: read_bytes(name, _MAX_FILE).decode())
    except settings.InvalidSettings as error:
        raise Misuse("\n".join(f"error: {problem}" for problem in error.problems)) from error
    from imagestreams import app  # noqa: PLC0415  # the heavy half

    gc.enable()  # see main()
    return app.run(chosen)


command = _Run(
    "run",
    callback=_run,
    params=_options(),
    help="Run the controller: it looks the tags of all image streams up, writes what it finds into their status, and "
    "rolls out the workloads that follow them.\n\nIn a pod it uses the pod's service account; on your own machine "
    "`imagestreams run --context NAME` works on the cluster of that context. A setting can be given as a flag, in the "
    "environment or in a file, in this order of precedence. Where a list is taken (`,...`), the flag may be repeated."
    "\n\n\b\nExamples:\n"
    "  imagestreams run --context staging --observe\n"
    "  imagestreams run --config settings.yaml --interval 5m\n"
    "  imagestreams run --registry-endpoint registry.example.com=http://127.0.0.1:5000\n\n"
    "Exit code: 0 ended by a signal, 1 there is no cluster to work for or nowhere to listen, 2 called wrongly.",
)
