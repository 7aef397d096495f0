"""`imagestreams explain`: how one reference is looked up, step by step, for whoever wonders why it is not.

The controller's own parts are asked: parser, policy, keychain and client. What is told holds no password or token.
"""

from __future__ import annotations

import gc
import textwrap
from typing import TYPE_CHECKING, Any, Final

import click

from imagestreams.cli.options import Misuse, seconds, switch
from imagestreams.cli.registries import RegistryCommand, chosen, quiet, registry_options
from imagestreams.cli.table import printable

if TYPE_CHECKING:
    from imagestreams.cli.explanation import Explanation

_WIDTH: Final = 110


@click.command("explain", cls=RegistryCommand)
@click.argument("reference", metavar="REFERENCE")
@switch("--insecure", default=False, words="As for a tag whose importPolicy is insecure.")
@click.option(
    "--mode",
    type=click.Choice(["PreserveOriginal", "Legacy"]),
    help="As for a tag with this importMode; default: PreserveOriginal.",
)
@click.option(
    "--platform",
    metavar="OS/ARCH",
    help="As for a tag in Legacy mode whose annotations prefer it, such as linux/arm64.",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to print what was done.",
)
@click.option(
    "--timeout",
    type=seconds,
    default="2m",
    show_default=True,
    metavar="DURATION",
    help="How long the registries may take in all; 0: as long as they take.",
)
@registry_options()
def command(
    reference: str,
    *,
    insecure: bool,
    mode: str | None,
    platform: str | None,
    output: str,
    timeout: float | None,
    credentials: str | None,
    **flags: Any,
) -> int:
    """Tell step by step what the importer does for one image: how the reference is read, what the administrator's
    rules say, which logins are for it, each request and its answer, and what comes of it all.

    Passwords and tokens are never shown.

    \b
    Examples:
      imagestreams explain nginx
      imagestreams explain quay.io/acme/web:stable --credentials ~/.docker/config.json
      imagestreams explain registry.example.com:5000/web --insecure -o json

    Exit code: 0 there is an image, 1 there is none, 2 called wrongly or no reference.
    """  # noqa: D301  # \b is click's mark for lines to keep
    from imagestreams.core.manifest import Platform  # noqa: PLC0415  # `--help` needs none
    from imagestreams.core.reference import ImageReference, InvalidReference  # noqa: PLC0415

    try:
        parsed = ImageReference.parse(reference)
    except InvalidReference as error:
        raise Misuse(f"error: {error}") from None
    if not parsed.name:
        raise Misuse(f"error: {reference} names a registry, not an image; add a repository, as in {reference}/app:tag")
    try:
        prefer = Platform.parse(platform) if platform else None
    except ValueError as error:
        raise Misuse(f"error: --platform: {error}") from None
    given = chosen(flags, credentials)

    import asyncio  # noqa: PLC0415  # the heavy half, from here on

    from imagestreams.cli.explanation import Wish, explain  # noqa: PLC0415
    from imagestreams.core.lookup import ImportMode  # noqa: PLC0415

    quiet()
    gc.enable()  # see main()
    wish = Wish(reference, parsed, insecure, ImportMode(mode) if mode else given.rules.import_mode, prefer)
    explanation = asyncio.run(explain(wish, given, timeout))
    for note in given.notes:
        click.echo(printable(f"note: {note}"), err=True)
    click.echo(_json(explanation) if output == "json" else text(explanation))
    return 0 if explanation.is_resolved else 1


def text(explanation: Explanation) -> str:
    """Numbered steps, and at the end what came of them."""
    blocks = [
        "\n".join([f"{number}. {step.title}", *map(_wrapped, step.lines)])
        for number, step in enumerate(explanation.steps, start=1)
    ]
    return "\n\n".join(blocks)


def _wrapped(line: str) -> str:
    """A line for people; one with a URL or digest, which somebody will copy, stays in one piece."""
    shown = printable(line)
    if any(len(word) > _WIDTH // 2 for word in shown.split()):
        return f"   {shown}"
    return textwrap.fill(shown, _WIDTH, initial_indent="   ", subsequent_indent="     ", break_on_hyphens=False)


def _json(explanation: Explanation) -> str:
    import json  # noqa: PLC0415

    steps = [{"title": step.title, "lines": step.lines, **step.facts} for step in explanation.steps]
    whole = {"reference": explanation.reference, "resolved": explanation.is_resolved, "steps": steps}
    return json.dumps(whole, indent=4, ensure_ascii=False)
