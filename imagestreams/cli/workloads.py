"""Objects with a pod template, as people name them on the command line: `deploy/web`, `cronjob report`, `sts --all`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from imagestreams.cli.api import Resource
from imagestreams.cli.editing import decoded
from imagestreams.cli.naming import OBJECT, Kind, targets
from imagestreams.cli.options import Misuse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imagestreams.cli.api import Client

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PodKind(Kind):
    """A kind of objects that make pods; `template` is the path to its pod template, which is empty for a pod itself."""

    name: str
    template: tuple[str, ...]

    @property
    def resource(self) -> Resource:
        return Resource(self.groups[0], self.words[0], "v1")

    @property
    def api_version(self) -> str:
        return f"{self.groups[0]}/v1" if self.groups[0] else "v1"

    def pod(self, value: Object) -> Object:
        """The object's pod template; empty where it has none."""
        for part in self.template:
            value = value.get(part) or {}
        return value


def _kind(name: str, group: str, *words: str, template: tuple[str, ...] = ("spec", "template")) -> PodKind:
    singular = name.lower()
    return PodKind((f"{singular}s", singular, *words), (group,), name, template)


DEPLOYMENT: Final = _kind("Deployment", "apps", "deploy")
WORKLOAD: Final = _kind("Deployment", "apps", "deploy", "workloads", "workload")
"""`DEPLOYMENT` where no other kind can be meant."""

STATEFUL_SET: Final = _kind("StatefulSet", "apps", "sts")
DAEMON_SET: Final = _kind("DaemonSet", "apps", "ds")
CRON_JOB: Final = _kind("CronJob", "batch", "cj", template=("spec", "jobTemplate", "spec", "template"))
REPLICA_SET: Final = _kind("ReplicaSet", "apps", "rs")
REPLICATION_CONTROLLER: Final = _kind("ReplicationController", "", "rc")
JOB: Final = _kind("Job", "batch")
POD: Final = _kind("Pod", "", "po", template=())

TRIGGERED: Final = (DEPLOYMENT, STATEFUL_SET, DAEMON_SET, CRON_JOB)
"""Kinds whose triggers OpenShift follows."""

LOOKED_UP: Final = (*TRIGGERED, REPLICA_SET, REPLICATION_CONTROLLER, JOB, POD)
"""Kinds whose pods may name a stream's tags."""


class Workload(NamedTuple):
    """One object by kind and name."""

    kind: PodKind
    name: str

    @property
    def named(self) -> str:
        return self.kind.resource.named(self.name)

    @property
    def listed(self) -> str:
        """As `oc` has it in tables: deployments/web."""
        return f"{self.kind.resource.plural}/{self.name}"


def workload(kind: PodKind, name: str) -> Workload:
    """The object of that name; raises Misuse where there can be none."""
    if OBJECT.fullmatch(name) is None:
        raise Misuse(f"error: {name!r} is no name; write {kind.words[1]}/NAME")
    return Workload(kind, name)


def workloads_of(words: Sequence[str], kinds: Sequence[PodKind]) -> tuple[Workload, ...]:
    """`KIND/NAME...`, `KIND NAME...`, or `KIND`, which means all and has an empty name; raises Misuse."""
    found = targets(words, kinds)
    if len(words) == 1 and not found[0].name:
        return (Workload(*found[0]),)
    return tuple(workload(*target) for target in found)


def fetched(client: Client, namespace: str, wanted: Workload, labels: str = "") -> Iterator[tuple[Workload, Object]]:
    """The object, or all of its kind (that have the labels) where no name is given."""
    resource = wanted.kind.resource
    if wanted.name:
        yield wanted, decoded(client.get(resource.path(namespace, wanted.name)), wanted.named)
        return
    for body in client.items(resource.path(namespace), {"labelSelector": labels} if labels else {}):
        value = decoded(body, resource.plural)
        # Items of built-in lists carry neither kind nor apiVersion.
        value = {"apiVersion": wanted.kind.api_version, "kind": wanted.kind.name, **value}
        yield Workload(wanted.kind, value["metadata"]["name"]), value
