"""Stamps: what is sealed is read back, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.core.admission import Requester
from imagestreams.core.stamp import (
    MAX_AGE,
    MAX_STAMP,
    Footprint,
    ForgedStamp,
    InvalidStamp,
    StaleStamp,
    Stamp,
    canonical,
    seal,
    unseal,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
KEY, OTHER = b"k" * 32, b"o" * 32
JANE = Requester("jane", "4711", ("devs", "system:authenticated"), {"scopes.example.com": ("a", "b")})
SEEN = Footprint("4712", ("a", "", "b"))
SPEC = {
    "import": True,
    "images": [{"from": {"kind": "DockerImage", "name": "quay.io/acme/web:1"}, "to": {"name": "1"}}],
}


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def stamped(requester: Requester = JANE, *, at: datetime = NOW, key: bytes = KEY, **changes: Any) -> str:
    sealed = {"namespace": "shop", "stream": "web", "spec": encoded(SPEC), "seen": SEEN, **changes}
    return seal(requester, at=at, key=key, **sealed)


def read(text: str, *, created: datetime = NOW, keys: tuple[bytes, ...] = (KEY,), **changes: Any) -> Stamp:
    found = {"namespace": "shop", "stream": "web", "spec": encoded(SPEC), **changes}
    return unseal(text, created=created, keys=keys, **found)


MOMENTS = st.timedeltas(-timedelta(days=9999), timedelta(days=9999)).map(lambda gap: NOW + gap)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
REQUESTERS = st.builds(
    Requester,
    username=TEXTS.filter(bool),
    uid=TEXTS,
    groups=st.lists(TEXTS, max_size=3).map(tuple),
    extra=st.dictionaries(TEXTS, st.lists(TEXTS, max_size=2).map(tuple), max_size=3),
)
FOOTPRINTS = st.builds(Footprint, stream=TEXTS, places=st.lists(TEXTS, max_size=3).map(tuple))
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)
SPECS = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(REQUESTERS, st.tuples(TEXTS, TEXTS), SPECS, MOMENTS, FOOTPRINTS)
def test_what_is_sealed_is_read(requester, target, spec, at, seen):
    names = {"namespace": target[0], "stream": target[1], "spec": encoded(spec)}
    text = seal(requester, at=at, key=KEY, seen=seen, **names)
    created = at + timedelta(seconds=3)
    assert unseal(text, created=created, keys=[OTHER, KEY], **names) == (requester, at, created, seen)


@given(REQUESTERS, REQUESTERS, TEXTS, TEXTS, TEXTS)
def test_neighbouring_parts_cannot_pass_for_each_other(one, other, first, second, third):
    """Each part is sealed for itself: nothing can be moved over a border between two of them."""
    text = stamped(one, namespace=first, stream=second + third)
    if (first, second + third) != (first + second, third):
        with pytest.raises(ForgedStamp):
            read(text, namespace=first + second, stream=third)
    forged = json.loads(text) | {"requester": json.loads(stamped(other))["requester"]}
    if one != other:
        with pytest.raises(ForgedStamp):
            read(json.dumps(forged), namespace=first, stream=second + third)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"namespace": "prod"}, id="another namespace"),
        pytest.param({"stream": "api"}, id="another stream"),
        pytest.param({"stream": ""}, id="no stream"),
        pytest.param({"spec": encoded({**SPEC, "import": False})}, id="another spec"),
        pytest.param({"spec": encoded({**SPEC, "more": ""})}, id="more in the spec"),
        pytest.param({"spec": b""}, id="no spec"),
        pytest.param({"keys": (OTHER,)}, id="another key"),
        pytest.param({"keys": ()}, id="no key"),
        pytest.param({"keys": (b"",)}, id="an empty key, which everybody has"),
        pytest.param({"created": NOW + MAX_AGE + timedelta(seconds=1)}, id="copied later"),
        pytest.param({"created": NOW - MAX_AGE - timedelta(seconds=1)}, id="of the future"),
    ],
)
def test_a_stamp_is_for_one_object(changes):
    with pytest.raises(ForgedStamp):
        read(stamped(), **changes)


def renamed(stamp: dict[str, Any]) -> None:
    stamp["requester"]["username"] = "root"


def joined(stamp: dict[str, Any]) -> None:
    stamp["requester"]["groups"].append("system:masters")


def reordered(stamp: dict[str, Any]) -> None:
    stamp["requester"]["groups"].reverse()


def left(stamp: dict[str, Any]) -> None:
    del stamp["requester"]["groups"]


def reborn(stamp: dict[str, Any]) -> None:
    stamp["requester"]["uid"] = "0"


def scoped(stamp: dict[str, Any]) -> None:
    stamp["requester"]["extra"]["scopes.example.com"] = ["a"]


def delayed(stamp: dict[str, Any]) -> None:
    stamp["at"] = "2026-03-01T12:00:01.250000Z"


def emptied(stamp: dict[str, Any]) -> None:
    del stamp["seen"]


def moved(stamp: dict[str, Any]) -> None:
    stamp["seen"]["places"].reverse()


def elsewhere(stamp: dict[str, Any]) -> None:
    stamp["seen"]["stream"] = "4713"


def unsealed(stamp: dict[str, Any]) -> None:
    del stamp["seal"]


def resealed(stamp: dict[str, Any]) -> None:
    stamp["seal"] = stamp["seal"][:-1] + ("0" if stamp["seal"][-1] != "0" else "1")


def foreign(stamp: dict[str, Any]) -> None:
    stamp["seal"] = "é" * 64


def added(stamp: dict[str, Any]) -> None:
    stamp["more"] = 1


@pytest.mark.parametrize(
    "forge",
    [
        *(renamed, joined, reordered, left, reborn, scoped, delayed, emptied, moved, elsewhere),
        *(unsealed, resealed, foreign, added),
    ],
)
def test_whoever_changes_a_stamp_breaks_it(forge: Callable[[dict[str, Any]], None]):
    stamp = json.loads(stamped())
    assert read(json.dumps(stamp)) == Stamp(JANE, NOW, NOW, SEEN), "written in other words it is the same"
    forge(stamp)
    with pytest.raises(ForgedStamp):
        read(json.dumps(stamp))


@pytest.mark.parametrize(
    "text",
    ["", "jane", "null", "{}", "[]", '{"requester": "jane"}', "[" * 100_000, '"\\ud800"', stamped() + " " * MAX_STAMP],
)
def test_what_is_no_stamp(text):
    with pytest.raises(ForgedStamp):
        read(text)


def test_a_refusal_says_nothing_of_the_key():
    with pytest.raises(ForgedStamp) as refused:
        read(stamped(key=OTHER))
    for secret in (KEY.decode(), OTHER.decode(), json.loads(stamped())["seal"]):
        assert secret not in str(refused.value)


def test_what_everybody_could_seal_is_not_believed(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("imagestreams.core.stamp.LEAST_KEY", 0)
        forged = stamped(key=b"")
        assert read(forged, keys=(b"",)).requester == JANE
    with pytest.raises(ForgedStamp):
        read(forged, keys=(b"", KEY))


@pytest.mark.parametrize("gap", [timedelta(), MAX_AGE, -MAX_AGE, timedelta(seconds=25)])
def test_clocks_may_differ_and_an_answer_takes_time(gap):
    assert read(stamped(), created=NOW + gap).requester == JANE


@pytest.mark.parametrize("gap", [timedelta(seconds=90.7), -timedelta(seconds=90.7)])
def test_clocks_that_differ_too_much_are_said(gap):
    """Only of a stamp that is ours: whoever copies one learns nothing."""
    with pytest.raises(StaleStamp, match="the clocks of webhook and API server differ by 90 s"):
        read(stamped(), created=NOW + gap)
    with pytest.raises(ForgedStamp) as refused:
        read(stamped(key=OTHER), created=NOW + gap)
    assert not isinstance(refused.value, StaleStamp)


def test_the_api_servers_clock_comes_first_in_the_order_of_requests():
    def order(created: float, at: float) -> tuple[datetime, datetime]:
        moments = [NOW + timedelta(seconds=each) for each in (created, at)]
        return read(stamped(at=moments[1]), created=moments[0]).order

    assert order(0, 0) < order(0, 0.001) < order(1, -5) < order(2, -30)


def test_the_moment_counts_and_not_its_zone():
    text = stamped(at=NOW.astimezone(timezone(timedelta(hours=2))))
    assert read(text).at == NOW
    assert json.loads(text)["at"] == "2026-03-01T12:00:00.250000Z"


def test_the_keys_before_still_count():
    assert read(stamped(key=OTHER), keys=(KEY, OTHER)).requester == JANE


def test_what_was_seen_of_the_largest_request_finds_room():
    seen = Footprint("0123456789abcdef0123456789abcdef0123", ("x" * 12,) * 501)
    text = stamped(seen=seen)
    assert len(text) - len(stamped(seen=Footprint())) < 8 << 10
    assert read(text).seen == seen


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"key": b""}, "0 bytes"),
        ({"key": b"short"}, "5 bytes"),
        ({"at": NOW.replace(tzinfo=None)}, "no time zone"),
        ({"spec": b"{"}, "no JSON"),
        ({"spec": b"[" * 100_000}, "no JSON"),
        ({"spec": b"[" * 100 + b"]" * 100}, "nested"),
        ({"requester": Requester("")}, "nobody"),
        ({"requester": Requester("jane", groups=tuple(f"group-{n}" for n in range(10_000)))}, "65536 are taken"),
    ],
)
def test_what_cannot_be_stamped(changes, words):
    with pytest.raises(InvalidStamp, match=words):
        stamped(**changes)


# --- what the API server makes of a spec ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ('{"b": 1, "a": 2}', '{"a":2,"b":1}'),
        ('{"a": null, "b": {"c": null}}', '{"b":{}}'),
        ('{"a": 1.0, "b": 1e2, "c": -0.0}', '{"a":1,"b":100,"c":0}'),
        ('{"a": 123456789012345678901}', '{"a":123456789012345680000}'),
        ('{"a": "\\u00e9\\/"}', '{"a": "é/"}'),
        ('{"a": [null, {"b": null}]}', '{"a":[null,{}]}'),
        ("null", ""),
    ],
)
def test_what_means_the_same_is_the_same(sent, stored):
    assert canonical(sent.encode()) == canonical(stored.encode())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1}', '{"a": "1"}'),
        ('{"a": true}', '{"a": 1}'),
        ('{"a": []}', "{}"),
        ('{"a": ""}', "{}"),
        ('{"a": 0}', "{}"),
        ('{"a": false}', "{}"),
        ('{"a": {}}', "{}"),
        ("{}", "null"),
        ('{"a": [1, 2]}', '{"a": [2, 1]}'),
        ('{"a": [null]}', '{"a": []}'),
        ('{"a": "b "}', '{"a": "b"}'),
        ('{"a": 1.5}', '{"a": 1}'),
        ('{"a": 9007199254740993}', '{"a": 9007199254740992}'),
    ],
)
def test_what_means_something_else_is_something_else(one, other):
    assert canonical(one.encode()) != canonical(other.encode())


@given(SPECS)
def test_canonical_is_canonical(spec):
    once = canonical(encoded(spec))
    assert canonical(once) == once


def shuffled(value: object) -> object:
    """The same as another program writes it: keys the other way round, nulls added."""
    if isinstance(value, dict):
        return {"a null": None} | {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(each) for each in value] if isinstance(value, list) else value


@given(SPECS.filter(lambda spec: "a null" not in str(spec)))
def test_order_and_nulls_do_not_matter(spec):
    assert canonical(encoded(shuffled(spec))) == canonical(encoded(spec))
