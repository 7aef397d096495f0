"""Import requests, answered: what is asked for them, and an answer that clients can read."""

from __future__ import annotations

import itertools
import json
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.core.answering import MAX_BYTES, MAX_DESCRIBED, Questions, kept, status_of
from imagestreams.core.image import LEFT_OUT_ANNOTATION
from imagestreams.core.imagestreamimport import MAX_IMAGES, decode_request
from imagestreams.core.keychain import Credential, Entry
from imagestreams.core.lookup import Described, Description, ImportMode, Lookup, Outcome
from imagestreams.core.manifest import DOCKER_MANIFEST
from imagestreams.core.merging import Update, merge_status
from imagestreams.core.policy import Policy
from imagestreams.core.stream import ImageStream, TagReference, decode, encode
from imagestreams.core.wish import ImportRules, Wish, wish_of
from tests.core.imports import (
    API,
    LATE,
    LEGACY,
    RULES,
    STABLE,
    Case,
    Json,
    asked,
    encoded,
    found,
    image,
    large_image,
    outcomes,
    repository,
    request,
    size_of,
    stored,
    tag,
)
from tests.core.streams import NOT_FOUND, NOW, UNAVAILABLE, Rounds, answer, deferred, digest, failed, listed, resolved
from tests.requests.openshift import REQUESTS

# --- what is asked ----------------------------------------------------------------------------------------------------


def test_only_what_the_request_names_is_asked_for():
    """The stream has more that was never imported."""
    case = Case(
        request(asked(to="latest")),
        stored(tag("other", "quay.io/acme/other:1"), tag("late", "q.io/x:1", importPolicy={"scheduled": True})),
    )
    (ticket,) = case.questions()
    assert (ticket.tag, ticket.uid, ticket.request, ticket.slot) == ("latest", "u-1", "", 0)
    assert isinstance(ticket.question, Lookup)
    assert str(ticket.question.reference) == STABLE
    assert case.questions() == ()


def imported(*tags: Json, **outcomes_: Outcome) -> Json:
    """The stream after its tags were imported."""
    rounds = Rounds(decode(encoded(stored(*tags))))
    rounds.round()
    rounds.round(**outcomes_)
    return stored(*tags, status=_status_of(rounds))


def test_a_failure_is_one_whatever_the_tag_was_before():
    case = Case(request(asked(to="latest")), imported(tag(), latest=resolved("a")))
    status = case.run({STABLE: NOT_FOUND})
    assert outcomes(status) == ["NotFound 404"]
    assert status["import"]["status"]["tags"][0]["items"][0]["image"] == digest("a")


def test_it_is_no_answer_to_other_requests_and_no_poll():
    before = imported(tag(importPolicy={"scheduled": True}), latest=resolved("a"))
    before["metadata"]["annotations"] = {"imagestreams.dev/refresh": "7f3a"}
    for rules in (RULES, ImportRules(interval=timedelta(seconds=1), min_interval=timedelta(seconds=1))):
        case = Case(request(asked(to="latest", importPolicy={"scheduled": True})), before, rules=rules)
        (ticket,) = case.questions()
        assert (ticket.request, ticket.slot) == ("", 0)


def test_what_was_imported_is_asked_for_again():
    before = imported(tag(), latest=resolved("a"))
    case = Case(request(asked(to="latest")), before)
    (ticket,) = case.questions()
    assert isinstance(ticket.question, Lookup)
    assert ticket.question.known is not None, "one HEAD says that it is unchanged"
    status = case.run()
    assert outcomes(status) == ["Timeout 504"], "what it was before is no answer"
    assert status["import"]["status"]["tags"][0]["items"][0]["image"] == digest("a")


def test_what_is_known_of_a_tag_is_what_its_own_round_goes_by():
    """What is pinned now is no image of what is served, and what was pinned until now has to be found anew."""
    legacy = tag(importPolicy={"importMode": "Legacy"})
    before = imported(legacy, latest=resolved("a", child="b"))
    pinned = deepcopy(before)
    pins = {"latest": {"digest": digest("b"), "reason": "x", "by": "jane", "at": "2026-01-01T00:00:00Z"}}
    pinned["metadata"]["annotations"] = {"imagestreams.dev/pins": json.dumps(pins)}
    rounds = Rounds(decode(encoded(pinned)))
    rounds.round()
    resumed = stored(legacy, status=_status_of(rounds))
    for value, is_known in ((before, True), (pinned, False), (resumed, False)):
        (ticket,) = Case(request(asked(to="latest")), value).questions()
        rounds = Rounds(decode(encoded(value)))
        rounds.round()
        rounds.round(hints=["latest"])
        assert ticket.question == rounds.pending["latest"].question
        assert isinstance(ticket.question, Lookup)
        assert (ticket.question.known is not None) is is_known


def _status_of(rounds: Rounds) -> Json:
    assert rounds.stream.status is not None
    status: Json = json.loads(encode(rounds.stream.status))
    return status


def test_an_import_mode_of_a_tag_that_is_there_counts():
    body = request(asked(to="latest", **LEGACY), asked("quay.io/acme/web:new", "new", **LEGACY))
    case = Case(body, stored(tag(importPolicy={"importMode": "PreserveOriginal"})))
    modes = {ticket.tag: ticket.question.mode for ticket in case.questions() if isinstance(ticket.question, Lookup)}
    assert modes == {"latest": ImportMode.PRESERVE_ORIGINAL, "new": ImportMode.LEGACY}


@pytest.mark.parametrize(("to", "mode"), [("latest", ImportMode.PRESERVE_ORIGINAL), (None, ImportMode.LEGACY)])
def test_so_it_does_where_it_is_only_looked_up_for_that_tag(to, mode):
    present = stored(tag(importPolicy={"importMode": "PreserveOriginal"}), tag("stable", importPolicy={}))
    case = Case(request(asked(to=to, **LEGACY), is_import=False), present)
    (ticket,) = case.questions()
    assert isinstance(ticket.question, Lookup)
    assert ticket.question.mode is mode


def test_equal_tags_of_several_images_are_told_apart():
    """As `oc new-app` asks for them."""
    case = Case(REQUESTS["oc-new-app"])
    registry = {"nginx:1.25": resolved("a"), "quay.io/acme/web:1.25": resolved("b"), "redis": resolved("c")}
    status = case.run(registry)
    assert outcomes(status) == ["a", "b", "c"]
    assert [entry["tag"] for entry in status["images"]] == ["1.25", "1.25", "latest"]
    assert [
        ticket.question.transport.insecure for ticket in case.asked.values() if isinstance(ticket.question, Lookup)
    ] == [
        False,
        True,
        False,
    ]


def test_credentials_are_those_of_each_registry():
    entry = Entry("quay.io", "", Credential("jane", "x", "quay"))
    case = Case(request(asked(to="a"), asked("ghcr.io/acme/web:1", "b")), entries=[entry])
    case.run(found("a"))
    credentials = {ticket.tag: len(ticket.question.credentials) for ticket in case.asked.values()}
    assert credentials == {"a": 1, "b": 0, digest("a"): 1}


def test_each_image_is_described_once():
    case = Case(request(asked(to="a"), asked("quay.io/acme/web:same", "b")))
    status = case.run({**found("a", 100), "quay.io/acme/web:same": resolved("a")})
    assert [tag for tag in case.asked if tag.startswith("sha256:")] == [digest("a")]
    assert [len(entry["image"]["dockerImageLayers"]) for entry in status["images"]] == [1, 1]


def test_an_image_is_described_before_the_others_are_found():
    case = Case(request(asked(to="a"), asked("quay.io/acme/web:slow", "b")))
    (ticket, _) = case.questions()
    case.answers.append(answer(ticket, resolved("a")))
    (described,) = case.questions()
    assert described.tag == digest("a")
    case.answers.append(answer(described, image("a", 100)))
    assert case.questions() == ()
    status = case.status()
    assert outcomes(status) == ["a", "Timeout 504"]
    assert len(status["images"][0]["image"]["dockerImageLayers"]) == 1


@pytest.mark.parametrize("count", [5, 500])
def test_however_many_answers_come_one_by_one_the_stream_is_merged_once(count, monkeypatch):
    merges: list[int] = []
    wishes: list[str] = []

    def merge(stream_: ImageStream, *args: Any, **more: Any) -> Update:
        merges.append(len(stream_.spec_tags))
        return merge_status(stream_, *args, **more)

    def wish(stream_: ImageStream, tag_: TagReference, rules: ImportRules) -> Wish | None:
        wishes.append(tag_.name)
        return wish_of(stream_, tag_, rules)

    monkeypatch.setattr("imagestreams.core.answering.merge_status", merge)
    monkeypatch.setattr("imagestreams.core.wish.wish_of", wish)
    names = [f"v{n}" for n in range(count)]
    others = [tag(f"other-{n}", "quay.io/acme/other:1") for n in range(600)]
    case = Case(request(*(asked(f"quay.io/acme/web:{name}", name) for name in names)), stored(*others))
    letters = itertools.cycle("0123456789abcdef")
    tickets = [*case.asking.first()]
    while tickets:
        ticket = tickets.pop()
        outcome = image(ticket.tag[7]) if isinstance(ticket.question, Description) else resolved(next(letters))
        tickets += case.asking.after([answer(ticket, outcome)])
    assert merges == [count], "only what is asked for counts for what is to be asked"
    assert sorted(wishes) == sorted(names)
    case.answers = case.asking.answers
    assert case.asking.left(state := case.merged()) == ()
    assert status_of(case.work, state, case.answers, late=LATE)["summary"]["images"] == f"{count}/{count}"
    assert merges == [count, 600 + count, 0], "of what is only looked up there is nothing"
    assert len(wishes) == 2 * count + 600


def test_what_may_not_be_asked_is_not():
    rules = ImportRules(policy=Policy(hosts={}, blocked=("quay.io",)))
    case = Case(request(asked(to="a"), asked("ghcr.io/acme/web:1", "b"), repository=repository()), rules=rules)
    status = case.run({"ghcr.io/acme/web:1": resolved("b")})
    assert outcomes(status) == ["Forbidden 403", "b"]
    assert status["repository"]["status"]["reason"] == "Forbidden"
    assert list(case.asked) == ["b", digest("b")]


def test_the_answer_is_to_this_request_alone():
    case = Case(request(asked()))
    (ticket,) = Questions(case.work, (), rules=RULES, now=NOW, request="import-7").first()
    assert (ticket.request, ticket.fresh) == ("import-7", 0.0)
    assert replace(ticket, request="") == case.questions()[0]


def test_the_name_of_a_request_is_no_tag():
    """A tag that a refresh request names moves also where the flap guard would keep it; this is none."""
    before = stored(tag(), status=_flapped())
    results = set()
    for name in ("", "import-7", "latest"):
        case = Case(request(asked(to="latest")), before)
        case.answers = [
            answer(ticket, resolved("a"))
            for ticket in Questions(case.work, (), rules=RULES, now=NOW, request=name).first()
        ]
        results.add(tuple(outcomes(case.status())))
    assert results == {("Flapping 500",)}


def _flapped() -> Json:
    """A tag that went back and forth between the images a and b within a few minutes."""
    items = [
        {
            "created": f"2026-03-01T11:{50 - minute:02}:00Z",
            "dockerImageReference": f"quay.io/acme/web@{digest(letter)}",
            "image": digest(letter),
        }
        for minute, letter in enumerate("baba")
    ]
    source = {"from": {"kind": "DockerImage", "name": STABLE}, "importMode": "PreserveOriginal", "digest": digest("b")}
    return {"tags": [{"tag": "latest", "items": items, "observed": source}]}


def test_a_suspended_stream_is_not_asked_about():
    case = Case(
        request(asked(to="latest"), asked(f"quay.io/acme/web@{digest('a')}"), repository=repository()),
        stored(annotations={"imagestreams.dev/suspend": "true"}),
    )
    status = case.run({f"quay.io/acme/web@{digest('a')}": resolved("a")})
    assert outcomes(status) == ["Suspended 503", "a"]
    assert status["repository"]["status"]["reason"] == "Suspended"
    assert "imagestreams.dev/suspend" in status["images"][0]["status"]["message"]
    assert case.write is not None, "spec is as it was asked for"


# --- the answer -------------------------------------------------------------------------------------------------------


def test_an_image_as_a_client_prints_it():
    case = Case(request(asked(to="latest")), stored())
    status = case.run(found("a", 100, 200, config={"Env": ["A=b"], "ExposedPorts": {"80/tcp": {}}}))
    assert status["images"] == [
        {
            "status": {"metadata": {}, "status": "Success"},
            "tag": "stable",
            "image": {
                "metadata": {
                    "name": digest("a"),
                    "annotations": {"image.openshift.io/dockerLayersOrder": "ascending"},
                },
                "dockerImageReference": f"quay.io/acme/web@{digest('a')}",
                "dockerImageMetadata": {
                    "kind": "DockerImage",
                    "apiVersion": "image.openshift.io/1.0",
                    "Id": status["images"][0]["image"]["dockerImageMetadata"]["Id"],
                    "Architecture": "amd64",
                    "Created": "2026-02-01T10:00:00Z",
                    "Config": {"Env": ["A=b"], "ExposedPorts": {"80/tcp": {}}},
                    "Size": status["images"][0]["image"]["dockerImageMetadata"]["Size"],
                },
                "dockerImageMetadataVersion": "1.0",
                "dockerImageManifestMediaType": DOCKER_MANIFEST,
                "dockerImageLayers": [
                    {
                        "name": f"sha256:{number:064x}",
                        "size": size,
                        "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                    }
                    for number, size in enumerate([100, 200])
                ],
            },
        }
    ]
    assert status["summary"] == {"result": "Success", "images": "1/1"}


@pytest.mark.parametrize(
    ("outcome", "reason", "code"),
    [
        (NOT_FOUND, "NotFound", 404),
        (failed("Unauthorized"), "Unauthorized", 401),
        (failed("Forbidden"), "Forbidden", 403),
        (failed("Blocked"), "Forbidden", 403),
        (failed("NotAllowed"), "Forbidden", 403),
        (failed("Refused"), "Forbidden", 403),
        (failed("NotAnImage"), "Invalid", 422),
        (failed("InvalidPlatform"), "Invalid", 422),
        (failed("Timeout"), "Timeout", 504),
        (failed("RateLimited"), "TooManyRequests", 429),
        (deferred(NOW), "TooManyRequests", 429),
        (UNAVAILABLE, "Unavailable", 503),
        (failed("DNS"), "DNS", 503),
        (failed("TLS"), "TLS", 503),
        (failed("Unreachable"), "Unreachable", 503),
        (failed("TooLarge"), "TooLarge", 500),
        (failed("InvalidAnswer"), "InvalidAnswer", 500),
        (failed(""), "InternalError", 500),
        (failed("NotFound", ""), "NotFound", 404),
        (None, "Timeout", 504),
    ],
)
@pytest.mark.parametrize("to", ["latest", None])
@pytest.mark.parametrize("is_import", [True, False])
def test_a_failure(outcome, reason, code, to, is_import):
    body = request(asked("quay.io/acme/web@" + digest("9") if to is None else STABLE, to), is_import=is_import)
    case = Case(body, stored(tag("keep", "q.io/a:1")))
    status = case.run(dict.fromkeys([STABLE, "quay.io/acme/web@" + digest("9")], outcome) if outcome else {})
    (entry,) = status["images"]
    assert entry["status"]["status"] == "Failure"
    assert (entry["status"]["reason"], entry["status"]["code"]) == (reason, code)
    assert entry["status"]["message"]
    assert "image" not in entry
    assert status["summary"] == {"result": "Failure", "images": "0/1"}
    if outcome is None:
        assert entry["status"]["message"] == LATE


def test_a_message_is_bounded():
    case = Case(request(asked(to="latest")))
    message = case.run({STABLE: failed("NotFound", "x" * 100_000)})["images"][0]["status"]["message"]
    assert message == "x" * 997 + "..."


def test_as_in_openshift_a_failing_tag_is_in_spec_and_its_condition_tells():
    case = Case(request(asked(to="latest"), asked("quay.io/acme/web:2", "two")))
    status = case.run({STABLE: NOT_FOUND, "quay.io/acme/web:2": resolved("b")})
    assert outcomes(status) == ["NotFound 404", "b"], "it holds nobody up"
    assert [each["name"] for each in case.written()["spec"]["tags"]] == ["latest", "two"]
    tags = {each["tag"]: each for each in status["import"]["status"]["tags"]}
    assert tags["latest"]["conditions"][0]["reason"] == "NotFound"
    assert tags["two"]["items"][0]["image"] == digest("b")


def test_what_is_late_is_so_in_the_answer_alone():
    """The stream is still being imported, and nothing failed."""
    case = Case(request(asked(to="latest")), stored())
    status = case.run({})
    assert outcomes(status) == ["Timeout 504"]
    assert status["import"]["status"].get("tags") == []
    assert status["import"]["status"]["conditions"][0]["reason"] == "Importing"
    assert status["import"]["spec"]["tags"] == [tag()]


def test_an_image_that_is_not_described_is_there_by_its_digest():
    for registry in ({STABLE: resolved("a")}, {STABLE: resolved("a"), digest("a"): UNAVAILABLE}):
        status = Case(request(asked(to="latest"))).run(registry)
        assert outcomes(status) == ["a"]
        assert status["images"][0]["image"]["dockerImageMetadata"] == {
            "kind": "DockerImage",
            "apiVersion": "image.openshift.io/1.0",
            "Id": digest("a"),
            "Config": {},
        }


def test_the_stream_as_the_import_leaves_it():
    old = stored(
        tag("kept", "quay.io/acme/kept:1"),
        status={
            "dockerImageRepository": "registry.local/shop/web",
            "tags": [
                {
                    "tag": "kept",
                    "items": [
                        {
                            "created": "2026-01-01T00:00:00Z",
                            "dockerImageReference": "q.io/a",
                            "image": digest("9"),
                            "generation": 1,
                        }
                    ],
                    "conditions": None,
                }
            ],
            "foreign": {"a": 1},
        },
    )
    case = Case(request(asked(to="latest", importPolicy={"scheduled": True})), old)
    stream = case.run(found("a"))["import"]
    assert stream["apiVersion"] == API
    assert "managedFields" not in stream["metadata"]
    assert {**stream["metadata"], "managedFields": old["metadata"]["managedFields"]} == {
        **old["metadata"],
        "generation": 4,
    }
    assert stream["spec"]["lookupPolicy"] == {"local": True}
    assert [each["name"] for each in stream["spec"]["tags"]] == ["kept", "latest"]
    status = stream["status"]
    assert status["dockerImageRepository"] == "registry.local/shop/web"
    assert status["foreign"] == {"a": 1}
    tags = {each["tag"]: each for each in status["tags"]}
    assert tags["kept"]["items"][0]["image"] == digest("9")
    assert tags["latest"]["items"] == [
        {
            "created": "2026-03-01T12:00:00Z",
            "dockerImageReference": f"quay.io/acme/web@{digest('a')}",
            "image": digest("a"),
            "generation": 4,
        }
    ]
    assert status["summary"]["scheduled"] == "1/2"


def test_it_is_what_the_next_round_writes():
    """The controller writes spec, and the stream's own round asks again and merges."""
    registry = {STABLE: resolved("a"), "quay.io/acme/web:2": NOT_FOUND}
    case = Case(
        request(asked(to="latest", **LEGACY), asked("quay.io/acme/web:2", "two")), stored(tag("two", "q.io/x:1"))
    )
    promised = case.run(registry)["import"]["status"]
    written = case.written()
    written["metadata"] |= {"generation": 4, "resourceVersion": "101"}
    rounds = Rounds(decode(encoded(written)))
    rounds.round()
    rounds.round(latest=resolved("a"), two=NOT_FOUND)
    assert promised == _status_of(rounds)


def test_a_new_stream_is_shown_as_one():
    stream = Case(request(asked(to="latest"))).run(found("a"))["import"]
    assert stream["metadata"] == {
        "namespace": "shop",
        "name": "web",
        "generation": 1,
        "creationTimestamp": "2026-03-01T12:00:00Z",
    }


def test_where_nobody_imports_nothing_is_shown():
    status = Case(request(asked(to="latest"), is_import=False), stored(tag())).run(found("a"))
    assert "import" not in status
    status = Case(request(asked(f"q.io/a@{digest('a')}"))).run({f"q.io/a@{digest('a')}": resolved("a")})
    assert outcomes(status) == ["a"]
    assert "import" not in status, "there is no stream, and none is made"
    assert "tag" not in status["images"][0]


def test_a_pinned_tag_is_answered_with_its_pin():
    item = {
        "created": "2026-01-01T00:00:00Z",
        "dockerImageReference": f"quay.io/acme/web@{digest('9')}",
        "image": digest("9"),
        "generation": 1,
    }
    pins = {"latest": {"digest": digest("9"), "reason": "checkout fails", "by": "jane", "at": "2026-01-01T00:00:00Z"}}
    case = Case(
        request(asked(to="latest")),
        stored(
            tag(),
            annotations={"imagestreams.dev/pins": json.dumps(pins)},
            status={"tags": [{"tag": "latest", "items": [item]}]},
        ),
    )
    status = case.run({STABLE: resolved("a"), digest("9"): image("9", 100)})
    assert outcomes(status) == ["9"]
    assert len(status["images"][0]["image"]["dockerImageLayers"]) == 1, "it is described, and not what was found"
    assert str(case.asked[digest("9")].question.reference) == f"quay.io/acme/web@{digest('9')}"


def test_no_room_in_the_stream_is_a_failure():
    case = Case(request(asked(to="latest")), rules=ImportRules(status_budget=10))
    status = case.run(found("a"))
    assert outcomes(status) == ["StatusTooLarge 500"]


def test_tags_of_other_namespaces_stay_as_they_are():
    """Whether they may be followed is asked for in the stream's own round; a new one has nothing until then."""
    follows = {"name": "theirs", "from": {"kind": "ImageStreamTag", "name": "app:1", "namespace": "other"}}
    other = decode(
        encoded(
            {
                "metadata": {"name": "app", "namespace": "other", "uid": "u-2"},
                "spec": {"tags": []},
                "status": {"tags": [{"tag": "1", "items": [{"dockerImageReference": "q.io/a", "image": digest("7")}]}]},
            }
        )
    )
    rounds = Rounds(decode(encoded(stored(follows))), others=[other], may_pull=[other.key])
    rounds.round()
    for before, items in ((stored(follows), []), (stored(follows, status=_status_of(rounds)), [digest("7")])):
        moved = decode(encode(other).replace(b"7" * 64, b"8" * 64)) if items else other
        case = Case(request(asked(to="latest")), before)
        case.run(found("a"))
        tags = case.status(streams={other.key: moved}.get)["import"]["status"]["tags"]
        theirs = next((each for each in tags if each["tag"] == "theirs"), {})
        assert [each["image"] for each in theirs.get("items", [])] == items
        assert digest("8") not in json.dumps(tags)
        if items:
            assert theirs["conditions"] == before["status"]["tags"][0]["conditions"]


class TestRepositories:
    def test_the_best_tags_are_described_and_the_others_named(self):
        names = ["latest", *(f"{n}.0" for n in range(80, 0, -1))]
        body = request(repository=repository())
        assert [ticket.tag for ticket in Case(body).questions()] == [""]
        case = Case(body)
        registry: dict[str, Outcome] = {"quay.io/acme/web": listed(*names), digest("a"): image("a")}
        registry |= {f"quay.io/acme/web:{name}": resolved("a") for name in names}
        status = case.run(registry)
        entry = status["repository"]
        assert entry["status"] == {"metadata": {}, "status": "Success"}
        assert [each["tag"] for each in entry["images"]] == names[:MAX_DESCRIBED]
        assert entry["additionalTags"] == names[MAX_DESCRIBED:]
        assert all(each["image"]["metadata"]["name"] == digest("a") for each in entry["images"])
        assert status["import"]["spec"] == {"dockerImageRepository": "quay.io/acme/web"}
        assert len(status["import"]["status"]["tags"]) == MAX_DESCRIBED
        assert "images" not in status
        assert status["summary"] == {"result": "Success", "images": "50/50"}

    def test_a_tag_of_spec_comes_from_where_spec_says(self):
        case = Case(request(repository=repository()), stored(tag("1.0", "quay.io/acme/other:1")))
        status = case.run({"quay.io/acme/web": listed("1.0", "2.0"), "quay.io/acme/web:2.0": resolved("a")})
        assert [each["tag"] for each in status["repository"]["images"]] == ["2.0"]
        assert "additionalTags" not in status["repository"], "it is none of the repository's here"

    def test_only_looked_up(self):
        case = Case(request(repository=repository(), is_import=False), stored(tag("1.0", "quay.io/acme/other:1")))
        status = case.run({"quay.io/acme/web": listed("1.0"), "quay.io/acme/web:1.0": resolved("a")})
        assert [each["tag"] for each in status["repository"]["images"]] == ["1.0"]
        assert "import" not in status
        assert case.write is None

    @pytest.mark.parametrize(
        ("outcome", "reason", "code"),
        [
            (NOT_FOUND, "NotFound", 404),
            (failed("Unauthorized"), "Unauthorized", 401),
            (deferred(NOW), "TooManyRequests", 429),
            (None, "Timeout", 504),
        ],
    )
    def test_that_cannot_be_listed(self, outcome, reason, code):
        case = Case(request(asked(to="x"), repository=repository()))
        status = case.run({"quay.io/acme/web": outcome, **found("a")} if outcome else found("a"))
        assert status["repository"] == {
            "status": {
                "metadata": {},
                "status": "Failure",
                "reason": reason,
                "code": code,
                "message": status["repository"]["status"]["message"],
            }
        }
        assert status["summary"] == {"result": "Partial", "images": "1/1"}
        if reason == "NotFound":
            condition = next(
                each for each in status["import"]["status"]["conditions"] if each["type"] == "RepositoryImported"
            )
            assert condition["reason"] == "NotFound"

    @pytest.mark.parametrize(
        ("bad", "words"),
        [
            ({}, ""),
            ({"2.0": failed("NotAnImage", "the registry serves a signature", retryable=False)}, ""),
            ({"2.0": NOT_FOUND}, ""),
            ({"2.0": UNAVAILABLE}, "one of the images from this repository failed to import"),
            ({"2.0": UNAVAILABLE, "1.0": UNAVAILABLE}, "2 of the images from this repository failed to import"),
        ],
    )
    def test_some_of_whose_tags_fail(self, bad, words):
        good = {f"quay.io/acme/web:{name}": bad.get(name, resolved("a")) for name in ("3.0", "2.0", "1.0")}
        entry = Case(request(repository=repository())).run({"quay.io/acme/web": listed("3.0", "2.0", "1.0"), **good})[
            "repository"
        ]
        assert entry["status"].get("message", "") == words
        assert entry["status"]["status"] == ("Failure" if words else "Success")
        assert entry["status"].get("reason") == ("ImportFailed" if words else None)
        assert [("image" in each) for each in entry["images"]] == [name not in bad for name in ("3.0", "2.0", "1.0")]


# --- so that it fits --------------------------------------------------------------------------------------------------


class TestHowLargeItMayBe:
    """etcd takes 1.5 MiB."""

    def case(self, *sizes: int, layers: int = 3) -> Case:
        names = [f"quay.io/acme/web:v{n}" for n in range(len(sizes))]
        case = Case(request(*(asked(name) for name in names)))
        registry: dict[str, Outcome] = {}
        for letter, name, size in zip("0123456789abcdef", names, sizes, strict=False):
            registry |= {name: resolved(letter), digest(letter): large_image(letter, size, layers)}
        case.run(registry)
        return case

    @pytest.mark.parametrize(
        ("room", "left"), [(400_000, "1111"), (220_000, "0111"), (40_000, "0101"), (14_000, "0001"), (9000, "0000")]
    )
    def test_the_largest_configurations_go_first(self, room, left):
        status = self.case(200_000, 20_000, 150_000, 4000).status(room=room)
        assert size_of(status) <= room
        images = [entry["image"] for entry in status["images"]]
        assert "".join(str(int(bool(image["dockerImageMetadata"]["Config"]))) for image in images) == left
        for image_, stays in zip(images, left, strict=True):
            said = image_["metadata"]["annotations"].get(LEFT_OUT_ANNOTATION, "")
            assert said == ("" if stays == "1" else "Config: too large")
            assert len(image_["dockerImageLayers"]) == 3

    def test_then_layers_and_then_the_stream(self):
        case = self.case(4000, 4000, layers=200)
        status = case.status(room=12_000)
        assert all("dockerImageLayers" not in entry["image"] for entry in status["images"])
        assert "import" in status
        assert all(entry["image"]["dockerImageMetadata"]["Config"] == {} for entry in status["images"])
        status = case.status(room=3000)
        assert "import" not in status
        assert outcomes(status) == ["0", "1"]

    def test_a_stream_that_is_large_itself_takes_nothing_from_the_images(self):
        tags = [tag(f"v{n}", f"quay.io/acme/web:v{n}") for n in range(2000)]
        case = Case(request(asked(to="x")), stored(*tags))
        status = case.run(found("a", 1, 2, config={"Env": ["A=b"]}))
        assert "import" in status
        status = case.status(room=100_000)
        assert "import" not in status
        assert status["images"][0]["image"]["dockerImageMetadata"]["Config"] == {"Env": ["A=b"]}

    def test_however_many_and_large_it_fits(self):
        """500 images with 256 KiB each, and 500 failures of many words."""
        letters = "0123456789abcdef"
        images = [asked(f"quay.io/acme/web:v{n}") for n in range(MAX_IMAGES)]
        case = Case(request(*images))
        bodies = {digest(letter): large_image(letter, 240_000, layers=100) for letter in letters}
        registry = {f"quay.io/acme/web:v{n}": resolved(letters[n % 16]) for n in range(MAX_IMAGES)}
        status = case.run({**registry, **bodies})
        assert size_of(status) <= MAX_BYTES
        assert len(outcomes(status)) == MAX_IMAGES
        case = Case(request(*images))
        status = case.run({name: failed("NotFound", "words " * 1000) for name in registry})
        assert size_of(status) <= MAX_BYTES
        assert set(outcomes(status)) == {"NotFound 404"}
        assert all(entry["status"]["message"].endswith("...") for entry in status["images"])

    def test_what_is_kept_of_each_is_bounded(self):
        body = large_image("a", 240_000, layers=100)
        for count, limit in ((1, 256 << 10), (100, 21 << 10), (MAX_IMAGES, 8 << 10)):
            case = Case(request(*(asked(f"quay.io/acme/web:v{n}") for n in range(count))))
            (ticket, *_) = case.questions()
            held = kept(answer(ticket, body), case.work).outcome
            assert isinstance(held, Described)
            assert len(held.body) <= limit
            assert (held == body) is (count == 1)
        small = answer(ticket, image("a", 100))
        assert kept(small, case.work) is small
        assert kept(answer(ticket, resolved("a")), case.work).outcome == answer(ticket, resolved("a")).outcome


TEXT = st.text(max_size=20)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
CONFIGS = st.dictionaries(
    st.sampled_from(
        [
            "Hostname",
            "Memory",
            "Tty",
            "Env",
            "ExposedPorts",
            "Labels",
            "OnBuild",
            "Cmd",
            "Entrypoint",
            "Volumes",
            "User",
            "WorkingDir",
        ]
    ),
    ANYTHING,
)


@given(CONFIGS, TEXT, st.lists(st.integers(0, 1 << 62), max_size=4))
def test_whatever_a_publisher_writes_a_client_reads_it(config, message, layers):
    case = Case(request(asked(to="latest"), asked("quay.io/acme/web:bad", "bad")), stored())
    described = image("a", *layers, config=config)
    status = case.run({STABLE: resolved("a"), digest("a"): described, "quay.io/acme/web:bad": failed("X", message)})
    assert outcomes(status) == ["a", "X 500"]


ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "from": st.none() | st.fixed_dictionaries({"kind": st.sampled_from(["DockerImage", "", "X"]), "name": TEXT}),
        "to": st.none() | st.fixed_dictionaries({"name": st.none() | TEXT}),
        "importPolicy": st.none()
        | st.fixed_dictionaries({"importMode": TEXT, "scheduled": st.booleans(), "insecure": st.booleans()}),
        "referencePolicy": st.none() | st.fixed_dictionaries({"type": TEXT}),
    },
)


@given(st.lists(ENTRIES, max_size=4), st.none() | ENTRIES, st.booleans(), st.booleans(), st.booleans())
def test_whatever_is_asked_is_answered(images, repository_, is_import, has_stream, may_edit):
    """Also what is invalid, where nobody was there to refuse it."""
    case = Case(
        request(*images, is_import=is_import, repository=repository_),
        stored(tag(), tag("x", "app:1", kind="ImageStreamTag")) if has_stream else None,
        may_edit=may_edit,
    )
    status = case.run({})
    assert decode_request(encoded({**request(), "status": status})).is_answered
    if not may_edit or not is_import:
        assert case.write is None
