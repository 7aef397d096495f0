"""What was changed between a request's answer and its being carried out stays as it is; all else is written."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from imagestreams.core.admission import Requester
from imagestreams.core.footprint import Carried, footprint_of, overtaken_of, places_of
from imagestreams.core.imagestreamimport import (
    Edit,
    Refusal,
    Stored,
    decode_request,
    edit_of,
    hints_of,
    refused_whole,
    undone_of,
)
from imagestreams.core.stamp import Footprint, Stamp

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
JANE = Requester("jane")
OLD, NEW, THEIRS = (f"quay.io/acme/web:{name}" for name in ("old", "new", "theirs"))

Json = dict[str, Any]


def asked(*images: Json, repository: Json | None = None, is_import: bool = True, **metadata: Any) -> Any:
    spec = {"import": is_import, "images": list(images)} | ({"repository": repository} if repository else {})
    metadata = {"namespace": "shop", "name": "web-x7k2p", **metadata}
    return decode_request(json.dumps({"metadata": metadata, "spec": spec}).encode())


def image(name: str = NEW, to: str | None = "a", **policy: Any) -> Json:
    found: Json = {"from": {"kind": "DockerImage", "name": name}, "importPolicy": policy}
    return found | ({"to": {"name": to}} if to else {})


def tag(source: str = OLD, name: str = "a", **more: Any) -> Json:
    return {"name": name, "from": {"kind": "DockerImage", "name": source}, **more}


def stream(*tags: Json, uid: str = "1", is_insecure: bool = False, **spec: Any) -> Stored:
    annotations = {"openshift.io/image.insecureRepository": "true"} if is_insecure else {}
    metadata = {"namespace": "shop", "name": "web", "uid": uid, "annotations": annotations}
    return Stored.parse(json.dumps({"metadata": metadata, "spec": {"tags": list(tags), **spec}}).encode())


def stamp(seen: Footprint, seconds: float = 0) -> Stamp:
    return Stamp(JANE, NOW, NOW + timedelta(seconds=seconds), seen)


def carried(request: Any, seconds: float, left: Stored, *found: Stored | None) -> dict[str, Carried]:
    """What a request that was created then has left, and what it and those before it found."""
    states = [places_of(request, each) for each in found]
    return {
        place: Carried(
            stamp(Footprint(), seconds).order, each, left.stream.metadata.uid, tuple(state[place] for state in states)
        )
        for place, each in places_of(request, left).items()
    }


def refused(request: Any, seen: Stored | None, present: Stored | None, last: dict[str, Carried]) -> dict[str, Refusal]:
    return overtaken_of(request, present, stamp=stamp(footprint_of(request, seen)), carried=last.get)


GONE, CHANGED = "was deleted, or made anew", 'tag "a" was changed since'
OURS = "quay.io/acme/web:ours"  # what another request wrote


class Last(NamedTuple):
    """The source that a request of so many seconds later left, and those that it and its forerunners found."""

    left: str
    seconds: float
    found: tuple[str, ...] = (OLD, "")
    uid: str = "1"

    def carried(self, request: Any) -> dict[str, Carried]:
        states = [stream(tag(source)) if source else None for source in self.found]
        return carried(request, self.seconds, stream(tag(self.left), uid=self.uid), *states)


@pytest.mark.parametrize(
    ("seen", "present", "last", "words"),
    [
        pytest.param(stream(tag()), stream(tag()), None, "", id="as it was seen"),
        pytest.param(stream(), stream(), None, "", id="absent, as it was"),
        pytest.param(None, None, None, "", id="no stream, as it was"),
        pytest.param(None, stream(), None, "", id="a stream since, without the tag"),
        pytest.param(None, stream(tag()), None, CHANGED, id="a stream since, with the tag"),
        pytest.param(stream(tag()), stream(tag(THEIRS)), None, CHANGED, id="edited by hand"),
        pytest.param(stream(tag()), stream(), None, CHANGED, id="removed by hand"),
        pytest.param(stream(), stream(tag(THEIRS)), None, CHANGED, id="added by hand"),
        pytest.param(stream(tag()), None, None, GONE, id="the stream is gone"),
        pytest.param(stream(tag()), stream(tag(), uid="2"), None, GONE, id="the stream is another of that name"),
        pytest.param(stream(tag()), stream(tag(OURS)), Last(OURS, -1), "", id="as an older request left it"),
        pytest.param(stream(tag()), stream(tag(OURS)), Last(OURS, -1, (OLD, NEW)), "", id="as two of them left it"),
        pytest.param(None, stream(tag(OURS)), Last(OURS, -1), "", id="in a stream that an older request made"),
        pytest.param(
            None, stream(tag(OURS), uid="2"), Last(OURS, -1), CHANGED, id="in one made anew as an older request left it"
        ),
        pytest.param(
            stream(tag(THEIRS)), stream(tag(OURS)), Last(OURS, -1), CHANGED, id="by hand as an older request left it"
        ),
        pytest.param(
            stream(tag()), stream(tag(OURS)), Last(OURS, -1, (OURS,)), CHANGED, id="an older request found it so"
        ),
        pytest.param(stream(tag()), stream(tag(THEIRS)), Last(OURS, -1), CHANGED, id="edited after an older request"),
        pytest.param(stream(tag()), stream(), Last(OURS, -1), CHANGED, id="removed after an older request"),
        pytest.param(stream(tag()), stream(tag()), Last(OURS, -1), "", id="an older request, and back by hand"),
        pytest.param(stream(tag()), stream(tag(OURS)), Last(OURS, 1), CHANGED, id="as a newer request left it"),
        pytest.param(stream(tag()), stream(tag()), Last(OLD, 1, (OLD,)), CHANGED, id="a newer request left all alone"),
        pytest.param(stream(tag()), stream(tag(THEIRS)), Last(OURS, 1), CHANGED, id="edited after a newer request"),
        pytest.param(stream(tag(THEIRS)), stream(tag(THEIRS)), Last(OURS, 1), CHANGED, id="edited, seen, and older"),
        pytest.param(stream(tag()), stream(tag()), Last(NEW, 0), CHANGED, id="taken away after this very request"),
        pytest.param(stream(tag()), None, Last(OURS, -1), GONE, id="the stream is gone after an older request"),
        pytest.param(stream(tag(OURS)), stream(tag(OURS)), Last(OURS, 2), "", id="newer than its clocks say"),
        pytest.param(
            stream(tag(OURS)), stream(tag(OURS)), Last(OURS, 3), CHANGED, id="no clocks differ so: it was so before"
        ),
        pytest.param(
            stream(tag(OURS)), stream(tag(OURS)), Last(OURS, 2, (OLD, OURS)), CHANGED, id="it was so once before"
        ),
        pytest.param(
            stream(tag(OURS)), stream(tag(THEIRS)), Last(OURS, 2), CHANGED, id="newer than its clocks say, and edited"
        ),
    ],
)
def test_what_was_changed_since_stays(seen: Stored | None, present: Stored | None, last: Last | None, words: str):
    request = asked(image())
    found = refused(request, seen, present, last.carried(request) if last else {})
    assert found.keys() == ({"a"} if words else set())
    edit = edit_of(request, present, overtaken=found)
    assert bool(edit.tags) is not bool(words)
    assert words in undone_of(request, edit)
    if words:
        assert (edit.refused[0].reason, edit.refused[0].code) == ("Conflict", 409)


@pytest.mark.parametrize(
    "edit",
    [
        {"from": {"kind": "ImageStreamTag", "name": OLD}},
        {"from": {"kind": "DockerImage", "name": OLD, "namespace": "prod"}},
        {"from": {"kind": "DockerImage", "name": THEIRS}},
        {"from": None},
        {"reference": True},
        {"importPolicy": {"insecure": True}},
        {"importPolicy": {"scheduled": True}},
    ],
)
def test_all_that_would_be_overwritten_counts(edit: Json):
    request = asked(image())
    assert refused(request, stream(tag()), stream({**tag(), **edit}), {}).keys() == {"a"}


@pytest.mark.parametrize(
    "edit",
    [
        {"importPolicy": {"importMode": "PreserveOriginal"}},
        {"importPolicy": {"insecure": False, "scheduled": None}},
        {"referencePolicy": {"type": "Local"}},
        {"annotations": {"theirs": "1"}},
        {"reference": False},
    ],
)
def test_what_a_request_leaves_as_it_is_may_change(edit: Json):
    request, present = asked(image()), stream({**tag(), **edit})
    assert refused(request, stream(tag()), present, {}) == {}
    written = edit_of(request, present).tags["a"]
    assert {**written, "from": None, "importPolicy": None} == {**tag(), **edit, "from": None, "importPolicy": None}


def test_nothing_else_of_the_stream_counts():
    request = asked(image())
    present = stream(tag(), tag(THEIRS, "b"), is_insecure=True, dockerImageRepository="quay.io/acme/api")
    assert refused(request, stream(tag(), tag(OLD, "b")), present, {}) == {}


def test_a_tag_that_is_as_it_is_wanted_needs_no_leave():
    request, present = asked(image(insecure=False)), stream(tag(NEW), uid="2")
    edit = edit_of(request, present, overtaken=refused(request, stream(tag()), present, {}))
    assert edit == Edit(targets=("a",))


def test_images_that_nobody_changed_are_carried_out():
    request = asked(image(to="a"), image(to="b"), image(to="c"), image("quay.io/acme/web@sha256:" + "0" * 64, to=None))
    present = stream(tag(THEIRS, "b"))
    edit = edit_of(request, present, overtaken=refused(request, stream(), present, {}))
    assert edit.tags.keys() == {"a", "c"}
    assert edit.refused.keys() == {1}
    words = undone_of(request, edit)
    assert words.startswith('1 of 4 images was not imported: tag "b" was changed since this was asked')
    assert words.endswith(
        "it stays as it is; ask again, for instance: imagestreams tag quay.io/acme/web:new web-x7k2p:b"
    )


@pytest.mark.parametrize("places", [(), ("",), ("", "", "")])
def test_where_the_webhook_speaks_of_other_places_all_are_changed(places: tuple[str, ...]):
    request = asked(image(), image(to="b"))
    found = overtaken_of(request, stream(), stamp=stamp(Footprint("1", places)), carried=lambda _: None)
    assert found.keys() == {"a", "b"}


def test_many_reasons_are_counted():
    request = asked(*(image(to=f"t{number}") for number in range(9)))
    present = stream(*(tag(THEIRS, f"t{number}") for number in range(9)))
    words = undone_of(request, edit_of(request, present, overtaken=refused(request, stream(), present, {})))
    assert words.startswith("9 of 9 images were not imported: ")
    assert words.endswith("; and 6 more")
    assert words.count("was changed since") == 3
    words = undone_of(request, edit_of(request, present, overtaken=refused(request, stream(uid="2"), present, {})))
    assert words.count("made anew") == 1
    assert "more" not in words


REPOSITORY = {"from": {"kind": "DockerImage", "name": "quay.io/acme/web"}, "importPolicy": {"insecure": True}}
NAMED = {"dockerImageRepository": "quay.io/acme/web"}


@pytest.mark.parametrize(
    ("seen", "present", "is_refused"),
    [
        pytest.param(None, None, False, id="no stream, as it was"),
        pytest.param(None, stream(), False, id="none, as it was"),
        pytest.param(stream(**NAMED), stream(**NAMED), False, id="not insecure, as it was"),
        pytest.param(stream(**NAMED), stream(), True, id="it was removed"),
        pytest.param(stream(is_insecure=True, **NAMED), stream(**NAMED), True, id="it was made secure"),
        pytest.param(stream(is_insecure=True), stream(), True, id="its tags were made secure"),
        pytest.param(stream(), stream(**NAMED), True, id="it was named by somebody else"),
        pytest.param(stream(), stream(uid="2"), True, id="another stream"),
    ],
)
def test_a_repository(seen: Stored | None, present: Stored | None, *, is_refused: bool):
    request = asked(repository=REPOSITORY)
    edit = edit_of(request, present, overtaken=refused(request, seen, present, {}))
    assert (edit.repository_refused is not None) is is_refused
    assert edit.is_change is not is_refused
    words = undone_of(request, edit)
    assert words.startswith("the repository was not imported: the ") is is_refused


def test_a_repository_that_is_as_it_is_wanted_needs_no_leave():
    request, present = asked(repository=REPOSITORY), stream(is_insecure=True, **NAMED)
    edit = edit_of(request, present, overtaken=refused(request, stream(), present, {}))
    assert edit == Edit()


def test_a_repository_as_an_older_request_left_it():
    request = asked(image(to="a"), repository={**REPOSITORY, "importPolicy": {"insecure": True}})
    left = stream(tag(OURS), **NAMED)
    found = refused(request, None, left, carried(request, -1, left, None))
    assert edit_of(request, left, overtaken=found).is_repository_made_insecure
    assert refused(request, None, left, {}).keys() == {"a", ""}


def test_the_way_out_names_the_stream_that_is_meant():
    meant = {"annotations": {"imagestreams.dev/image-stream": "web"}}
    found = refused(asked(image(), repository=REPOSITORY, **meant), stream(), stream(tag(), **NAMED), {})
    assert found["a"].message.endswith(f"imagestreams tag {NEW} web:a")
    assert found[""].message.endswith("imagestreams import-image web --all --from=quay.io/acme/web --confirm")


def test_a_look_up_leaves_no_footprint():
    request = asked(image(), repository=REPOSITORY, is_import=False)
    assert footprint_of(request, stream(tag())).places == ()


def test_a_footprint_is_small():
    request = asked(*(image(to=f"{number:0128}") for number in range(500)), repository=REPOSITORY)
    seen = footprint_of(request, stream(*(tag(name=f"{number:0128}") for number in range(500)), **NAMED))
    assert len(seen.places) == 501
    assert set(map(len, seen.places)) == {12}


def test_what_cannot_be_done_at_all_is_refused_whole():
    request, refusal = asked(image(), image(to="b"), repository=REPOSITORY), Refusal("InternalError", "x", 500)
    edit = refused_whole(request, refusal)
    assert (edit.refused, edit.repository_refused, edit.is_change) == ({0: refusal, 1: refusal}, refusal, False)
    assert refused_whole(asked(image()), refusal).repository_refused is None
    assert hints_of(request, edit) == frozenset()
