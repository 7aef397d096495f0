"""`imagestreams version`: of this program, and of what it meets in the cluster."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from imagestreams import __version__
from imagestreams.cli.options import Command, Failure, connected, connection_options, output_option, switch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imagestreams.cli.api import Client

Object = dict[str, Any]

_LABELS: Final = "app.kubernetes.io/name=imagestreams,app.kubernetes.io/component=controller"
_NAMESPACE: Final = "imagestreams-system"  # config/default's
_KINDS: Final = ("imagestreams", "imagestreamimports", "imagestreamtags", "images")


@click.command("version", cls=Command)
@switch("--client", default=False, words="Only this program's; no cluster is asked.")
@output_option("json", "yaml")
@connection_options
def command(*, client: bool, output: str | None, **connection: Any) -> int:
    """Print the version of this program, and of the controller, the API and Kubernetes in the cluster.

    The controller's is that of the image in its Deployment, if you may see it.

    \b
    Examples:
      imagestreams version
      imagestreams version --client -o json

    Exit code: 0 done, 1 the cluster cannot be asked, 2 called wrongly.
    """  # noqa: D301  # \b is click's mark for lines to keep
    found: Object = {"clientVersion": {"version": __version__, "python": _python()}}
    failure = None
    if not client:
        try:
            with connected(**connection) as (server, _):
                found["serverVersion"] = _server(server)
        except Failure as error:
            failure = error
    if output:
        from imagestreams.cli.output import as_json, as_yaml  # noqa: PLC0415

        click.echo(as_json(found) if output == "json" else as_yaml(found).rstrip("\n"))
    else:
        click.echo("\n".join(_lines(found)))
    if failure is not None:
        raise failure
    return 0


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def _server(client: Client) -> Object:
    """What can be seen; a part that cannot is None, or says why."""
    from imagestreams.cli.api import NotInstalled, Refused  # noqa: PLC0415

    found: Object = {"kubernetes": None, "apiVersion": None, "resources": [], "controllers": [], "notSeen": ""}
    version = _json(client.get("/version"))
    found["kubernetes"] = str(version.get("gitVersion") or "") or None
    try:
        resource = client.image_streams()
    except NotInstalled:
        pass
    else:
        found["apiVersion"] = f"{resource.group}/{resource.version}"
        served = client.kinds_of(found["apiVersion"])
        found["resources"] = [kind for kind in _KINDS if kind in served]
    try:
        found["controllers"] = list(_controllers(client))
    except Refused as refused:
        found["notSeen"] = refused.message
    return found


def _controllers(client: Client) -> Iterator[Object]:
    """The controllers' Deployments: of all namespaces, or else of the one that manifests put it in."""
    from imagestreams.cli.api import Refused, Resource  # noqa: PLC0415

    deployments = Resource("apps", "deployments")
    try:
        bodies = client.items(deployments.path(""), {"labelSelector": _LABELS})
    except Refused as refused:
        if refused.status != 403:
            raise
        bodies = client.items(deployments.path(_NAMESPACE), {"labelSelector": _LABELS})
    for body in bodies:
        found = _json(body)
        containers = found["spec"]["template"]["spec"].get("containers") or [{}]
        own = next((each for each in containers if each.get("name") == "controller"), containers[0])
        image = str(own.get("image") or "")
        _, _, tag = image.partition("@")[0].rpartition("/")[2].partition(":")
        yield {
            "namespace": found["metadata"].get("namespace", ""),
            "name": found["metadata"]["name"],
            "image": image,
            "version": tag or None,
            "replicas": int(found["spec"].get("replicas", 1)),
            "ready": int((found.get("status") or {}).get("readyReplicas", 0)),
        }


def _json(body: bytes) -> Object:
    import json  # noqa: PLC0415

    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Failure("error: the server answered with something that is no Kubernetes API's answer")
    return found


def _lines(found: Object) -> Iterator[str]:
    from imagestreams.cli.table import printable  # noqa: PLC0415

    yield f"Client:      {found['clientVersion']['version']}"
    server = found.get("serverVersion")
    if server is None:
        return
    for each in server["controllers"]:
        place = f"{each['namespace']}/{each['name']}, {each['ready']} of {each['replicas']} ready"
        yield printable(f"Controller:  {each['version'] or each['image']} ({place})")
    if not server["controllers"]:
        yield printable(f"Controller:  not seen{': ' + server['notSeen'] if server['notSeen'] else ''}")
    kinds = ", ".join(server["resources"])
    yield f"API:         {server['apiVersion']} ({kinds})" if kinds else "API:         not installed"
    yield printable(f"Kubernetes:  {server['kubernetes'] or 'unknown'}")
