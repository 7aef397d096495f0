"""A tag's revisions: their numbers, what holds the tag, and which revision is meant by who goes back."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from imagestreams.cli.options import Failure, Misuse
from imagestreams.cli.revisions import History, chosen, history_of, named_tag, short
from imagestreams.core.pins import Pin
from tests.cli.shop import NOW, decoded, stream, tag

A, B, C, D = (f"sha256:{letter * 64}" for letter in "abcd")
PINS = "imagestreams.dev/pins"


def event(image: str, age: float) -> dict[str, Any]:
    created = (NOW - timedelta(minutes=age)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"created": created, "dockerImageReference": f"quay.io/acme/web@{image}", "image": image, "generation": 1}


def held(status: str = "True", age: float = 0) -> dict[str, Any]:
    since = (NOW - timedelta(minutes=age)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "Pinned", "status": status, "reason": "Pinned", "message": "held", "lastTransitionTime": since}


def recorded(*images: str, condition: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """What status says of the tag `1`: images newest first, each a minute older than the one before, the first now."""
    conditions = [{"type": "ImportSuccess", "status": "True"}, *([condition] if condition else [])]
    return {
        "tag": "1",
        "items": [event(image, age) for age, image in enumerate(images)],
        "conditions": conditions,
        **more,
    }


def history(status: dict[str, Any] | None, pins: Any = None) -> History:
    value = stream(tag("1"), annotations={PINS: json.dumps(pins)} if pins is not None else {})
    return history_of(decoded({**value, "status": {"tags": [status] if status else []}}), "1")


# ---- names ----


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("web:1", ("web", "1")),
        ("web", ("web", "latest")),
        ("is/web:1", ("web", "1")),
        ("istag/web:1", ("web", "1")),
        ("imagestreams.image.openshift.io/web", ("web", "latest")),
    ],
)
def test_a_tag_is_named(text: str, named: tuple[str, str]):
    assert named_tag(text) == named


@pytest.mark.parametrize("text", ["shop/web:1", "deploy/web", "web:", "Web", "web@sha256:1", "is/", ""])
def test_what_names_no_tag(text: str):
    with pytest.raises(Misuse):
        named_tag(text)


# ---- revisions ----


def test_the_newest_revision_has_the_highest_number():
    found = history(recorded(C, B, A))
    assert [(each.number, each.image) for each in found.revisions] == [(1, A), (2, B), (3, C)]
    assert found.current == found.revisions[-1]
    assert (found.pin, found.served, found.failure) == (None, "", "")


def test_numbers_go_on_when_older_revisions_were_dropped():
    assert [each.number for each in history(recorded(C, B, revision=7)).revisions] == [6, 7]


def test_a_tag_that_there_is_not_is_told_with_those_that_there_are():
    value = stream(tag("1"), tag("2"))
    with pytest.raises(Failure, match=r'error: the image stream web has no tag "3"; it has: 1, 2$'):
        history_of(decoded(value), "3")
    with pytest.raises(Failure, match=r"it has none$"):
        history_of(decoded(stream()), "3")
    many = stream(*(tag(f"t{number:02}") for number in range(12)))
    with pytest.raises(Failure, match=r"t08, t09 and 2 more$"):
        history_of(decoded(many), "3")


def test_a_tag_that_was_never_imported_has_no_revisions():
    found = history(None)
    assert (found.revisions, found.current) == ((), None)


def test_a_tag_that_is_no_longer_in_spec_has_its_history():
    value = {**stream(), "status": {"tags": [recorded(A)]}}
    assert [each.image for each in history_of(decoded(value), "1").revisions] == [A]


@pytest.mark.parametrize(
    ("status", "pins", "pin", "is_moved"),
    [
        pytest.param(
            recorded(A, B, A, condition=held()), {"1": {"digest": A, "by": "j"}}, Pin(A, by="j"), True, id="it"
        ),
        pytest.param(recorded(B, A, condition=held(age=-1)), {"1": {"digest": B}}, Pin(B), False, id="at what it had"),
        pytest.param(recorded(A, B, A, condition=held()), {"1": {"digest": B}}, Pin(A), True, id="not carried out yet"),
        pytest.param(recorded(A, B, A, condition=held()), {}, Pin(A), True, id="not let go yet"),
        pytest.param(recorded(B, A, condition=held("False")), {"1": {"digest": C}}, None, False, id="unknown"),
        pytest.param(recorded(B, A), {"1": {"digest": A}}, None, False, id="not seen by the controller yet"),
    ],
)
def test_what_holds_a_tag_is_what_status_says(status: dict[str, Any], pins: Any, pin: Pin | None, is_moved: bool):
    found = history(status, pins)
    assert (found.pin, found.is_moved) == (pin, is_moved)


def observed(
    digest: str, kind: str = "DockerImage", mode: str = "PreserveOriginal", name: str = "quay.io/acme/web"
) -> dict[str, Any]:
    return {"from": {"kind": kind, "name": name}, "importMode": mode, "digest": digest}


@pytest.mark.parametrize(
    ("status", "served"),
    [
        (recorded(A, B, condition=held(), observed=observed(C)), C),
        (recorded(A, B, condition=held(), observed=observed(A)), ""),
        (recorded(A, B, condition=held(), observed=observed(C, mode="Legacy")), ""),
        (recorded(A, B, condition=held(), observed=observed(C, kind="ImageStreamTag")), ""),
        (recorded(A, B, observed=observed(C)), ""),
    ],
)
def test_what_a_held_tag_would_have(status: dict[str, Any], served: str):
    assert history(status).served == served


# ---- which one is meant ----


def images_after(*images: str, condition: dict[str, Any] | None = None, **how: Any) -> tuple[int, str]:
    given = {"to": None, "number": None, **how}
    found = chosen(history(recorded(*images, condition=condition)), to=given["to"], number=given["number"])
    return found.number, found.image


@pytest.mark.parametrize(
    ("images", "condition", "number", "image"),
    [
        pytest.param((C, B, A), None, 2, B, id="the one before"),
        pytest.param((C, B, A), held(age=-1), 2, B, id="held at what it had"),
        pytest.param((B, C, B, A), held(), 1, A, id="back by two"),
        pytest.param((A, B, A, B, A, C), held(), 1, C, id="back and forth before"),
        pytest.param((C, B, C, B, A), None, 4, B, id="after it was let go"),
        pytest.param((B, B, A), None, 1, A, id="another image"),
    ],
)
def test_by_default_the_image_before_the_present_one(
    images: tuple[str, ...], condition: dict[str, Any] | None, number: int, image: str
):
    assert images_after(*images, condition=condition) == (number, image)


@pytest.mark.parametrize(
    ("images", "condition", "words"),
    [
        ((A,), None, "1 has no other image before sha256:aaaaaaaaaaaa; see: imagestreams history web:1"),
        ((), None, "error: web:1 has never had an image"),
        ((A, B, A), held(), "has no other image before"),
        ((A, C, B), held(), "is pinned, and what it had before that image is not in its history any more"),
    ],
)
def test_there_is_none_before(images: tuple[str, ...], condition: dict[str, Any] | None, words: str):
    with pytest.raises(Failure) as caught:
        images_after(*images, condition=condition)
    assert words in caught.value.message


@pytest.mark.parametrize("to", [B, B[:15], B[7:], B[7:11], f"quay.io/acme/web@{B}"])
def test_by_digest(to: str):
    assert images_after(C, B, A, to=to) == (2, B)


def test_by_the_digest_of_several_revisions_the_latest_is_meant():
    assert images_after(C, A, B, A, to=A) == (3, A)


@pytest.mark.parametrize(
    ("to", "error", "words"),
    [
        (D, Failure, "is not in the history of web:1, and a tag can only be held at what it had"),
        ("sha256", Misuse, "'sha256' is no digest"),
        ("1.2", Misuse, "'1.2' is no digest"),
        ("aaa", Misuse, "'aaa' is no digest"),
    ],
)
def test_by_a_digest_that_is_none(to: str, error: type[Failure], words: str):
    with pytest.raises(error) as caught:
        images_after(C, B, A, to=to)
    assert words in caught.value.message


def test_by_the_begin_of_several_digests():
    like = "sha256:" + "a" * 63 + "b"
    with pytest.raises(
        Failure, match="begins several images of web:1: sha256:aaaaaaaaaaaa, sha256:aaaaaaaaaaaa; write"
    ):
        images_after(C, like, A, to="aaaa")


def test_by_number():
    assert images_after(C, B, A, number=1) == (1, A)
    with pytest.raises(Failure, match="error: web:1 has no revision 4, it has 1 to 3; see: imagestreams history web:1"):
        images_after(C, B, A, number=4)


def test_a_reference_cannot_be_held():
    status = recorded(B)
    status["items"].append({"dockerImageReference": "quay.io/acme/web:1"})
    with pytest.raises(
        Failure, match=r"revision 1 of web:1, quay.io/acme/web:1, has no digest that it could be held at"
    ):
        chosen(history(status), to=None, number=1)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (A, "sha256:aaaaaaaaaaaa"),
        (f"quay.io/acme/web@{A}", "sha256:aaaaaaaaaaaa"),
        ("nginx:1.25", "nginx:1.25"),
        ("", ""),
        ("sha256:ab", "sha256:ab"),
        ("quay.io:5000/x", "quay.io:5000/x"),
    ],
)
def test_short(text: str, shown: str):
    assert short(text) == shown
