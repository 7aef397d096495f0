"""The flags by which commands say how a tag is imported, and what else commands that write have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from imagestreams.cli.api import Client, Resource

_Function = TypeVar("_Function", bound="Callable[..., Any]")


class Where(NamedTuple):
    """The namespace that is acted in, and by what."""

    client: Client
    resource: Resource
    namespace: str


def filled(text: str) -> str:
    """The type of an option that means something else without a value: in a script, a variable that is not set."""
    if not text.strip():
        raise click.BadParameter("it is empty; leave the flag out, or give it a value")
    return text


def _reference_policy(text: str) -> str:
    words = {"source": "Source", "local": "Local"}
    if text.lower() not in words:
        raise click.BadParameter(f"{text!r} is neither source nor local")
    return words[text.lower()]


def _import_mode(text: str) -> str:
    words = {"legacy": "Legacy", "preserveoriginal": "PreserveOriginal"}
    if text.lower() not in words:
        raise click.BadParameter(f"{text!r} is neither Legacy nor PreserveOriginal")
    return words[text.lower()]


def reference_policy_option(function: _Function) -> _Function:
    """The argument `reference_policy`: Source, Local, or None where it is not given."""
    return click.option(
        "--reference-policy",
        type=_reference_policy,
        default=None,
        metavar="source|local",
        help="Followers get the source's address, or that of the cluster's registry; a tag keeps its own if not given.",
    )(function)


def import_mode_option(function: _Function) -> _Function:
    """The argument `import_mode`: Legacy, PreserveOriginal, or None where it is not given."""
    return click.option(
        "--import-mode",
        type=_import_mode,
        default=None,
        metavar="Legacy|PreserveOriginal",
        help="Of an image for several platforms: the image of one, or all of them; a tag keeps its own if not given.",
    )(function)
