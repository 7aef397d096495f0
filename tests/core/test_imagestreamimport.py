"""Import requests: what clients send, what it makes of the stream, and an answer that they can read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.core.answering import MAX_BYTES, MAX_DESCRIBED, Work, kept, questions_of, status_of, work_of
from imagestreams.core.image import LEFT_OUT_ANNOTATION, image_object
from imagestreams.core.imagestreamimport import (
    MAX_IMAGES,
    Edit,
    Stored,
    conflict_of,
    decode_request,
    edit_of,
    edited,
    generate_name,
    invalid_message,
    problems_of,
    spec_of,
    tampering,
    target_of,
    write_of,
)
from imagestreams.core.keychain import Credential, Entry
from imagestreams.core.lookup import (
    Answer,
    Described,
    Description,
    ImportMode,
    Listing,
    Lookup,
    Outcome,
    Ticket,
)
from imagestreams.core.manifest import DOCKER_MANIFEST, digest_of
from imagestreams.core.policy import Policy
from imagestreams.core.reference import ImageReference
from imagestreams.core.stamp import IMAGE_STREAM_ANNOTATION, canonical
from imagestreams.core.stream import MalformedObject, ObjectKey, decode, encode
from imagestreams.core.wish import ImportRules
from tests.core.streams import NOT_FOUND, NOW, UNAVAILABLE, Rounds, answer, deferred, digest, failed, listed, resolved
from tests.fakes.patching import merged as patched
from tests.requests.openshift import REQUESTS, read_answer

GROUP = "image.openshift.io"
API = f"{GROUP}/v1"
WEB = ObjectKey("shop", "web")
LATE = "the registry did not answer within 25s; the controller goes on"
STABLE = "quay.io/acme/web:stable"
RULES = ImportRules()

Json = dict[str, Any]


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def size_of(value: object) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


# --- builders ---------------------------------------------------------------------------------------------------------


def asked(name: str = STABLE, to: str | None = None, **more: Any) -> Json:
    """An entry of spec.images."""
    target = {} if to is None else {"to": {"name": to}}
    return {"from": {"kind": "DockerImage", "name": name}, **target, **more}


def request(*images: Json, name: str = "web", is_import: bool = True, **more: Any) -> Json:
    spec: Json = {"import": is_import, **more}
    if images:
        spec["images"] = list(images)
    return {
        "apiVersion": API,
        "kind": "ImageStreamImport",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": spec,
    }


def repository(name: str = "quay.io/acme/web", **policy: Any) -> Json:
    return {"from": {"kind": "DockerImage", "name": name}, "importPolicy": policy}


def tag(name: str = "latest", image: str = STABLE, *, kind: str = "DockerImage", **more: Any) -> Json:
    """An entry of spec.tags."""
    return {"name": name, "from": {"kind": kind, "name": image}, **more}


def stored(*tags: Json, status: Json | None = None, annotations: Json | None = None, **spec: Any) -> Json:
    """The stream as it is in the cluster, with things in it that we know nothing of."""
    return {
        "apiVersion": API,
        "kind": "ImageStream",
        "metadata": {
            "name": "web",
            "namespace": "shop",
            "uid": "u-1",
            "resourceVersion": "100",
            "generation": 3,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"team": "acme"},
            "annotations": annotations or {},
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {"lookupPolicy": {"local": True}, "tags": list(tags), **spec},
        **({"status": status} if status else {}),
    }


class Case:
    """A request on its way to its answer: `registry` are outcomes by the reference that is asked for, of listings by
    the repository, of images by their digest; without one a question stays unanswered.
    """

    def __init__(
        self,
        body: Json,
        stream: Json | None = None,
        *,
        may_edit: bool = True,
        rules: ImportRules = RULES,
        entries: Iterable[Entry] = (),
    ) -> None:
        self.request = decode_request(encoded(body))
        self.stored = Stored.parse(encoded(stream)) if stream else None
        self.rules, self.entries = rules, tuple(entries)
        self.key = ObjectKey(self.request.namespace or "shop", self.request.name)
        self.edit: Edit = edit_of(self.request, self.stored, may_edit=may_edit)
        self.work: Work = work_of(
            self.request, self.stored, self.edit, key=self.key, api_version=API, is_bare=not may_edit
        )
        self.asked: dict[str, Ticket] = {}
        self.answers: list[Answer] = []

    def questions(self) -> tuple[Ticket, ...]:
        found = questions_of(self.work, self.answers, self.entries, asked=self.asked.keys(), rules=self.rules, now=NOW)
        for ticket in found:
            assert ticket.tag not in self.asked, "asked once"
            self.asked[ticket.tag] = ticket
        return found

    def run(self, registry: Mapping[str, Outcome] | None = None) -> Json:
        """Ask until nothing more is to be asked; returns the status."""
        while tickets := self.questions():
            for ticket in tickets:
                outcome = (registry or {}).get(_asked_for(ticket))
                if outcome is not None:
                    self.answers.append(kept(answer(ticket, outcome), self.work))
        return self.status()

    def status(self, **more: Any) -> Json:
        status = status_of(self.work, self.answers, rules=self.rules, now=NOW, late=LATE, **more)
        read_answer(status)
        assert len(status.get("images", [])) == len(self.request.images), "one for each, in the order asked"
        return status

    @property
    def write(self) -> Json | None:
        body = write_of(self.edit, self.stored, key=self.key, api_version=API)
        return None if body is None else json.loads(body)

    def written(self) -> Json:
        """The stream once the write is made."""
        patch = self.write
        if self.stored is None:
            assert patch is not None
            return patch
        return patched(self.stored.raw, patch or {})


def _asked_for(ticket: Ticket) -> str:
    match ticket.question:
        case Description(reference=reference):
            return reference.digest
        case Listing(reference=reference):
            return f"{reference}"
        case Lookup(reference=reference):
            return str(reference)


def image(letter: str, *layers: int, config: Json | None = None, recorded: str = "quay.io/acme/web") -> Described:
    """The object of an image, as if its digest were that of the letter."""
    content = encoded({"architecture": "amd64", "created": "2026-02-01T10:00:00.5Z", "config": config or {}})
    manifest = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": digest_of(content),
            "size": len(content),
        },
        "layers": [
            {
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "digest": f"sha256:{number:064x}",
                "size": size,
            }
            for number, size in enumerate(layers)
        ],
    }
    reference = ImageReference.parse(recorded)
    return Described(image_object(reference, digest(letter), encoded(manifest), DOCKER_MANIFEST, content))


def found(letter: str, *layers: int, **more: Any) -> dict[str, Outcome]:
    """A registry where the stable tag is the image of the letter."""
    return {STABLE: resolved(letter), digest(letter): image(letter, *layers, **more)}


def outcomes(status: Json) -> list[str]:
    """What became of each image: the digest's letter, or reason and code."""
    return [
        entry["image"]["metadata"]["name"].removeprefix("sha256:")[:1]
        if "image" in entry
        else f"{entry['status']['reason']} {entry['status']['code']}"
        for entry in status["images"]
    ]


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
        assert (read.uid, read.resource_version, read.created, read.repository) == ("", "", None, None)

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
            encoded({"metadata": {"creationTimestamp": ""}}),
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

LEGACY = {"importPolicy": {"importMode": "Legacy"}, "referencePolicy": {"type": "Source"}}


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
    assert case.work.hints == frozenset()
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
    assert case.work.hints == ({"two"} if is_import else set())


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
    assert case.work.hints == {""}
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
        assert case.work.hints == {"latest"}

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
        assert case.work.hints == frozenset()
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
        assert case.work.hints == {""}
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


def test_what_may_not_be_asked_is_not():
    rules = ImportRules(policy=Policy(hosts={}, blocked=("quay.io",)))
    case = Case(request(asked(to="a"), asked("ghcr.io/acme/web:1", "b"), repository=repository()), rules=rules)
    status = case.run({"ghcr.io/acme/web:1": resolved("b")})
    assert outcomes(status) == ["Forbidden 403", "b"]
    assert status["repository"]["status"]["reason"] == "Forbidden"
    assert list(case.asked) == ["b", digest("b")]


def test_the_answer_may_be_of_a_moment_ago():
    case = Case(request(asked()))
    (ticket,) = questions_of(case.work, (), (), asked=(), rules=RULES, now=NOW, request="import-7", fresh=5.0)
    assert (ticket.request, ticket.fresh) == ("import-7", 5.0)
    assert replace(ticket, request="", fresh=0.0) == case.questions()[0]


def test_the_name_of_a_request_is_no_tag():
    """A tag that a refresh request names moves also where the flap guard would keep it; this is none."""
    before = stored(tag(), status=_flapped())
    results = set()
    for name in ("", "import-7", "latest"):
        case = Case(request(asked(to="latest")), before)
        case.answers = [
            answer(ticket, resolved("a"))
            for ticket in questions_of(case.work, (), (), asked=(), rules=RULES, now=NOW, request=name)
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
    assert outcomes(case.run({STABLE: resolved("a"), digest("9"): image("9")})) == ["9"]


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
        case = Case(request(repository=repository()))
        assert [ticket.tag for ticket in case.questions()] == [""]
        case.asked.clear()
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
        assert status["repository"]["additionalTags"] == ["1.0"]

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

    def big(self, letter: str, size: int, layers: int = 3) -> Described:
        env = [f"V{n}={'x' * 3900}" for n in range(size // 3900)]
        return image(letter, *[100] * layers, config={"Env": env})

    def case(self, *sizes: int, layers: int = 3) -> Case:
        names = [f"quay.io/acme/web:v{n}" for n in range(len(sizes))]
        case = Case(request(*(asked(name) for name in names)))
        registry: dict[str, Outcome] = {}
        for letter, name, size in zip("0123456789abcdef", names, sizes, strict=False):
            registry |= {name: resolved(letter), digest(letter): self.big(letter, size, layers)}
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
        bodies = {digest(letter): self.big(letter, 240_000, layers=100) for letter in letters}
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
        body = self.big("a", 240_000, layers=100)
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
