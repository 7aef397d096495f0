"""One leader at a time, through all that can happen to its renewals."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from imagestreams.kube.cluster import Cluster, api_path
from imagestreams.kube.lease import INSTALL_ANNOTATION, WATERMARK_ANNOTATION, Leadership, OtherInstallation
from tests.fakes.apiserver import FakeApiServer, disconnect, raw, status
from tests.fakes.waiting import Time, until

if TYPE_CHECKING:
    from dev.control_plane import ControlPlane

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
MARK = datetime(2026, 11, 1, 11, 45, tzinfo=UTC)
LEASES = ("coordination.k8s.io/v1", "leases")


class Contender:
    """A contender whose work lasts until it is told to end, and what happened to it."""

    def __init__(self, cluster: Cluster, time: Time, identity: str, story: list[str], **options: Any) -> None:
        self.story = story
        self.identity = identity
        self.watermark: datetime | None = None
        self.given: list[datetime | None] = []
        self.finish = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.error: Exception | None = None
        self.leadership = Leadership(
            cluster,
            "imagestreams",
            "leader",
            identity,
            watermark=lambda: self.watermark,
            clock=time.clock,
            now=lambda: NOW + timedelta(seconds=time.now - 1000),
            sleep=time.sleep,
            **options,
        )
        self.leading: asyncio.Task[None] = asyncio.create_task(self.leadership.lead(self.work))

    async def work(self, watermark: datetime | None) -> None:
        self.given.append(watermark)
        self.story.append(f"{self.identity} works")
        try:
            await self.finish.wait()
            if self.error:
                raise self.error
        finally:
            await self.may_end.wait()
            self.story.append(f"{self.identity} ends")

    async def stop(self) -> None:
        self.leading.cancel()
        await asyncio.wait([self.leading])


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def story() -> list[str]:
    return []


@pytest.fixture
async def contend(cluster: Cluster, time: Time, story: list[str]):
    """Makes contenders, and stops them."""
    async with contextlib.AsyncExitStack() as stack:

        def make(identity: str, **options: Any) -> Contender:
            contender = Contender(options.pop("cluster", cluster), time, identity, story, **options)
            stack.push_async_callback(contender.stop)
            return contender

        yield make


def lease(api: FakeApiServer) -> dict[str, Any]:
    found = api.get(*LEASES, "imagestreams", "leader")
    assert found
    return found


def put_lease(
    api: FakeApiServer, holder: str, *, renewed: str = "2026-11-01T12:00:00.000000Z", **annotations: str
) -> None:
    api.put(
        {
            "apiVersion": LEASES[0],
            "kind": "Lease",
            "metadata": {"namespace": "imagestreams", "name": "leader", "annotations": annotations},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed, "leaseTransitions": 4},
        }
    )


async def test_a_free_lease_is_taken_kept_and_released(api: FakeApiServer, time: Time, contend: Any) -> None:
    one = contend("one")
    await until(lambda: one.given == [None])
    assert one.leadership.is_leader
    assert lease(api)["spec"] == {
        "holderIdentity": "one",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-11-01T12:00:00.000000Z",
        "renewTime": "2026-11-01T12:00:00.000000Z",
        "leaseTransitions": 0,
    }
    one.watermark = MARK
    await time.run(60, sleepers=1)
    assert api.count("patch") == 12
    assert lease(api)["metadata"]["annotations"] == {WATERMARK_ANNOTATION: "2026-11-01T11:45:00Z"}
    one.watermark = NOW
    one.finish.set()
    await one.leading
    assert not one.leadership.is_leader
    released = lease(api)
    assert "holderIdentity" not in released["spec"]
    assert released["spec"]["leaseDurationSeconds"] == 1
    assert released["metadata"]["annotations"] == {WATERMARK_ANNOTATION: "2026-11-01T12:00:00Z"}


async def test_a_second_waits_and_goes_on_from_the_watermark(
    api: FakeApiServer, time: Time, contend: Any, story: list[str]
) -> None:
    one = contend("one")
    await until(lambda: one.given)
    one.watermark = MARK
    two = contend("two")
    await time.run(300, sleepers=2)
    assert story == ["one works"]
    one.finish.set()
    await one.leading
    await time.run(2, sleepers=1)
    assert two.given == [MARK]
    assert story == ["one works", "one ends", "two works"]
    assert lease(api)["spec"]["leaseTransitions"] == 1
    two.watermark = None  # it has no word of its own yet: what is there stays
    await time.run(20, sleepers=1)
    assert lease(api)["metadata"]["annotations"] == {WATERMARK_ANNOTATION: "2026-11-01T11:45:00Z"}


@pytest.mark.parametrize("renewed", ["2020-01-01T00:00:00.000000Z", "2038-01-01T00:00:00.000000Z"])
async def test_anothers_lease_expires_by_our_own_clock(
    api: FakeApiServer, time: Time, contend: Any, renewed: str
) -> None:
    put_lease(api, "gone", renewed=renewed)
    one = contend("one")
    await time.run(15, sleepers=1)
    assert one.given == []
    await time.run(2, sleepers=1)
    assert one.given == [None]
    assert lease(api)["spec"]["leaseTransitions"] == 5


async def test_each_change_of_the_record_is_a_sign_of_life(api: FakeApiServer, time: Time, contend: Any) -> None:
    put_lease(api, "alive")
    one = contend("one")
    for second in range(10):
        await time.run(10, sleepers=1)
        put_lease(api, "alive", renewed=f"2026-11-01T12:01:{second:02}.000000Z")
    assert one.given == []


async def test_the_same_identity_needs_not_wait(api: FakeApiServer, contend: Any) -> None:
    put_lease(api, "one")
    one = contend("one")
    await until(lambda: one.given)
    assert lease(api)["spec"]["leaseTransitions"] == 4


@pytest.mark.parametrize(
    "fault", [status(503, "ServiceUnavailable"), disconnect(), raw(b"<html>")], ids=["refused", "broken", "nonsense"]
)
async def test_work_ends_before_a_lease_that_cannot_be_renewed(
    api: FakeApiServer, time: Time, contend: Any, story: list[str], fault: Any
) -> None:
    one = contend("one")
    await until(lambda: one.given)
    two = contend("two")
    await time.run(1, sleepers=2)
    began = time.now
    api.inject(fault, verb="patch", when=lambda seen: b'"one"' in seen.body, times=-1)
    api.inject(fault, verb="patch", when=lambda seen: b'"holderIdentity":null' in seen.body, times=1)
    while "one ends" not in story:
        await time.run(0.5, sleepers=2)
    assert 8 < time.now - began <= 11  # 15 seconds from the last renewal, less a margin of 5
    assert two.given == []
    while not two.given:
        await time.run(0.5, sleepers=2)
    assert story == ["one works", "one ends", "two works"]
    assert 13 < time.now - began < 19
    api.heal()
    two.finish.set()
    await two.leading
    await time.run(3, sleepers=1)
    assert one.given == [None, None]
    assert one.leadership.is_leader


async def test_a_renewal_that_never_comes_back(api: FakeApiServer, time: Time, contend: Any, story: list[str]) -> None:
    asked = []

    async def lost(request: Any, _: Any) -> Any:
        asked.append(request)
        time.now += 20  # the request's own timeout is real time; here the answer just comes too late
        request.transport.abort()

    one = contend("one")
    await until(lambda: one.given)
    api.inject(lost, verb="patch")
    await time.run(5, sleepers=1)
    await until(lambda: "one ends" in story)
    assert len(asked) == 1


async def test_a_renewal_whose_answer_was_lost_is_ours(
    api: FakeApiServer, time: Time, contend: Any, story: list[str]
) -> None:
    one = contend("one")
    await until(lambda: one.given)
    api.inject(disconnect(after=True), verb="patch")
    await time.run(60, sleepers=1)
    assert story == ["one works"]


async def test_somebodys_annotation_does_no_harm(
    api: FakeApiServer, cluster: Cluster, time: Time, contend: Any, story: list[str]
) -> None:
    one = contend("one")
    await until(lambda: one.given)
    await cluster.patch(api_path(*LEASES, "imagestreams", "leader"), b'{"metadata":{"annotations":{"a":"b"}}}')
    await time.run(60, sleepers=1)
    assert story == ["one works"]
    assert lease(api)["metadata"]["annotations"] == {"a": "b"}


async def test_a_lease_that_another_holds_now_is_left_alone(
    api: FakeApiServer, time: Time, contend: Any, story: list[str]
) -> None:
    one = contend("one")
    await until(lambda: one.given)
    put_lease(api, "two")
    await time.run(5, sleepers=1)
    await until(lambda: "one ends" in story)
    await time.settle(1)
    assert lease(api)["spec"]["holderIdentity"] == "two"
    await time.run(17, sleepers=1)
    assert one.given == [None, None]


async def test_a_lease_that_is_deleted_comes_back_with_its_watermark(
    api: FakeApiServer, time: Time, contend: Any, story: list[str]
) -> None:
    one = contend("one")
    await until(lambda: one.given)
    one.watermark = MARK
    await time.run(5, sleepers=1)
    api.remove(*LEASES, "imagestreams", "leader")
    await time.run(6, sleepers=1)
    assert story == ["one works", "one ends", "one works"]
    assert one.given == [None, MARK]


async def test_an_error_in_the_work_releases_the_lease(api: FakeApiServer, contend: Any) -> None:
    one = contend("one")
    await until(lambda: one.given)
    one.error = ZeroDivisionError("bug")
    one.finish.set()
    with pytest.raises(ZeroDivisionError):
        await one.leading
    assert "holderIdentity" not in lease(api)["spec"]


async def test_a_stop_lets_work_end_and_renews_meanwhile(
    api: FakeApiServer, time: Time, contend: Any, story: list[str]
) -> None:
    one = contend("one")
    await until(lambda: one.given)
    one.may_end.clear()
    one.leading.cancel()
    await time.run(60, sleepers=1)
    assert story == ["one works"]
    assert lease(api)["spec"]["holderIdentity"] == "one"
    assert not one.leadership.is_leader
    one.may_end.set()
    await asyncio.wait([one.leading])
    assert one.leading.cancelled()
    assert story == ["one works", "one ends"]
    assert "holderIdentity" not in lease(api)["spec"]


async def test_work_that_fails_while_it_is_stopped(
    api: FakeApiServer, cluster: Cluster, time: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = asyncio.Event()

    async def work(_: datetime | None) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError("bug")

    leadership = Leadership(cluster, "imagestreams", "leader", "me", watermark=lambda: None, sleep=time.sleep)
    leading = asyncio.create_task(leadership.lead(work))
    await begun.wait()
    leading.cancel()
    await asyncio.wait([leading])
    assert leading.cancelled()
    assert "bug" in capsys.readouterr().out
    assert "holderIdentity" not in lease(api)["spec"]


async def test_a_stop_while_waiting(api: FakeApiServer, time: Time, contend: Any) -> None:
    put_lease(api, "other")
    one = contend("one")
    await time.settle(1)
    await one.stop()
    assert lease(api)["spec"]["holderIdentity"] == "other"


async def test_an_api_server_that_is_away_is_waited_for(
    api: FakeApiServer, time: Time, contend: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    api.inject(status(403, "Forbidden", "no right"), times=-1)
    one = contend("one")
    await time.run(60, sleepers=1)
    assert one.given == []
    assert capsys.readouterr().out.count("no right") == 1
    api.heal()
    await time.run(2, sleepers=1)
    assert one.given == [None]


async def test_of_two_that_come_at_once_one_works(
    api: FakeApiServer, time: Time, contend: Any, story: list[str]
) -> None:
    contenders = [contend(str(number)) for number in range(5)]
    await time.settle(5)
    assert len(story) == 1
    await time.run(60, sleepers=5)
    assert len(story) == 1
    while contenders:
        leader = next(each for each in contenders if each.leadership.is_leader)
        leader.finish.set()
        await leader.leading
        contenders.remove(leader)
        if contenders:
            await time.run(3, sleepers=len(contenders))
    assert [line.split()[1] for line in story] == ["works", "ends"] * 5


@pytest.mark.parametrize(
    ("theirs", "ours", "refused"), [("a", "b", True), ("a", "a", False), ("", "b", False), ("a", "", False)]
)
async def test_two_installations(
    api: FakeApiServer, time: Time, contend: Any, theirs: str, ours: str, *, refused: bool
) -> None:
    put_lease(api, "", **({INSTALL_ANNOTATION: theirs} if theirs else {}))
    one = contend("one", install=ours)
    if refused:
        with pytest.raises(OtherInstallation, match="belongs to the installation 'a', not to 'b'"):
            await one.leading
        assert one.given == []
    else:
        await until(lambda: one.given)
        assert lease(api)["metadata"]["annotations"].get(INSTALL_ANNOTATION) == (theirs or ours)


async def test_an_installation_that_takes_over_by_force_ends_ours(
    api: FakeApiServer, time: Time, contend: Any, story: list[str]
) -> None:
    one = contend("one", install="a")
    await until(lambda: one.given)
    put_lease(api, "two", **{INSTALL_ANNOTATION: "b"})
    await time.settle(1)
    time_passes = asyncio.create_task(time.run(5, sleepers=1))
    with pytest.raises(OtherInstallation):
        await one.leading
    time_passes.cancel()
    assert story == ["one works", "one ends"]
    assert lease(api)["spec"]["holderIdentity"] == "two"


@pytest.mark.parametrize("text", ["yesterday", "2026-11-01T00:00:00"])
async def test_a_watermark_that_is_none(api: FakeApiServer, contend: Any, text: str) -> None:
    put_lease(api, "", **{WATERMARK_ANNOTATION: text})
    one = contend("one")
    await until(lambda: one.given == [None])


def test_settings_that_cannot_be_meant(cluster: Cluster) -> None:
    with pytest.raises(ValueError, match="identity"):
        Leadership(cluster, "ns", "name", "", watermark=lambda: None)
    with pytest.raises(ValueError, match="one second"):
        Leadership(cluster, "ns", "name", "me", watermark=lambda: None, duration=0.5)


async def test_a_lease_of_a_real_api_server(control_plane: ControlPlane, namespace: str) -> None:
    story: list[tuple[str, datetime | None]] = []
    mark: datetime | None = None

    async def lead(cluster: Cluster, identity: str) -> None:
        leadership = Leadership(
            cluster,
            namespace,
            "leader",
            identity,
            watermark=lambda: mark,
            duration=3,
            renew=0.1,
            retry=0.05,
            install="test",
        )
        renewals = 0

        async def work(watermark: datetime | None) -> None:
            nonlocal mark, renewals
            story.append((identity, watermark))
            mark = MARK
            await until(lambda: leadership._renewed_at > started + 0.3)

        started = asyncio.get_running_loop().time()
        await leadership.lead(work)

    async with await Cluster.connect(str(control_plane.kubeconfig)) as cluster, asyncio.TaskGroup() as group:
        group.create_task(lead(cluster, "one"))
        await until(lambda: story)
        group.create_task(lead(cluster, "two"))
    assert story == [("one", None), ("two", MARK)]
    final = control_plane.request("GET", api_path(*LEASES, namespace, "leader"))
    assert "holderIdentity" not in final["spec"]
    assert final["metadata"]["annotations"] == {
        WATERMARK_ANNOTATION: "2026-11-01T11:45:00Z",
        INSTALL_ANNOTATION: "test",
    }
