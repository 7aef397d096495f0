"""Objects with a pod template, as people name them on the command line: `deploy/web`, `cronjob report`, `sts --all`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from imagestreams.cli.api import Resource
from imagestreams.cli.editing import decoded
from imagestreams.cli.options import Misuse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imagestreams.cli.api import Client

Object = dict[str, Any]


class Kind(NamedTuple):
    """A kind; `template` is the path to its pod template, which is empty for a pod itself."""

    name: str
    resource: Resource
    words: tuple[str, ...]
    template: tuple[str, ...] = ("spec", "template")

    @property
    def api_version(self) -> str:
        return f"{self.resource.group}/{self.resource.version}" if self.resource.group else self.resource.version

    def pod(self, value: Object) -> Object:
        """The object's pod template; empty where it has none."""
        for part in self.template:
            value = value.get(part) or {}
        return value


DEPLOYMENT: Final = Kind("Deployment", Resource("apps", "deployments", "v1"), ("deployments", "deployment", "deploy"))
STATEFUL_SET: Final = Kind(
    "StatefulSet", Resource("apps", "statefulsets", "v1"), ("statefulsets", "statefulset", "sts")
)
DAEMON_SET: Final = Kind("DaemonSet", Resource("apps", "daemonsets", "v1"), ("daemonsets", "daemonset", "ds"))
CRON_JOB: Final = Kind(
    "CronJob",
    Resource("batch", "cronjobs", "v1"),
    ("cronjobs", "cronjob", "cj"),
    ("spec", "jobTemplate", "spec", "template"),
)
REPLICA_SET: Final = Kind("ReplicaSet", Resource("apps", "replicasets", "v1"), ("replicasets", "replicaset", "rs"))
REPLICATION_CONTROLLER: Final = Kind(
    "ReplicationController",
    Resource("", "replicationcontrollers", "v1"),
    ("replicationcontrollers", "replicationcontroller", "rc"),
)
JOB: Final = Kind("Job", Resource("batch", "jobs", "v1"), ("jobs", "job"))
POD: Final = Kind("Pod", Resource("", "pods", "v1"), ("pods", "pod", "po"), ())

TRIGGERED: Final = (DEPLOYMENT, STATEFUL_SET, DAEMON_SET, CRON_JOB)
"""Kinds whose triggers OpenShift follows."""

LOOKED_UP: Final = (*TRIGGERED, REPLICA_SET, REPLICATION_CONTROLLER, JOB, POD)
"""Kinds whose pods may name a stream's tags."""

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")


class Workload(NamedTuple):
    """One object by kind and name."""

    kind: Kind
    name: str

    @property
    def named(self) -> str:
        return self.kind.resource.named(self.name)

    @property
    def listed(self) -> str:
        """As `oc` has it in tables: deployments/web."""
        return f"{self.kind.resource.plural}/{self.name}"


def kind_of(word: str, kinds: Sequence[Kind]) -> Kind | None:
    """The kind that a word means, also in capitals and with its group: `deploy`, `deployments.apps`."""
    plain, _, group = word.lower().partition(".")
    return next(
        (kind for kind in kinds if plain in kind.words and kind.resource.group.startswith(group.partition(".")[0])),
        None,
    )


def parse_workloads(words: Sequence[str], kinds: Sequence[Kind]) -> tuple[Workload, ...]:
    """`KIND/NAME...`, `KIND NAME...`, or `KIND`, which means all and has an empty name.

    Raises:
        Misuse: another kind, no name, or both ways at once.
    """
    known = ", ".join(kind.words[1] for kind in kinds)
    found: list[Workload] = []
    if any("/" in word for word in words):
        for word in words:
            kind_word, slash, name = word.partition("/")
            if not slash:
                raise Misuse(f"error: write {word!r} as KIND/NAME, since others are written so")
            found.append(_workload(kind_word, name, kinds, known))
        return tuple(found)
    kind = kind_of(words[0], kinds)
    if kind is None:
        raise Misuse(f"error: {words[0]!r} is none of the kinds {known}")
    return tuple(_workload(words[0], name, kinds, known) for name in words[1:]) or (Workload(kind, ""),)


def _workload(word: str, name: str, kinds: Sequence[Kind], known: str) -> Workload:
    kind = kind_of(word, kinds)
    if kind is None:
        raise Misuse(f"error: {word!r} is none of the kinds {known}")
    if _NAME.fullmatch(name) is None:
        raise Misuse(f"error: {name!r} is no name; write {kind.words[1]}/NAME")
    return Workload(kind, name)


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
