"""Import requests: what clients send, and what it makes of the stream."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from imagestreams.core.imagestreamimport import (
    MAX_IMAGES,
    conflict_of,
    decode_request,
    edited,
    generate_name,
    hints_of,
    invalid_message,
    problems_of,
    spec_of,
    tampering,
    target_of,
)
from imagestreams.core.lookup import ImportMode, Listing, Lookup, Outcome
from imagestreams.core.stamp import IMAGE_STREAM_ANNOTATION, canonical
from imagestreams.core.stream import MalformedObject
from tests.core.imports import (
    API,
    GROUP,
    LEGACY,
    STABLE,
    WEB,
    Case,
    asked,
    encoded,
    found,
    image,
    outcomes,
    repository,
    request,
    stored,
    tag,
)
from tests.core.streams import answer, digest, listed, resolved
from tests.requests.openshift import REQUESTS

# --- what clients send ------------------------------------------------------------------------------------------------


class TestWhatClientsSend:
    """The requests under tests/requests, as `oc` and others send them."""

    @pytest.mark.parametrize("name", REQUESTS)
    def test_is_valid(self, name):
        assert problems_of(decode_request(encoded(REQUESTS[name]))) == ()

    @pytest.mark.parametrize("name", REQUESTS)
    @pytest.mark.parametrize("has_stream", [False, True])
    def test_is_answered_in_time_and_late(self, name, has_stream):
        case = Case(REQUESTS[name], stored(tag()) if has_stream else None)
        letters = iter("0123456789abcdef")
        assert case.status()["summary"]["result"] == "Failure", "nothing has arrived"
        while tickets := case.questions():
            for ticket in tickets:
                match ticket.question:
                    case Lookup(mode=mode):
                        outcome: Outcome = resolved(next(letters), child="f" if mode is ImportMode.LEGACY else "")
                    case Listing():
                        outcome = listed("latest", "1.0", "2.0")
                    case _:
                        outcome = image(ticket.tag.removeprefix("sha256:")[0], 100)
                case.answers.append(answer(ticket, outcome))
        status = case.status()
        assert status["summary"]["result"] == "Success"
        assert ("import" in status) is case.request.is_import
        entries = [*status.get("images", []), *status.get("repository", {}).get("images", [])]
        assert entries
        assert all(entry["image"]["dockerImageMetadata"]["Config"] == {} for entry in entries)

    @pytest.mark.parametrize("name", REQUESTS)
    def test_its_empty_status_is_no_answer(self, name):
        assert not decode_request(encoded(REQUESTS[name])).is_answered

    @pytest.mark.parametrize(
        "status", [{"images": [{}]}, {"repository": {"status": {}}}, {"summary": {"images": "0/0"}}]
    )
    def test_an_answer_is_one(self, status):
        assert decode_request(encoded({**request(asked()), "status": status})).is_answered

    def test_nulls(self):
        read = decode_request(encoded(REQUESTS["nulls"]))
        assert [(each.name, each.target, each.mode, each.policy) for each in read.images] == [
            ("quay.io/acme/web:stable", "stable", "", ""),
            ("quay.io/acme/web:2.0", "two", "", ""),
        ]
        assert (read.resource_version, read.repository) == ("", None)

    @pytest.mark.parametrize("spec", [None, {}, {"images": None}, {"import": None, "images": []}])
    def test_a_spec_with_nothing_in_it(self, spec):
        read = decode_request(encoded({**request(), "spec": spec}))
        assert (read.is_import, read.images, read.repository) == (False, (), None)
        assert [each.field for each in problems_of(read)] == ["spec.images"]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"{",
            b"[" * 100_000,
            encoded({"spec": {"import": "true"}}),
            encoded({"spec": {"images": {}}}),
            encoded({"spec": {"images": [{"from": "quay.io/acme/web"}]}}),
        ],
    )
    def test_what_is_no_request(self, body):
        with pytest.raises(MalformedObject, match="ImageStreamImport"):
            decode_request(body)

    def test_its_spec_is_what_a_stamp_covers(self):
        body = REQUESTS["nulls"]
        assert canonical(spec_of(encoded(body))) == canonical(encoded(body["spec"]))
        assert spec_of(b"{}") == b""
        with pytest.raises(MalformedObject):
            spec_of(b"[")


class TestTheStreamThatIsMeant:
    @pytest.mark.parametrize(
        ("metadata", "is_stamped", "name"),
        [
            pytest.param({"name": "web"}, False, "web", id="as it is created"),
            pytest.param({"generateName": "look-"}, False, "", id="a look-up for no stream"),
            pytest.param(
                {"name": "web-x8k2j", "annotations": {IMAGE_STREAM_ANNOTATION: "web"}}, True, "web", id="ours"
            ),
            pytest.param({"name": "a", "annotations": {IMAGE_STREAM_ANNOTATION: "b"}}, False, "a", id="his own words"),
            pytest.param({"name": "web-x8k2j"}, True, "", id="stamped for no stream"),
        ],
    )
    def test_target(self, metadata, is_stamped, name):
        read = decode_request(encoded({"metadata": {"namespace": "shop", **metadata}}))
        assert target_of(read, is_stamped=is_stamped) == ("shop", name)

    @pytest.mark.parametrize(
        ("name", "generated"), [("web", "web-"), ("a" * 80, "a" * 57 + "-"), ("a" * 56 + ".b", "a" * 56 + "-")]
    )
    def test_the_requests_own_name(self, name, generated):
        assert generate_name(name) == generated

    @pytest.mark.parametrize(
        ("version", "stream", "code"),
        [
            pytest.param("", None, 0, id="first time"),
            pytest.param("", stored(), 0, id="whatever the stream is"),
            pytest.param("100", stored(), 0, id="as the client read it"),
            pytest.param("99", stored(), 409, id="changed meanwhile"),
            pytest.param("99", None, 404, id="deleted meanwhile"),
        ],
    )
    def test_the_version_that_the_client_has_seen(self, version, stream, code):
        body = request(asked())
        body["metadata"]["resourceVersion"] = version
        case = Case(body, stream)
        refusal = conflict_of(case.request, case.stored, group=GROUP)
        assert (refusal.code if refusal else 0) == code
        if code == 409:
            assert refusal is not None
            assert refusal.reason == "Conflict"
            assert 'the image stream was updated from "99" to "100"' in refusal.message
            assert 'imagestreams.image.openshift.io "web"' in refusal.message


LONG = "quay.io/" + "a" * 600


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        (request(), ["spec.images: Required value"]),
        (request(*[asked()] * (MAX_IMAGES + 1)), [f"spec.images: Too many: {MAX_IMAGES + 1}: must have at most"]),
        (request(asked(to="")), ['spec.images[0].to.name: Invalid value: ""']),
        (request(asked(to="a/b")), ['spec.images[0].to.name: Invalid value: "a/b"']),
        (request(asked(), {"from": None}), ['spec.images[1].from.kind: Invalid value: "": only DockerImage']),
        (request({"from": {"kind": "DockerImage"}}), ["spec.images[0].from.name: Required value"]),
        (
            request({"from": {"kind": "ImageStreamTag", "name": "a:b"}}),
            ['spec.images[0].from.kind: Invalid value: "ImageStreamTag": only DockerImage is supported'],
        ),
        (request(asked("http://x/y")), ['spec.images[0].from.name: Invalid value: "http://x/y"']),
        (request(asked(LONG)), ["spec.images[0].from.name: Invalid value"]),
        (
            request(asked(importPolicy={"importMode": "All"})),
            ['spec.images[0].importPolicy.importMode: Unsupported value: "All"'],
        ),
        (
            request(asked(referencePolicy={"type": "local"})),
            ['spec.images[0].referencePolicy.type: Unsupported value: "local": supported values: "", "Source"'],
        ),
        (
            request(asked(to="a"), asked("quay.io/acme/api:1", "a")),
            ['spec.images[1].to.name: Duplicate value: "a"'],
        ),
        *(
            (request(asked(to="a", **more), asked(to="a")), ['spec.images[1].to.name: Duplicate value: "a"'])
            for more in (
                {"importPolicy": {"insecure": True}},
                {"importPolicy": {"scheduled": True}},
                {"importPolicy": {"importMode": "PreserveOriginal"}},
                {"referencePolicy": {"type": "Local"}},
            )
        ),
        (request(asked("x/y:1"), asked("x/z:1")), ['spec.images[1].to.name: Duplicate value: "1"']),
        (request(repository=repository("quay.io/a:1")), ["spec.repository.from.name: Invalid value"]),
        (request(repository=repository(f"q.io/a@{digest('a')}")), ["spec.repository.from.name: Invalid value"]),
        (request(repository=repository("quay.io")), ["spec.repository.from.name: Invalid value"]),
        (request(repository=repository("A b")), ["spec.repository.from.name: Invalid value"]),
        (request(repository={}), ["spec.repository.from.kind: Invalid value"]),
        (
            request(repository=repository(scheduled=True)),
            ["spec.repository.importPolicy.scheduled: Invalid value: true"],
        ),
        (request(asked(), name="a--b"), ['metadata.name: Invalid value: "a--b"']),
        (request(asked(), name="a" * 254), ["metadata.name: Invalid value"]),
        (request(asked(), name=""), ["metadata.name: Required value"]),
        (
            request(asked(to=""), {"from": {}}, name="Web"),
            ["metadata.name", "spec.images[0].to.name", "spec.images[1].from.kind"],
        ),
    ],
)
def test_what_is_amiss_is_named(body, problems):
    read = decode_request(encoded(body))
    said = [str(problem) for problem in problems_of(read)]
    assert [text[: len(begin)] for text, begin in zip(said, problems, strict=True)] == problems
    message = invalid_message(read, problems_of(read), group=GROUP)
    assert message.startswith("ImageStreamImport.image.openshift.io ")
    assert said[0] in message


@pytest.mark.parametrize(
    "body",
    [
        request(*[asked(f"quay.io/acme/web:v{n}") for n in range(MAX_IMAGES)]),
        request(asked(f"q.io/a@{digest('a')}", "a", importPolicy={"scheduled": True})),
        request(asked(to="a"), asked(to="a")),
        request(asked("x/y:1"), asked("x/z:1"), is_import=False),
        request(asked(), name="", is_import=False),
        request(repository=repository(scheduled=True), is_import=False),
        request(asked("quay.io")),
    ],
)
def test_what_is_taken(body):
    assert problems_of(decode_request(encoded(body))) == ()


def test_however_much_is_amiss_the_message_is_bounded():
    read = decode_request(encoded(request(*[asked("x" * 600 + "/" + "Y" * 600, "")] * MAX_IMAGES)))
    message = invalid_message(read, problems_of(read), group=GROUP)
    assert "and 990 more" in message
    assert len(message) < 8192


# --- what it makes of the stream --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "entry", "after"),
    [
        pytest.param(
            None,
            asked(to="latest", **LEGACY),
            tag(**LEGACY),
            id="a new tag is as it is asked for",
        ),
        pytest.param(None, asked(to="latest"), tag(), id="what is not said is not written"),
        pytest.param(
            None,
            asked(to="latest", importPolicy={"insecure": True, "scheduled": True}, referencePolicy={"type": ""}),
            tag(importPolicy={"insecure": True, "scheduled": True}),
            id="with its policy",
        ),
        pytest.param(tag(), asked(to="latest", **LEGACY), tag(), id="a tag that is there keeps its import mode"),
        pytest.param(
            tag(importPolicy={"importMode": "PreserveOriginal"}),
            asked(to="latest", **LEGACY),
            tag(importPolicy={"importMode": "PreserveOriginal"}),
            id="also where it says it",
        ),
        pytest.param(
            tag(referencePolicy={"type": "Local"}),
            asked(to="latest", referencePolicy={"type": "Source"}),
            tag(referencePolicy={"type": "Local"}),
            id="and its reference policy",
        ),
        pytest.param(
            tag(referencePolicy={"type": "Source"}),
            asked(to="latest", referencePolicy={"type": "Local"}),
            tag(referencePolicy={"type": "Source"}),
            id="whichever that is",
        ),
        pytest.param(
            tag(referencePolicy={"type": ""}),
            asked(to="latest", referencePolicy={"type": "Local"}),
            tag(referencePolicy={"type": "Local"}),
            id="which is set where it has none",
        ),
        pytest.param(
            tag(importPolicy={"scheduled": True, "importMode": "Legacy"}),
            asked(to="latest"),
            tag(importPolicy={"scheduled": False, "importMode": "Legacy"}),
            id="the request says whether it is scheduled",
        ),
        pytest.param(
            tag(importPolicy={"insecure": True}),
            asked(to="latest"),
            tag(importPolicy={"insecure": False}),
            id="or insecure",
        ),
        pytest.param(
            tag(importPolicy={"insecure": False, "scheduled": None}),
            asked(to="latest"),
            tag(importPolicy={"insecure": False, "scheduled": None}),
            id="which may be written in several ways",
        ),
        pytest.param(
            tag(image="quay.io/acme/old:1", annotations={"a": "b"}, more=[1]),
            asked(to="latest"),
            tag(annotations={"a": "b"}, more=[1]),
            id="another image; what we do not know stays",
        ),
        pytest.param(
            {"name": "latest", "from": None}, asked(to="latest"), tag(), id="a tag that was pushed gets a source"
        ),
        pytest.param({"name": "latest"}, asked(to="latest"), tag(), id="one without anything, too"),
        pytest.param(
            {**tag(), "from": {"kind": "DockerImage", "name": STABLE, "namespace": "x", "uid": ""}},
            asked(to="latest"),
            {**tag(), "from": {"kind": "DockerImage", "name": STABLE, "namespace": "x", "uid": ""}},
            id="an equal source is not touched",
        ),
    ],
)
def test_a_tag_is_ensured(before, entry, after):
    others = [tag("a", "q.io/a:1"), tag("z", "q.io/z:1")]
    case = Case(request(entry), stored(others[0], *([before] if before else []), others[1]))
    tags = case.written()["spec"]["tags"]
    assert tags == [others[0], *([after, others[1]] if before else [others[1], after])]
    assert (case.write is None) is (before == after), "nothing is written where nothing changes"
    if case.write is not None:
        assert case.write["metadata"] == {"resourceVersion": "100", "uid": "u-1"}
        assert case.write.keys() == {"metadata", "spec"}
        assert case.write["spec"].keys() == {"tags"}


def test_what_the_stream_holds_besides_stays():
    before = stored(tag(image="quay.io/acme/old:1"), status={"tags": [], "more": 1})
    case = Case(request(asked(to="latest")), before)
    expected = deepcopy(before)
    expected["spec"]["tags"] = [tag()]
    assert {**case.written(), "metadata": before["metadata"]} == expected
    expected["metadata"]["generation"] = 4
    assert edited(case.edit, case.stored, key=WEB, api_version=API) == expected
    assert case.stored is not None
    assert case.stored.raw == before, "what was read is not changed"


def test_a_stream_is_created():
    case = Case(request(asked(to="latest", **LEGACY)))
    assert case.write == {
        "apiVersion": API,
        "kind": "ImageStream",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"tags": [tag(**LEGACY)]},
    }
    assert case.work.stream is not None
    assert case.work.stream.metadata.generation == 1


@pytest.mark.parametrize(
    "body",
    [
        request(asked(to="latest"), is_import=False),
        request(asked(f"quay.io/acme/web@{digest('a')}")),
        request(asked("quay.io/acme/web")),
        request(asked(to="")),
        request(repository=repository(), is_import=False),
        request(repository=repository("quay.io/a:1")),
    ],
    ids=["only looked up", "by digest", "no tag is named", "amiss", "a repository looked up", "a repository amiss"],
)
@pytest.mark.parametrize("stream", [None, stored()], ids=["no stream", "a stream"])
def test_what_needs_no_change_writes_nothing(body, stream):
    case = Case(body, stream)
    assert case.write is None
    assert not case.edit.is_change
    assert hints_of(case.request, case.edit) == frozenset()
    status = case.run(found("a"))
    assert ("import" in status) is (stream is not None and body["spec"]["import"])


@pytest.mark.parametrize(
    ("present", "words"),
    [
        (tag(image="app:1", kind="ImageStreamTag"), 'tag "latest" follows ImageStreamTag "app:1"; change it with'),
        (tag(image="app@sha256:1f", kind="ImageStreamImage"), 'tag "latest" follows ImageStreamImage "app@sha256:1f"'),
        (tag(reference=True), 'tag "latest" only records its source (reference: true)'),
    ],
)
@pytest.mark.parametrize("is_import", [True, False])
def test_a_tag_that_comes_from_elsewhere_is_not_touched(present, words, is_import):
    """The others of the request go on."""
    body = request(asked(to="latest"), asked("quay.io/acme/web:2", "two"), is_import=is_import)
    case = Case(body, stored(present))
    status = case.run({"quay.io/acme/web:2": resolved("b")})
    assert outcomes(status) == ["Invalid 422", "b"]
    assert words in status["images"][0]["status"]["message"]
    assert case.written()["spec"]["tags"][0] == present
    assert hints_of(case.request, case.edit) == ({"two"} if is_import else set())


def test_a_look_up_that_names_no_tag_of_the_stream_minds_none():
    case = Case(request(asked(), is_import=False), stored(tag("stable", "app:1", kind="ImageStreamTag")))
    assert outcomes(case.run(found("a"))) == ["a"]


def test_a_stream_has_room_for_so_many_tags():
    tags = [tag(f"v{n}", f"q.io/a:v{n}") for n in range(2499)]
    case = Case(request(asked(to="v1"), asked(to="x"), asked(to="y")), stored(*tags))
    assert set(case.edit.refused) == {2}
    assert len(case.written()["spec"]["tags"]) == 2500


@pytest.mark.parametrize(
    ("present", "is_insecure", "asks", "spec", "annotation"),
    [
        pytest.param("", False, repository(), "quay.io/acme/web", None, id="a stream without one gets it"),
        pytest.param("", False, repository(insecure=True), "quay.io/acme/web", "true", id="and may be insecure"),
        pytest.param("quay.io/acme/web", False, repository(), None, None, id="it has it"),
        pytest.param("quay.io/acme/web", True, repository(insecure=True), None, None, id="in the same way"),
        pytest.param("quay.io/acme/web", True, repository(), None, None, id="and stays insecure"),
        pytest.param("quay.io/acme/web", False, repository(insecure=True), None, "true", id="or becomes so"),
    ],
)
def test_a_repository(present, is_insecure, asks, spec, annotation):
    name = "openshift.io/image.insecureRepository"
    before = stored(annotations={name: "true"} if is_insecure else None, dockerImageRepository=present)
    case = Case(request(repository=asks), before)
    patch = case.write or {}
    assert patch.get("spec") == ({"dockerImageRepository": spec} if spec else None)
    assert patch.get("metadata", {}).get("annotations") == ({name: annotation} if annotation else None)
    assert hints_of(case.request, case.edit) == {""}
    assert case.work.stream is not None
    assert case.work.stream.is_repository_insecure is bool(is_insecure or annotation)
    assert case.work.stream.metadata.generation == (4 if spec else 3)


def test_another_repository_than_the_streams():
    case = Case(request(asked(to="latest"), repository=repository()), stored(dockerImageRepository="quay.io/acme/api"))
    status = case.run(found("a"))
    assert status["repository"]["status"]["reason"] == "Conflict"
    assert status["repository"]["status"]["code"] == 409
    for name in ("quay.io/acme/web", "quay.io/acme/api"):
        assert f'"{name}"' in status["repository"]["status"]["message"]
    assert case.written()["spec"]["dockerImageRepository"] == "quay.io/acme/api"
    assert outcomes(status) == ["a"], "the images go on"
    assert status["summary"] == {"result": "Partial", "images": "1/1"}


class TestNobodyKnowsWhoAsks:
    """Without the webhook."""

    def test_what_spec_says_already_is_looked_up(self):
        case = Case(request(asked(to="latest", **LEGACY)), stored(tag()), may_edit=False)
        status = case.run(found("a", 100))
        assert outcomes(status) == ["a"]
        assert case.write is None
        assert hints_of(case.request, case.edit) == {"latest"}

    @pytest.mark.parametrize(
        "present",
        [
            None,
            stored(),
            stored(tag(image="quay.io/acme/old:1")),
            stored({"name": "latest"}),
            stored(tag(importPolicy={"insecure": True})),
        ],
    )
    def test_what_it_does_not_say_is_not(self, present):
        case = Case(request(asked(to="latest")), present, may_edit=False)
        status = case.run(found("a"))
        assert outcomes(status) == ["Forbidden 403"]
        assert not case.asked
        assert case.write is None
        assert hints_of(case.request, case.edit) == frozenset()
        words = status["images"][0]["status"]["message"]
        assert "nobody knows who asks" in words
        assert f"imagestreams tag {STABLE} web:latest" in words

    @pytest.mark.parametrize("present", [None, stored(), stored(dockerImageRepository="")])
    def test_nor_a_repository(self, present):
        case = Case(request(repository=repository()), present, may_edit=False)
        status = case.run({})
        assert status["repository"]["status"]["reason"] == "Forbidden"
        assert "--all --from=quay.io/acme/web" in status["repository"]["status"]["message"]
        assert not case.asked

    def test_a_repository_that_spec_has(self):
        case = Case(request(repository=repository()), stored(dockerImageRepository="quay.io/acme/web"), may_edit=False)
        assert hints_of(case.request, case.edit) == {""}
        assert case.run({"quay.io/acme/web": listed()})["repository"]["status"]["status"] == "Success"

    @pytest.mark.parametrize("is_import", [True, False])
    def test_they_learn_the_digest_and_no_more(self, is_import):
        case = Case(request(asked(to="latest"), is_import=is_import), stored(tag()), may_edit=False)
        status = case.run(found("a", 100, config={"Env": ["A=b"]}))
        assert [type(ticket.question) for ticket in case.asked.values()] == [Lookup]
        assert status["images"] == [
            {
                "status": {"metadata": {}, "status": "Success"},
                "tag": "stable",
                "image": {
                    "metadata": {"name": digest("a")},
                    "dockerImageReference": f"quay.io/acme/web@{digest('a')}",
                    "dockerImageMetadata": {
                        "kind": "DockerImage",
                        "apiVersion": "image.openshift.io/1.0",
                        "Id": digest("a"),
                        "Config": {},
                    },
                    "dockerImageMetadataVersion": "1.0",
                },
            }
        ]
        assert "import" not in status, "they may not even have the right to see the stream"

    def test_an_invalid_request_that_was_stored_is_answered(self):
        """The schema lets it pass, and nobody else was there to refuse it."""
        case = Case(
            request(asked(), {"from": {"kind": "ImageStreamTag", "name": "a:b"}}), stored(tag("stable")), may_edit=False
        )
        status = case.run(found("a"))
        assert outcomes(status) == ["a", "Invalid 422"]
        assert "spec.images[1].from.kind" in status["images"][1]["status"]["message"]

    def test_one_that_asks_for_nothing_is_answered(self):
        status = Case(request(), None, may_edit=False).run()
        assert decode_request(encoded({**request(), "status": status})).is_answered

    def test_one_of_too_many_images_is_answered(self):
        case = Case(request(*[asked()] * (MAX_IMAGES + 1)), stored(tag()), may_edit=False)
        assert set(outcomes(case.run(found("a")))) == {"Invalid 422"}
        assert not case.asked


# --- changing a request that was answered -----------------------------------------------------------------------------


def test_what_was_asked_and_answered_stays():
    body = {**request(asked()), "status": {"summary": {"result": "Success"}}}
    body["metadata"] |= {"annotations": {IMAGE_STREAM_ANNOTATION: "web", "note": "x"}, "labels": {"a": "b"}}

    def changed(**changes: Any) -> bytes:
        return encoded({**deepcopy(body), **changes})

    metadata = body["metadata"]
    for free in (
        changed(),
        changed(metadata={**metadata, "labels": {}, "finalizers": ["x"], "resourceVersion": "7"}),
        changed(metadata={**metadata, "annotations": {IMAGE_STREAM_ANNOTATION: "web", "note": "y"}}),
        changed(spec={**body["spec"], "repository": None}),
    ):
        assert tampering(encoded(body), free) == ""
    for forged, name in (
        (changed(spec={**body["spec"], "import": False}), "spec"),
        (changed(status={}), "status"),
        (changed(status={"summary": {"result": "Failure"}}), "status"),
        (changed(metadata={**metadata, "annotations": {}}), f"metadata.annotations[{IMAGE_STREAM_ANNOTATION}]"),
        (changed(metadata={**metadata, "annotations": None}), f"metadata.annotations[{IMAGE_STREAM_ANNOTATION}]"),
        (
            changed(
                metadata={**metadata, "annotations": {**metadata["annotations"], "imagestreams.dev/carried-out": "x"}}
            ),
            "metadata.annotations[imagestreams.dev/carried-out]",
        ),
    ):
        assert tampering(encoded(body), forged).startswith(f"{name} cannot be changed")
    with pytest.raises(MalformedObject):
        tampering(b"[", b"{}")
