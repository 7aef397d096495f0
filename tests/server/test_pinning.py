"""The doors of workloads: what they know, what they ask for, and that they never stand in the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from imagestreams.core.admission import Allowed, Requester, Review
from imagestreams.core.policy import Policy
from imagestreams.core.stream import ImageStream, ObjectKey, decode
from imagestreams.core.trigger import TriggerRules
from imagestreams.kube.errors import ApiError, Unreachable
from imagestreams.server.admission import Door
from imagestreams.server.pinning import PinningDoor
from imagestreams.server.resolving import ResolvingDoor
from tests.core.streams import NOW, digest, pinned
from tests.core.workloads import Json, deployment
from tests.fakes.patching import json_patched
from tests.server.conftest import TOKEN, Webhooks, review_of

CONTROLLER = "system:serviceaccount:imagestreams-system:imagestreams"


def stream(namespace: str = "team", name: str = "app", *, is_local: bool = False, reference: str = "") -> ImageStream:
    item = (
        {"dockerImageReference": reference}
        if reference
        else {"dockerImageReference": pinned("a"), "image": digest("a")}
    )
    body = {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"lookupPolicy": {"local": is_local}},
        "status": {"tags": [{"tag": "latest", "items": [item]}]},
    }
    return decode(json.dumps(body).encode())


@dataclass
class Known:
    """What a door knows of the cluster, and what it was asked."""

    streams: dict[ObjectKey, ImageStream] = field(
        default_factory=lambda: {
            ObjectKey(namespace, "app"): stream(namespace) for namespace in ("team", "kube-system")
        }
    )
    is_synced: bool = True
    is_observing: bool = False
    rules: TriggerRules = field(default_factory=TriggerRules)
    rights: set[tuple[str, ObjectKey]] = field(default_factory=set)
    error: Exception | None = None
    asked: list[tuple[str, ObjectKey]] = field(default_factory=list)

    async def may_pull(self, consumer: str, key: ObjectKey) -> bool:
        self.asked.append((consumer, key))
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return (consumer, key) in self.rights

    def pinning(self) -> PinningDoor:
        return PinningDoor(
            streams=self.streams.get,
            synced=lambda: self.is_synced,
            may_pull=self.may_pull,
            rules=lambda: self.rules,
            excluded=frozenset({"kube-system"}),
            is_observing=self.is_observing,
            clock=lambda: NOW,
        )

    def resolving(self) -> ResolvingDoor:
        return ResolvingDoor(
            streams=self.streams.get,
            synced=lambda: self.is_synced,
            policy=lambda: self.rules.policy,
            excluded=frozenset({"kube-system"}),
            is_observing=self.is_observing,
        )


def review(body: Json, **fields: Any) -> Review:
    asked = Review(
        uid="1",
        operation="CREATE",
        group="apps",
        version="v1",
        resource="deployments",
        subresource="",
        kind="Deployment",
        namespace="team",
        name="shop",
        requester=Requester("jane"),
        object=json.dumps(body).encode(),
        old=b"",
        is_dry_run=False,
    )
    return replace(asked, **fields)


async def images(door: Callable[[Review], Awaitable[object]], body: Json, **fields: Any) -> list[str]:
    """What the containers are stored with."""
    verdict = await door(review(body, **fields))
    assert isinstance(verdict, Allowed)
    stored = json_patched(body, list(verdict.patch))
    return [each["image"] for each in stored["spec"]["template"]["spec"]["containers"]]


FOLLOWING = deployment("x/placeholder", follow="web=app")


async def test_a_workload_is_stored_with_its_tags_image():
    assert await images(Known().pinning(), FOLLOWING) == [pinned("a")]
    assert await images(Known().pinning(), FOLLOWING, is_dry_run=True) == [pinned("a")]


@pytest.mark.parametrize(
    ("known", "fields"),
    [
        pytest.param(Known(is_synced=False), {}, id="not all streams are known yet"),
        pytest.param(Known(is_observing=True), {}, id="only observing"),
        pytest.param(Known(streams={}), {}, id="no such stream"),
        pytest.param(Known(streams={ObjectKey("team", "app"): stream(reference="a b")}), {}, id="no usable image"),
        pytest.param(
            Known(rules=TriggerRules(policy=Policy(hosts={}, blocked=("quay.io",)))), {}, id="the policy refuses it"
        ),
        pytest.param(Known(), {"namespace": "kube-system"}, id="an excluded namespace"),
        pytest.param(Known(), {"object": b"{"}, id="what cannot be read"),
    ],
)
async def test_a_workload_passes_as_it_is(known: Known, fields: dict[str, Any]):
    assert await known.pinning()(review(FOLLOWING, **fields)) == Allowed()


OTHER = ObjectKey("other", "app")
ACROSS = deployment(follow="web=other/app, log=app", containers={"web": "x/web", "log": "x/log"})


@pytest.mark.parametrize(
    ("rights", "error", "web"),
    [
        pytest.param({("team", OTHER)}, None, pinned("a"), id="given"),
        pytest.param({("elsewhere", OTHER)}, None, "x/web", id="given to another namespace"),
        pytest.param(set(), None, "x/web", id="not given"),
        pytest.param({("team", OTHER)}, Unreachable("no answer"), "x/web", id="nobody knows"),
        pytest.param({("team", OTHER)}, ApiError("no"), "x/web", id="nobody knows, for another reason"),
    ],
)
async def test_another_namespaces_stream_needs_the_right_to_pull(
    rights: set[tuple[str, ObjectKey]], error: ApiError | None, web: str
):
    known = Known(rights=rights, error=error)
    known.streams[OTHER] = stream("other")
    assert await images(known.pinning(), ACROSS) == [web, pinned("a")]
    assert known.asked == [("team", OTHER)]


async def test_for_an_absent_stream_the_right_is_asked_for_as_well():
    """Or an answer's time would tell what is there."""
    known = Known()
    assert await images(known.pinning(), ACROSS) == ["x/web", pinned("a")]
    assert known.asked == [("team", OTHER)]


async def test_for_a_stream_of_its_own_namespace_nothing_is_asked():
    known = Known()
    await known.pinning()(review(FOLLOWING))
    assert known.asked == []


async def test_rules_that_change_count_at_once():
    known = Known()
    door = known.pinning()
    known.rules = TriggerRules(policy=Policy(hosts={}, blocked=("quay.io",)))
    assert await images(door, FOLLOWING) == ["x/placeholder"]


# --- names ------------------------------------------------------------------------------------------------------------


def _local() -> dict[ObjectKey, ImageStream]:
    return {ObjectKey("team", "app"): stream(is_local=True), ObjectKey("kube-system", "app"): stream(is_local=True)}


@pytest.mark.parametrize(
    ("known", "fields", "image"),
    [
        pytest.param(Known(_local()), {}, pinned("a"), id="resolved"),
        pytest.param(Known(_local(), is_synced=False), {}, "app", id="not all streams are known yet"),
        pytest.param(Known(_local(), is_observing=True), {}, "app", id="only observing"),
        pytest.param(Known(), {}, "app", id="the stream is not for that"),
        pytest.param(Known(_local()), {"namespace": "kube-system"}, "app", id="an excluded namespace"),
        pytest.param(
            Known(_local(), rules=TriggerRules(policy=Policy(hosts={}, blocked=("quay.io",)))), {}, "app", id="refused"
        ),
    ],
)
async def test_a_short_name_is_resolved(known: Known, fields: dict[str, Any], image: str):
    assert await images(known.resolving(), deployment("app"), **fields) == [image]


async def test_a_short_name_and_a_followed_tag_are_the_same_image():
    known = Known(_local())
    body = deployment("app", follow="web=app")
    pinned_first = await known.pinning()(review(body))
    assert isinstance(pinned_first, Allowed)
    stored = json_patched(body, list(pinned_first.patch))
    assert await images(known.resolving(), stored) == [pinned("a")]


# --- at the door ------------------------------------------------------------------------------------------------------


async def test_whatever_happens_nobody_is_kept_out(webhooks: Webhooks):
    async def never(consumer: str, key: ObjectKey) -> bool:
        await asyncio.Event().wait()
        return consumer == key.name

    known = Known(error=RuntimeError("a bug"))
    slow = replace(known)
    slow.may_pull = never  # type: ignore[method-assign]
    webhooks.doors = {
        "pinning": Door(known.pinning(), 1.8, 8, fails_open=True),
        "slow": Door(slow.pinning(), 0.05, 8, fails_open=True),
    }
    await webhooks.start()
    for door in webhooks.doors:
        response = await webhooks.ask(f"/admit/{door}/{TOKEN}", review_of(object=ACROSS, namespace="team"))
        assert response["allowed"] is True
        assert "patch" not in response
        assert "taken as it is" in response["warnings"][0]
    response = await webhooks.ask(f"/admit/pinning/{TOKEN}", review_of(object=FOLLOWING, namespace="team"))
    assert "patch" in response
