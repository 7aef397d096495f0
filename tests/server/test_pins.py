"""The door of pins: who pinned what is what the API server says."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from imagestreams.core.admission import Allowed, Denied, Requester, Review, Verdict
from imagestreams.core.pins import MAX_TEXT, encode_pins, parse_pins
from imagestreams.core.stream import PINS_ANNOTATION
from imagestreams.server.pins import PinsDoor
from tests.core.streams import NOW, digest
from tests.fakes.patching import json_patched

Json = dict[str, Any]

YESTERDAY = "2026-02-28T12:00:00Z"
TODAY = "2026-03-01T12:00:00Z"
HELD = {"digest": digest("a"), "reason": "checkout fails"}
BY_JOE = {**HELD, "by": "joe", "at": YESTERDAY}
BY_JANE = {**HELD, "by": "jane", "at": TODAY}
GROUP = "image.openshift.io"


def stream(pins: object, **metadata: Any) -> Json:
    text = pins if isinstance(pins, str) else json.dumps(pins)
    annotations = {} if pins is None else {PINS_ANNOTATION: text}
    return {"metadata": {"name": "app", "annotations": {"note": "x", **annotations}, **metadata}}


def review(body: Json, before: Json | None = None, **fields: Any) -> Review:
    asked = Review(
        uid="1",
        operation="CREATE" if before is None else "UPDATE",
        group=GROUP,
        version="v1",
        resource="imagestreams",
        subresource="",
        kind="ImageStream",
        namespace="team",
        name="app",
        requester=Requester("jane"),
        object=json.dumps(body).encode(),
        old=b"" if before is None else json.dumps(before).encode(),
        is_dry_run=False,
    )
    return replace(asked, **fields)


async def ask(asked: Review, now: datetime = NOW) -> Verdict:
    return await PinsDoor(group=GROUP, clock=lambda: now)(asked)


async def stored(pins: object, before: object = None, *, is_new: bool = False, **fields: Any) -> Json:
    """The pins as they are stored. Being asked again changes nothing."""
    body, old = stream(pins), None if is_new else stream(before)
    verdict = await ask(review(body, old, **fields))
    assert isinstance(verdict, Allowed), verdict
    after = json_patched(body, list(verdict.patch))
    assert await ask(review(after, old, **fields)) == Allowed(warnings=verdict.warnings) or is_new
    assert after["metadata"]["annotations"].pop("note") == "x"
    found: Json = json.loads(after["metadata"]["annotations"].get(PINS_ANNOTATION, "null"))
    return found


@pytest.mark.parametrize(
    ("before", "written", "found"),
    [
        pytest.param(None, {"v1": HELD}, {"v1": BY_JANE}, id="the first"),
        pytest.param(None, {"v1": BY_JOE}, {"v1": BY_JANE}, id="in another's name"),
        pytest.param({"v1": BY_JOE}, {"v1": BY_JOE, "v2": HELD}, {"v1": BY_JOE, "v2": BY_JANE}, id="one more"),
        pytest.param({"v1": BY_JOE}, {"v1": {**BY_JOE, "by": "ann"}}, {"v1": BY_JOE}, id="only the name"),
        pytest.param({"v1": BY_JOE}, {"v1": {**BY_JOE, "at": TODAY}}, {"v1": BY_JOE}, id="only the time"),
        pytest.param({"v1": BY_JOE}, {"v1": HELD}, {"v1": BY_JOE}, id="a manifest applied again"),
        pytest.param(
            {"v1": BY_JOE},
            {"v1": {**BY_JOE, "digest": digest("b")}},
            {"v1": {**BY_JANE, "digest": digest("b")}},
            id="another digest",
        ),
        pytest.param(
            {"v1": BY_JOE},
            {"v1": {**BY_JOE, "reason": "still"}},
            {"v1": {**BY_JANE, "reason": "still"}},
            id="another reason",
        ),
        pytest.param({"v1": BY_JOE, "v2": BY_JOE}, {"v2": BY_JOE}, {"v2": BY_JOE}, id="one less"),
        pytest.param({"v1": BY_JOE}, {}, {}, id="none any more"),
        pytest.param({"v1": BY_JOE}, None, None, id="no annotation any more"),
        pytest.param({"v1": BY_JOE}, {"v2": BY_JOE}, {"v2": BY_JANE}, id="the same for another tag"),
        pytest.param("{broken", {"v1": BY_JOE}, {"v1": BY_JANE}, id="after a broken one"),
    ],
)
async def test_who_pinned_is_who_asked(before: object, written: object, found: object):
    assert await stored(written, before) == found


async def test_a_new_streams_pins_are_its_creators():
    assert await stored({"v1": BY_JOE, "v2": HELD}, is_new=True) == {"v1": BY_JANE, "v2": BY_JANE}


async def test_a_later_edit_signs_only_what_it_changes():
    first = await stored({"v1": HELD})
    verdict = await ask(
        review(stream({**first, "v2": HELD}), stream(first), requester=Requester("ann")), NOW + timedelta(hours=1)
    )
    assert isinstance(verdict, Allowed)
    pins = parse_pins(str(verdict.patch[0]["value"])).pins
    assert (pins["v1"].by, pins["v1"].at) == ("jane", NOW)
    assert (pins["v2"].by, pins["v2"].at) == ("ann", NOW + timedelta(hours=1))
    assert verdict.patch[0]["value"] == encode_pins(pins)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        pytest.param("{broken", "is no JSON", id="no JSON"),
        pytest.param("[]", "is no JSON object", id="a list"),
        pytest.param('{"v1": "sha256:x"}', "it is no object", id="a digest alone"),
        pytest.param({"v1": {"digest": "latest"}}, '"latest"', id="a tag for a digest"),
        pytest.param({"v1": BY_JOE, "v2": {}}, "missing", id="one without a digest"),
        pytest.param({"a b": BY_JOE}, "no tag's name", id="no tag"),
        pytest.param("x" * (MAX_TEXT + 1), "is longer than", id="too long"),
        pytest.param("[" * 9000, "nested too deeply", id="nested"),
    ],
)
@pytest.mark.parametrize("is_new", [True, False])
async def test_what_cannot_be_read_is_refused_with_the_way_out(written: object, says: str, is_new: bool):
    verdict = await ask(review(stream(written), None if is_new else stream({"v1": BY_JOE})))
    assert isinstance(verdict, Denied)
    assert (verdict.code, verdict.reason) == (422, "Invalid")
    assert says in verdict.message
    assert len(verdict.message) < 2000


@pytest.mark.parametrize("is_new", [True, False])
async def test_what_would_be_too_long_when_it_is_signed_is_refused(is_new: bool):
    """Else nobody could read it any more, and no pin would act."""
    pins = {f"t{number}": {"digest": digest("a"), "reason": "x" * 20} for number in range(500)}
    assert len(json.dumps(pins)) <= MAX_TEXT
    verdict = await ask(review(stream(pins), None if is_new else stream({})))
    assert isinstance(verdict, Denied)
    assert (verdict.code, verdict.reason) == (422, "Invalid")
    assert "64 KiB" in verdict.message
    assert "fewer" in verdict.message


UNREADABLE_THEN = [
    pytest.param({"digest": "latest"}, id="a tag for a digest"),
    pytest.param("sha256:x", id="no object"),
    pytest.param(None, id="null"),
    pytest.param({"digest": [1, {"a": 1.5}]}, id="more of it"),
]


@pytest.mark.parametrize("broken", UNREADABLE_THEN)
async def test_an_entry_that_was_broken_before_is_in_nobodys_way(broken: object):
    old = {"v1": BY_JOE, "v2": broken, "a b": BY_JOE}
    body = stream({"v3": HELD, **dict(reversed(old.items()))})
    verdict = await ask(review(body, stream(old)))
    assert isinstance(verdict, Allowed)
    assert len(verdict.warnings) == 2
    assert any('"v2"' in warning for warning in verdict.warnings)
    after = json_patched(body, list(verdict.patch))
    found = json.loads(after["metadata"]["annotations"][PINS_ANNOTATION])
    assert found == {**old, "v3": BY_JANE}, "what nobody understands is kept"
    assert await ask(review(after, stream(old))) == Allowed(warnings=verdict.warnings)


@pytest.mark.parametrize(
    ("before", "written"),
    [
        pytest.param({"v1": {"digest": "b"}}, {"v1": {"digest": "c"}}, id="broken in another way"),
        pytest.param({"v1": BY_JOE}, {"v1": {**BY_JOE, "digest": "b"}}, id="it could be read"),
        pytest.param({"v1": {"digest": "b"}}, {"v2": {"digest": "b"}}, id="the same for another tag"),
        pytest.param("{broken", {"v1": {"digest": "b"}}, id="nothing could be read"),
        pytest.param(None, {"v1": None}, id="new"),
        pytest.param("[]", '{"v1": 1}', id="no entries"),
    ],
)
async def test_an_entry_that_this_request_breaks_is_refused(before: object, written: object):
    verdict = await ask(review(stream(written), stream(before)))
    assert isinstance(verdict, Denied)
    assert (verdict.code, verdict.reason) == (422, "Invalid")


async def test_a_refusal_names_what_was_changed_and_not_what_was_there():
    old = {f"a{number}": {} for number in range(5)}
    verdict = await ask(review(stream({**old, "v1": {}}), stream(old)))
    assert isinstance(verdict, Denied)
    assert '"v1"' in verdict.message
    assert '"a0"' not in verdict.message


async def test_many_faults_are_told_in_a_few_words():
    verdict = await ask(review(stream({f"t{number}": {} for number in range(900)})))
    assert isinstance(verdict, Denied)
    assert len(verdict.message) < 2000


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(review(stream(None)), id="no pins"),
        pytest.param(review(stream("{broken"), stream("{broken")), id="a broken one that was there"),
        pytest.param(review(stream({"v1": BY_JOE}), stream({"v1": BY_JOE})), id="unchanged"),
        pytest.param(review({"metadata": {"name": "x", "annotations": None}}), id="annotations null"),
        pytest.param(review({}), id="no metadata"),
        pytest.param(review({}, object=b"["), id="what cannot be read"),
        pytest.param(review({}, object=b""), id="nothing"),
        pytest.param(review(stream("{broken"), group="example.com"), id="another group"),
        pytest.param(review(stream("{broken"), resource="images"), id="another resource"),
        pytest.param(review(stream("{broken"), subresource="status"), id="a subresource"),
    ],
)
async def test_what_passes_as_it_is(asked: Review):
    assert await ask(asked) == Allowed()


async def test_faults_that_release_nothing_are_told():
    verdict = await ask(review(stream({"v1": {**HELD, "reason": 5}})))
    assert isinstance(verdict, Allowed)
    assert "reason" in verdict.warnings[0]
    assert verdict.patch
