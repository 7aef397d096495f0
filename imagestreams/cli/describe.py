"""`imagestreams describe`: all that is known of a stream, tag, image or workload, and why it is not updated."""

from __future__ import annotations

from typing import Any

import click

from imagestreams.cli.options import Command, Misuse, connected, connection_options, shown, switch


@click.command("describe", cls=Command)
@click.argument("what", nargs=-1, metavar="KIND [NAME]...")
@switch("--show-events", default=True, words="Show the Events about it, too.")
@connection_options
def command(what: tuple[str, ...], *, show_events: bool, **connection: Any) -> int:
    """Tell all about image streams, tags, images or Deployments.

    KIND is stream, tag, image or deployment, or one of their short names (is, istag, isimage, deploy); KIND/NAME is
    understood, too, and STREAM:TAG alone is a tag. Without a name it is about all of the namespace; of the Deployments
    about those that follow a tag.

    Of a Deployment it says for each container which tag it follows, what the tag has, what was last set and why, and
    if it does not run what the tag has: why not, and what to do. What you have no right to see is said to be not seen.

    \b
    Examples:
      imagestreams describe stream web
      imagestreams describe web:stable
      imagestreams describe deploy/web
      imagestreams describe image web@sha256:4f9a

    Exit code: 0 done, 1 something named was not found or the server refused, 2 called wrongly.
    """  # noqa: D301  # \b is click's mark for lines to keep
    from imagestreams.cli.inspection import Inspector, wanted_by  # noqa: PLC0415  # `--help` needs none

    if not what:
        raise Misuse("error: say what to describe: KIND NAME, KIND/NAME or STREAM:TAG")
    wanted = wanted_by(what)
    with connected(**connection) as (client, access):
        inspector = Inspector(client, client.image_streams(), access.namespace, with_events=show_events)
        texts = [text for target in wanted for text in inspector.texts(target)]
    if texts:
        click.echo("\n\n\n".join(texts))
    elif not inspector.problems:
        click.echo(f"No resources found in {access.namespace} namespace.", err=True)
    if inspector.problems:
        click.echo("\n".join(map(shown, inspector.problems)), err=True)
    return 1 if inspector.problems else 0
