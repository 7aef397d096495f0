"""The ImageStream as it is read and written."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.core import stream as api
from imagestreams.core.following import no_streams
from imagestreams.core.lookup import ImportMode, Source
from imagestreams.core.reference import InvalidReference
from imagestreams.core.stream import (
    MAX_HOPS,
    Condition,
    Handled,
    ImageStream,
    Istag,
    MalformedObject,
    ObjectKey,
    Observed,
    Repository,
    Status,
    StatusTag,
    Summary,
    TagCondition,
    TagEvent,
    TagImage,
    TagReference,
    decode,
    decode_list,
    encode,
    encode_status_patch,
    event_identity,
    latest_image,
)
from tests.core.streams import IMAGE, NOW, digest, follower, pinned, stored, stream, tag

# --- decode and encode ------------------------------------------------------------------------------------------------

_text = st.none() | st.text(max_size=20)
_number = st.none() | st.integers(-(2**62), 2**62)
_flag = st.none() | st.booleans()
_moment = st.none() | st.datetimes(
    min_value=datetime(1970, 1, 1),  # noqa: DTZ001 - the strategy adds the zone
    max_value=datetime(9999, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


def _some(*fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | st.one_of(fields)


def _tuples(of: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | st.lists(of, max_size=3).map(tuple)


_reference = st.builds(api.ObjectReference, kind=_text, name=_text, namespace=_text)
_tag_reference = st.builds(
    TagReference,
    name=st.text(max_size=10),
    from_=_some(_reference),
    annotations=_some(st.builds(api.TagAnnotations, prefer_arch=_text, prefer_os=_text)),
    reference=_flag,
    import_policy=_some(st.builds(api.ImportPolicy, insecure=_flag, scheduled=_flag, import_mode=_text)),
    reference_policy=_some(st.builds(api.ReferencePolicy, type=_text)),
)
_status_tag = st.builds(
    StatusTag,
    tag=st.text(max_size=10),
    items=_tuples(
        st.builds(TagEvent, created=_moment, docker_image_reference=st.text(), image=_text, generation=_number)
    ),
    conditions=_tuples(
        st.builds(
            TagCondition,
            type=st.text(max_size=9),
            status=st.text(max_size=9),
            reason=_text,
            message=_text,
            last_transition_time=_moment,
            generation=_number,
        )
    ),
    observed=_some(
        st.builds(
            Observed,
            from_=_some(_reference),
            import_mode=_text,
            reference=_flag,
            insecure=_flag,
            platform=_text,
            generation=_number,
            digest=_text,
        )
    ),
)
_status = st.builds(
    Status,
    docker_image_repository=_text,
    public_docker_image_repository=_text,
    observed_generation=_number,
    conditions=_tuples(
        st.builds(
            Condition,
            type=st.text(max_size=9),
            status=st.text(max_size=9),
            reason=_text,
            message=_text,
            last_transition_time=_moment,
            observed_generation=_number,
        )
    ),
    tags=_tuples(_status_tag),
    handled=_some(st.builds(Handled, refresh=_text, forget=_text)),
    summary=_some(st.builds(Summary, tags=_text, updated=_moment, scheduled=_text)),
    repository=_some(
        st.builds(
            Repository,
            name=st.text(max_size=10),
            insecure=st.booleans(),
            found=st.integers(0, 9),
            left_out=st.integers(0, 9),
            limit=st.integers(0, 9),
        )
    ),
)
_stream = st.builds(
    ImageStream,
    metadata=st.builds(
        api.Metadata,
        name=st.text(max_size=10),
        namespace=st.text(max_size=10),
        uid=st.text(max_size=10),
        resource_version=st.text(max_size=10),
        generation=st.integers(0, 2**62),
        annotations=_some(
            st.builds(
                api.Annotations,
                refresh=_text,
                forget=_text,
                interval=_text,
                suspend=_text,
                pull_secrets=_text,
                insecure_repository=_text,
            )
        ),
    ),
    spec=_some(st.builds(api.Spec, docker_image_repository=_text, tags=_tuples(_tag_reference))),
    status=_some(_status),
)


@given(_stream)
def test_what_encode_writes_decode_reads_back(value: ImageStream):
    assert decode(encode(value)) == value


@given(_status)
def test_a_written_status_is_read_back(status: Status):
    read = stored(stream(tag()), status).status
    assert read is not None
    assert read.tags == (status.tags or ())
    assert read.conditions == status.conditions
    assert read.observed_generation == status.observed_generation


# As `oc get is -o yaml` shows them; nulls as Go clients write them for what is not set.
EXPORT = {
    "apiVersion": "image.openshift.io/v1",
    "kind": "ImageStream",
    "metadata": {
        "annotations": {
            "openshift.io/image.dockerRepositoryCheck": "2024-05-02T09:12:44Z",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
            "imagestreams.dev/interval": "1h",
        },
        "creationTimestamp": None,
        "generation": 2,
        "labels": {"app": "ruby"},
        "name": "ruby",
        "namespace": "team",
        "resourceVersion": "4711",
        "uid": "4fd3",
        "managedFields": [{"manager": "oc", "operation": "Update"}],
    },
    "spec": {
        "lookupPolicy": {"local": False},
        "tags": [
            {
                "annotations": {"iconClass": "icon-ruby", "importer.image.openshift.io/prefer-arch": "arm64"},
                "from": {"kind": "DockerImage", "name": "registry.access.redhat.com/ubi9/ruby-33:latest"},
                "generation": 2,
                "importPolicy": {"importMode": "Legacy", "scheduled": True},
                "name": "3.3",
                "referencePolicy": {"type": "Local"},
            },
            {
                "annotations": None,
                "from": {"kind": "ImageStreamTag", "name": "3.3"},
                "generation": None,
                "importPolicy": {},
                "name": "latest",
                "reference": True,
                "referencePolicy": {"type": ""},
            },
            {"annotations": None, "from": None, "generation": None, "importPolicy": None, "name": "pushed"},
        ],
    },
    "status": {
        "dockerImageRepository": "image-registry.openshift-image-registry.svc:5000/team/ruby",
        "tags": [
            {
                "items": [
                    {
                        "created": "2024-05-02T09:12:44Z",
                        "dockerImageReference": "registry.access.redhat.com/ubi9/ruby-33@" + digest("a"),
                        "generation": 2,
                        "image": digest("a"),
                    }
                ],
                "tag": "3.3",
            },
            {
                "conditions": [
                    {
                        "generation": 2,
                        "lastTransitionTime": "2024-05-02T09:12:44Z",
                        "message": "Internal error occurred",
                        "reason": "InternalError",
                        "status": "False",
                        "type": "ImportSuccess",
                    }
                ],
                "items": None,
                "tag": "latest",
            },
        ],
    },
}


def test_an_export_from_openshift_is_read():
    read = decode(json.dumps(EXPORT).encode())
    assert read.key == ObjectKey("team", "ruby")
    assert read.annotations == api.Annotations(interval="1h")
    ruby, latest, pushed = read.spec_tags
    assert (ruby.is_scheduled, ruby.is_local) == (True, True)
    assert ruby.source("team", ImportMode.PRESERVE_ORIGINAL) == Source(
        "DockerImage", "registry.access.redhat.com/ubi9/ruby-33:latest", mode=ImportMode.LEGACY
    )
    assert (latest.is_scheduled, latest.is_local, latest.reference) == (False, False, True)
    assert pushed.source("team", ImportMode.LEGACY) is None
    image = read.status_tag("3.3")
    assert image is not None
    assert image.newest is not None
    assert image.newest.created == datetime(2024, 5, 2, 9, 12, 44, tzinfo=UTC)
    failed = read.status_tag("latest")
    assert failed is not None
    assert failed.newest is None
    assert failed.outcome is not None
    assert failed.outcome.reason == "InternalError"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="neither spec nor status"),
        pytest.param({"spec": None, "status": None}, id="null spec and status"),
        pytest.param({"spec": {"tags": None}, "status": {"tags": None, "conditions": None}}, id="null lists"),
        pytest.param({"spec": {}, "status": {"summary": {"updated": None}, "handled": None}}, id="null scalars"),
    ],
)
def test_an_empty_stream_has_no_tags(fields: dict[str, Any]):
    read = decode(json.dumps({"metadata": {"name": "app", "annotations": None}, **fields}).encode())
    assert (read.spec_tags, read.status_tag("latest"), read.annotations) == ((), None, api.Annotations())


@pytest.mark.parametrize(
    ("body", "where"),
    [
        pytest.param(b"{", "truncated", id="cut off"),
        pytest.param(b'{"metadata": {}}', r"name.*\$.metadata", id="no name"),
        pytest.param(b'{"metadata": {"name": "x"}, "spec": {"tags": {}}}', r"\$.spec.tags", id="tags are no list"),
        pytest.param(b'{"metadata": {"name": "x", "generation": "1"}}', r"generation", id="wrong type"),
        pytest.param(b'{"metadata": {"name": "\xff"}}', "utf-8", id="not UTF-8"),
        pytest.param(b'{"metadata": {"name": "x"}, "labels": ' + b"[" * 5000, "recursion", id="nested"),
    ],
)
def test_a_malformed_object_is_said_where(body: bytes, where: str):
    with pytest.raises(MalformedObject, match=where):
        decode(body)
    with pytest.raises(MalformedObject):
        decode_list(b'{"metadata": {}, "items": [' + body + b"]}")


def test_a_page_of_a_list_is_read():
    page = decode_list(
        json.dumps({"metadata": {"resourceVersion": "9", "continue": "abc"}, "items": [EXPORT]}).encode()
    )
    assert (page.metadata.resource_version, page.metadata.continue_) == ("9", "abc")
    assert [item.key for item in page.items] == [ObjectKey("team", "ruby")]


def test_the_garbage_collector_does_not_walk_the_store():
    read = decode(json.dumps(EXPORT).encode())
    assert read.status is not None
    parts = [read, read.metadata, read.spec, read.status, *read.spec_tags, *(read.status.tags or ())]
    assert not any(gc.is_tracked(part) for part in parts)


# --- the write --------------------------------------------------------------------------------------------------------


def _patch(status: Status) -> dict[str, Any]:
    return json.loads(encode_status_patch(stream(tag()), status))  # type: ignore[no-any-return]


def test_the_patch_lands_only_on_what_was_read():
    assert _patch(Status())["metadata"] == {"resourceVersion": "100", "uid": "uid-1"}


def test_the_patch_touches_only_metadata_and_status():
    assert _patch(Status()).keys() == {"metadata", "status"}


@pytest.mark.parametrize("tags", [None, ()])
def test_the_last_tag_goes_too(tags: tuple[StatusTag, ...] | None):
    assert _patch(Status(tags=tags))["status"]["tags"] == []


def test_a_summary_that_has_nothing_left_is_removed_field_by_field():
    assert _patch(Status(summary=Summary(scheduled="0/0")))["status"]["summary"] == {
        "tags": None,
        "updated": None,
        "scheduled": "0/0",
    }


def test_no_field_of_a_listing_survives_the_next():
    before = stream(status=Status(repository=Repository("quay.io/x", insecure=True, found=3, left_out=2, limit=1)))
    after = Status(repository=Repository("quay.io/y"))
    assert stored(before, after).status == Status(tags=(), repository=Repository("quay.io/y"))
    gone = stored(before, Status()).status
    assert gone is not None
    assert gone.repository is None


def test_what_others_read_in_a_condition_of_a_tag_is_written():
    condition = TagCondition(type="ImportSuccess", status="True", reason="Imported", last_transition_time=NOW)
    written = _patch(Status(tags=(StatusTag(tag="latest", conditions=(condition,)),)))["status"]["tags"][0]
    assert written["conditions"] == [
        {"type": "ImportSuccess", "status": "True", "reason": "Imported", "lastTransitionTime": "2026-03-01T12:00:00Z"}
    ]


def test_another_writers_condition_keeps_the_fields_that_the_schema_requires():
    theirs = {
        "type": "Paused",
        "status": "False",
        "reason": "",
        "message": "",
        "lastTransitionTime": "2026-03-01T12:00:00Z",
    }
    body = {"metadata": {"name": "app"}, "status": {"conditions": [theirs]}}
    status = decode(json.dumps(body).encode()).status
    assert status is not None
    assert _patch(status)["status"]["conditions"] == [theirs]


def test_times_are_whole_seconds_in_utc():
    moment = datetime(2026, 3, 1, 13, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=1)))
    assert api.whole_seconds(moment) == NOW
    assert api.whole_seconds(moment).tzinfo is UTC


# --- what a spec tag asks for -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "wanted"),
    [
        pytest.param(tag(), Source("DockerImage", IMAGE), id="mode unset: the default"),
        pytest.param(tag(mode=""), Source("DockerImage", IMAGE), id="mode empty: the default"),
        pytest.param(tag(mode="Legacy"), Source("DockerImage", IMAGE, mode=ImportMode.LEGACY), id="Legacy"),
        pytest.param(tag(mode="PreserveOriginal"), Source("DockerImage", IMAGE), id="PreserveOriginal"),
        pytest.param(tag(insecure=True), Source("DockerImage", IMAGE, insecure=True), id="insecure"),
        pytest.param(tag(reference=True), Source("DockerImage", IMAGE, reference=True), id="reference"),
        pytest.param(tag(scheduled=True, local=True), Source("DockerImage", IMAGE), id="no part of the source"),
        pytest.param(
            tag(mode="Legacy", platform=("linux", "arm64")),
            Source("DockerImage", IMAGE, mode=ImportMode.LEGACY, platform="linux/arm64"),
            id="preferred platform",
        ),
        pytest.param(
            tag(mode="Legacy", platform=("linux", "")),
            Source("DockerImage", IMAGE, mode=ImportMode.LEGACY),
            id="half a platform",
        ),
        pytest.param(
            tag(platform=("linux", "arm64")), Source("DockerImage", IMAGE), id="a platform that is not chosen"
        ),
        pytest.param(tag(namespace="team"), Source("DockerImage", IMAGE), id="own namespace: none"),
        pytest.param(tag(namespace=""), Source("DockerImage", IMAGE), id="empty namespace: none"),
        pytest.param(tag(namespace="other"), Source("DockerImage", IMAGE, namespace="other"), id="another namespace"),
        pytest.param(TagReference(name="x"), None, id="no source"),
        pytest.param(TagReference(name="x", from_=api.ObjectReference()), None, id="an empty source"),
        pytest.param(TagReference(name="x", from_=api.ObjectReference(kind="", name="")), None, id="empty texts"),
        pytest.param(TagReference(name="x", from_=api.ObjectReference(name="y")), Source("", "y"), id="no kind"),
    ],
)
def test_a_tag_asks_for(reference: TagReference, wanted: Source | None):
    assert reference.source("team", ImportMode.PRESERVE_ORIGINAL) == wanted


def test_the_default_mode_is_a_part_of_the_source():
    found = tag().source("team", ImportMode.LEGACY)
    assert found is not None
    assert found.mode is ImportMode.LEGACY


_source_fields: dict[str, st.SearchStrategy[Any]] = {
    "kind": st.sampled_from(["", "DockerImage", "ImageStreamTag"]),
    "name": st.sampled_from(["", IMAGE, "web"]),
    "namespace": st.sampled_from(["", "other"]),
    "reference": st.booleans(),
    "mode": st.sampled_from(ImportMode),
    "insecure": st.booleans(),
    "platform": st.sampled_from(["", "linux/arm64"]),
}


@pytest.mark.parametrize("field", _source_fields)
@given(data=st.data())
def test_an_attempt_is_of_its_source_and_of_no_other(field: str, data: st.DataObject):
    tried = data.draw(st.builds(Source, **_source_fields))
    present = replace(tried, **{field: data.draw(_source_fields[field])})
    observed = decode_observed(
        Observed.of(tried, generation=data.draw(_number), digest=data.draw(st.sampled_from([None, digest("a")])))
    )
    assert observed.is_of(present) == (tried == present)


def decode_observed(observed: Observed) -> Observed:
    read = stored(stream(), Status(tags=(StatusTag(tag="t", observed=observed),))).status_tag("t")
    assert read is not None
    assert read.observed is not None
    return read.observed


@pytest.mark.parametrize(
    ("text", "names"),
    [
        pytest.param(None, (), id="none"),
        pytest.param("", (), id="empty"),
        pytest.param("a", ("a",), id="one"),
        pytest.param(" b, a ,,b", ("b", "a"), id="in order, each once"),
        pytest.param(",".join(map(str, range(99))), tuple(map(str, range(16))), id="too many"),
    ],
)
def test_the_pull_secrets_that_a_stream_names(text: str | None, names: tuple[str, ...]):
    assert stream(pull_secrets=text).pull_secrets == names


def test_annotations_are_read_by_their_names():
    names = {
        "imagestreams.dev/suspend": "true",
        "imagestreams.dev/pull-secrets": "a,b",
        "openshift.io/image.insecureRepository": "true",
    }
    read = decode(json.dumps({"metadata": {"name": "x", "annotations": names}}).encode())
    assert (read.is_suspended, read.pull_secrets, read.is_repository_insecure) == (True, ("a", "b"), True)


# --- what consumers get -----------------------------------------------------------------------------------------------

INTERNAL = "registry.internal:5000/team/app"


def _recorded(*items: TagEvent, repository: str | None = None, tags: tuple[TagReference, ...] = ()) -> ImageStream:
    status = Status(docker_image_repository=repository, tags=(StatusTag(tag="latest", items=items),))
    return stream(*tags, status=status)


IMPORTED = TagEvent(created=NOW, docker_image_reference=pinned("a"), image=digest("a"))
AS_WRITTEN = TagEvent(created=NOW, docker_image_reference="quay.io/acme/app:stable", image="")


@pytest.mark.parametrize(
    ("found", "pull_spec", "served"),
    [
        pytest.param(_recorded(IMPORTED), pinned("a"), digest("a"), id="no spec tag"),
        pytest.param(_recorded(IMPORTED, repository=INTERNAL), pinned("a"), digest("a"), id="no spec tag, repository"),
        pytest.param(_recorded(IMPORTED, repository=INTERNAL, tags=(tag(),)), pinned("a"), digest("a"), id="Source"),
        pytest.param(
            _recorded(IMPORTED, repository=INTERNAL, tags=(tag(local=True),)),
            f"{INTERNAL}@{digest('a')}",
            digest("a"),
            id="Local",
        ),
        pytest.param(
            _recorded(IMPORTED, repository=f"{INTERNAL}:oops", tags=(tag(local=True),)),
            f"{INTERNAL}@{digest('a')}",
            digest("a"),
            id="Local, and the repository's tag is dropped",
        ),
        pytest.param(_recorded(IMPORTED, tags=(tag(local=True),)), pinned("a"), digest("a"), id="Local, no repository"),
        pytest.param(
            _recorded(AS_WRITTEN, tags=(tag(reference=True),)), "quay.io/acme/app:stable", "", id="reference tag"
        ),
        pytest.param(
            _recorded(AS_WRITTEN, repository=INTERNAL, tags=(tag(reference=True, local=True),)),
            "quay.io/acme/app:stable",
            "",
            id="reference tag, Local",
        ),
        pytest.param(
            _recorded(TagEvent(created=NOW, docker_image_reference="evil.example/x:1", image=digest("a"))),
            f"evil.example/x@{digest('a')}",
            digest("a"),
            id="a tag in the text is replaced by the item's digest",
        ),
        pytest.param(
            _recorded(TagEvent(created=NOW, docker_image_reference=pinned("b"), image=digest("a"))),
            pinned("a"),
            digest("a"),
            id="a forged digest in the text is replaced by the item's digest",
        ),
        pytest.param(
            _recorded(IMPORTED, TagEvent(docker_image_reference=pinned("b"), image=digest("b"))),
            pinned("a"),
            digest("a"),
            id="the newest counts",
        ),
    ],
)
def test_a_consumer_gets(found: ImageStream, pull_spec: str, served: str):
    image = latest_image(found, "latest", no_streams)
    assert image is not None
    assert (image.pull_spec, image.digest) == (pull_spec, served)


def test_a_failed_attempt_does_not_take_the_image_away():
    failed = TagCondition(type="ImportSuccess", status="False", reason="NotFound")
    status = Status(tags=(StatusTag(tag="latest", items=(IMPORTED,), conditions=(failed,)),))
    assert latest_image(stream(tag(), status=status), "latest", no_streams) == TagImage(
        pinned("a"), digest("a"), event_identity(Istag("team", "app", "latest"), IMPORTED)
    )


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(stream(tag()), id="never imported"),
        pytest.param(stream(tag(reference=True)), id="only in spec"),
        pytest.param(_recorded(), id="no items"),
        pytest.param(stream(tag(), status=Status(tags=(StatusTag(tag="latest"),))), id="null items"),
    ],
)
def test_nothing_recorded_is_nothing(found: ImageStream):
    assert latest_image(found, "latest", no_streams) is None


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(TagEvent(docker_image_reference="", image=digest("a")), id="empty reference"),
        pytest.param(TagEvent(docker_image_reference="NOT AN IMAGE", image=""), id="no reference"),
        pytest.param(TagEvent(docker_image_reference="quay.io", image=""), id="a registry"),
        pytest.param(TagEvent(docker_image_reference="quay.io", image=digest("a")), id="a registry and a digest"),
        pytest.param(TagEvent(docker_image_reference=pinned("a"), image="sha256:short"), id="no digest"),
        pytest.param(TagEvent(docker_image_reference="evil.test/x:1", image=""), id="a forged reference tag"),
    ],
)
def test_an_item_that_is_no_image_is_refused(event: TagEvent):
    with pytest.raises(InvalidReference):
        latest_image(_recorded(event), "latest", no_streams)


@pytest.mark.parametrize(
    ("tags", "is_reference"),
    [
        pytest.param((follower("latest", "x"), tag("x", reference=True)), True, id="follows a reference"),
        pytest.param(
            (follower("latest", "y"), follower("y", "app:x"), tag("x", reference=True)), True, id="by another tag"
        ),
        pytest.param((follower("latest", "x"), tag("x")), False, id="follows an image"),
        pytest.param((follower("latest", "y"), follower("y", "latest")), False, id="a circle"),
        pytest.param((follower("latest", "web:x"), tag("x", reference=True)), False, id="another stream's tag"),
        pytest.param((follower("latest", "base:x"),), True, id="a reference of another stream"),
        pytest.param((follower("latest", "base:y"),), True, id="which that stream follows in a third"),
        pytest.param((follower("latest", "base:z"),), False, id="another stream's tag that is none"),
        pytest.param((follower("latest", "base:back"),), False, id="a circle through another stream"),
        pytest.param((follower("latest", "base:deep0"),), False, id="farther than is looked"),
        pytest.param((follower("latest", "nowhere"),), False, id="follows nothing"),
    ],
)
def test_an_item_without_a_digest_counts_where_spec_says_so(tags: tuple[TagReference, ...], is_reference: bool):
    found = _recorded(AS_WRITTEN, tags=tags)
    deep = [follower(f"deep{number}", f"deep{number + 1}") for number in range(MAX_HOPS + 1)]
    base = stream(
        tag("x", reference=True),
        follower("y", "third:x", namespace="shared"),
        tag("z"),
        follower("back", "app:latest"),
        *deep,
        tag(f"deep{MAX_HOPS + 1}", reference=True),
        name="base",
    )
    third = stream(tag("x", reference=True), name="third", namespace="shared")
    others = {other.key: other for other in (base, third)}
    if is_reference:
        image = latest_image(found, "latest", others.get)
        assert image is not None
        assert image.pull_spec == "quay.io/acme/app:stable"
    else:
        with pytest.raises(InvalidReference):
            latest_image(found, "latest", others.get)


# --- tag events -------------------------------------------------------------------------------------------------------

ISTAG = Istag("team", "app", "latest")


def _event(letter: str, minute: int = 0) -> TagEvent:
    return TagEvent(
        created=NOW + timedelta(minutes=minute), docker_image_reference=pinned(letter), image=digest(letter)
    )


def test_an_identity_is_fit_for_a_label_and_tells_images_apart():
    events = [event_identity(ISTAG, event) for event in (_event("a"), _event("b"))]
    assert len(set(events)) == 2
    assert all(len(event) == 16 and event.isalnum() for event in events)


@pytest.mark.parametrize(
    ("istag", "event", "is_same"),
    [
        pytest.param(ISTAG, _event("a"), True, id="again"),
        pytest.param(
            ISTAG, TagEvent(created=NOW, docker_image_reference="mirror/app", image=digest("a")), True, id="a mirror"
        ),
        pytest.param(
            ISTAG,
            TagEvent(created=NOW, docker_image_reference=pinned("a"), image=digest("a"), generation=7),
            True,
            id="generation",
        ),
        pytest.param(Istag("other", "app", "latest"), _event("a"), False, id="namespace"),
        pytest.param(Istag("team", "web", "latest"), _event("a"), False, id="stream"),
        pytest.param(Istag("team", "app", "stable"), _event("a"), False, id="tag"),
        pytest.param(ISTAG, _event("a", 5), True, id="the same image later, as in a stream that was created again"),
    ],
)
def test_what_makes_an_event(istag: Istag, event: TagEvent, is_same: bool):
    assert (event_identity(istag, event) == event_identity(ISTAG, _event("a"))) == is_same


def test_references_without_a_digest_are_events_of_their_text():
    one, other = (TagEvent(created=NOW, docker_image_reference=text, image="") for text in ("app:1", "app:2"))
    assert event_identity(ISTAG, one) != event_identity(ISTAG, other)


def test_an_event_keeps_its_identity_through_the_api_server():
    status = stored(stream(), Status(tags=(StatusTag(tag="latest", items=(_event("a"),)),))).status_tag("latest")
    assert status is not None
    assert status.newest is not None
    assert event_identity(ISTAG, status.newest) == event_identity(ISTAG, _event("a"))


def test_keys_print_as_people_write_them():
    assert (str(ObjectKey("team", "app")), str(ISTAG), ISTAG.key) == (
        "team/app",
        "team/app:latest",
        ObjectKey("team", "app"),
    )
