"""What an API server posts, and what it is answered."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.core.admission import (
    MAX_MESSAGE,
    MAX_WARNING,
    Allowed,
    Denied,
    MalformedReview,
    Requester,
    Tokens,
    decode_review,
    encode_verdict,
)

# As kube-apiserver 1.36 sends it, with the fields that we do not use.
SENT: dict[str, Any] = {
    "kind": "AdmissionReview",
    "apiVersion": "admission.k8s.io/v1",
    "request": {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "image.openshift.io", "version": "v1", "kind": "ImageStreamImport"},
        "resource": {"group": "image.openshift.io", "version": "v1", "resource": "imagestreamimports"},
        "requestKind": {"group": "image.openshift.io", "version": "v2", "kind": "ImageStreamImport"},
        "requestResource": {"group": "image.openshift.io", "version": "v2", "resource": "imagestreamimports"},
        "name": "web",
        "namespace": "shop",
        "operation": "CREATE",
        "userInfo": {"username": "jane", "uid": "1", "groups": ["dev"], "extra": {"scopes": ["a", "b"]}},
        "object": {"kind": "ImageStreamImport", "metadata": {"name": "web"}},
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
    },
}


def sent(**changes: Any) -> bytes:
    """SENT with other fields in its request; None removes one."""
    request = {**SENT["request"], **changes}
    return json.dumps({**SENT, "request": {k: v for k, v in request.items() if v is not None}}).encode()


def test_a_review_is_read_as_it_was_sent():
    review = decode_review(json.dumps(SENT).encode())
    assert (review.uid, review.operation, review.is_dry_run) == (SENT["request"]["uid"], "CREATE", False)
    assert (review.group, review.version, review.resource) == ("image.openshift.io", "v1", "imagestreamimports")
    assert (review.kind, review.subresource) == ("ImageStreamImport", "")
    assert (review.namespace, review.name) == ("shop", "web")
    assert review.requester == Requester("jane", "1", ("dev",), {"scopes": ("a", "b")})
    assert json.loads(review.object) == SENT["request"]["object"]
    assert review.old == b""


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"name": None}, "name", ""),
        ({"namespace": None}, "namespace", ""),
        ({"dryRun": True}, "is_dry_run", True),
        ({"dryRun": None}, "is_dry_run", False),
        ({"subResource": "status"}, "subresource", "status"),
        ({"object": None}, "object", b""),
        ({"oldObject": {"a": 1}}, "old", b'{"a": 1}'),
        ({"userInfo": {"username": "system:anonymous"}}, "requester", Requester("system:anonymous")),
        ({"userInfo": {"username": "x", "groups": None}}, "requester", Requester("x")),
        (
            {"userInfo": {"username": "x", "groups": None, "extra": {"k": None}}},
            "requester",
            Requester("x", extra={"k": ()}),
        ),
        ({"userInfo": {}}, "requester", Requester("")),
    ],
)
def test_what_may_be_absent_or_null(changes, field, value):
    assert getattr(decode_review(sent(**changes)), field) == value


def test_an_object_is_kept_byte_by_byte():
    body = json.dumps(SENT).encode().replace(b'{"kind": "ImageStreamImport", "metadata"', b'{"n":1.50, "metadata"')
    assert decode_review(body).object == b'{"n":1.50, "metadata": {"name": "web"}}'


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"kind":"AdmissionReview"', id="cut off"),
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param(json.dumps({**SENT, "apiVersion": "admission.k8s.io/v1beta1"}).encode(), id="an old version"),
        pytest.param(json.dumps({**SENT, "kind": "ConversionReview"}).encode(), id="another kind"),
        pytest.param(json.dumps({**SENT, "request": None}).encode(), id="no request"),
        pytest.param(sent(uid=None), id="no uid"),
        pytest.param(sent(uid=""), id="empty uid"),
        pytest.param(sent(uid="u" * 300), id="endless uid"),
        pytest.param(sent(operation=None), id="no operation"),
        pytest.param(sent(userInfo=None), id="nobody asks"),
        pytest.param(sent(userInfo={"username": 1}), id="a user that is a number"),
        pytest.param(sent(resource="pods"), id="a resource that is text"),
        pytest.param(b'{"a":' * 100_000, id="nested without end"),
    ],
)
def test_anything_else_is_malformed(body):
    with pytest.raises(MalformedReview):
        decode_review(body)


def response(verdict: Allowed | Denied) -> dict[str, Any]:
    answer = json.loads(encode_verdict("the-uid", verdict))
    assert (answer.pop("apiVersion"), answer.pop("kind")) == ("admission.k8s.io/v1", "AdmissionReview")
    found = answer.pop("response")
    assert answer == {}
    assert found.pop("uid") == "the-uid"
    return found


def test_a_bare_yes_has_neither_patch_nor_warnings():
    assert response(Allowed()) == {"allowed": True}


def test_a_patch_is_base64_of_its_operations():
    patch = ({"op": "remove", "path": "/metadata/name"}, {"op": "add", "path": "/status", "value": {"ä": [1, None]}})
    found = response(Allowed(patch))
    assert found.pop("patchType") == "JSONPatch"
    assert json.loads(base64.b64decode(found.pop("patch"), validate=True)) == list(patch)
    assert found == {"allowed": True}


def test_warnings_are_few_short_and_printable():
    found = response(Allowed(warnings=("line\nbreak\x1b[31m", "w" * 1000, "the third")))
    assert found["warnings"] == ["line break [31m", "w" * (MAX_WARNING - 1) + "…"]


def test_a_refusal_is_a_status():
    assert response(Denied(409, "Conflict", "the image stream was updated")) == {
        "allowed": False,
        "status": {
            "status": "Failure",
            "code": 409,
            "reason": "Conflict",
            "message": "the image stream was updated",
        },
    }


def test_a_refusal_that_says_when_to_come_back():
    assert response(Denied(429, "TooManyRequests", "busy", 5))["status"]["details"] == {"retryAfterSeconds": 5}


def test_a_message_is_bounded():
    message = response(Denied(422, "Invalid", "\r\nx" * MAX_MESSAGE))["status"]["message"]
    assert len(message) == MAX_MESSAGE
    assert message.startswith("  x")


texts = st.text(max_size=40)


@given(texts, st.lists(texts, max_size=4), st.dictionaries(texts, st.lists(texts, max_size=3), max_size=3))
def test_any_requester_comes_through(username, groups, extra):
    user = {"username": username, "uid": "u", "groups": groups, "extra": extra}
    requester = decode_review(sent(userInfo=user)).requester
    assert msgspec.json.decode(msgspec.json.encode(requester), type=Requester) == requester
    assert (requester.username, requester.groups) == (username, tuple(groups))
    assert requester.extra == {key: tuple(values) for key, values in extra.items()}


@given(st.text(), st.lists(st.text(), max_size=3), st.sampled_from(["allowed", "denied"]))
def test_any_text_can_be_answered(message, warnings, kind):
    verdict = Allowed(warnings=tuple(warnings)) if kind == "allowed" else Denied(403, "Forbidden", message)
    found = response(verdict)
    for text in (*found.get("warnings", ()), found.get("status", {}).get("message", "")):
        assert text.isprintable()
        assert len(text) <= MAX_MESSAGE


@pytest.mark.parametrize(
    ("tokens", "token", "accepted"),
    [
        (Tokens("a" * 64), "a" * 64, True),
        (Tokens("a" * 64, "b" * 64), "b" * 64, True),
        (Tokens("a" * 64), "b" * 64, False),
        (Tokens("a" * 64), "a" * 63, False),
        (Tokens("a" * 64), "", False),
        (Tokens(), "", False),
        (Tokens("", "b"), "", False),
        (Tokens("a" * 64), "ä", False),
    ],
)
def test_a_caller_is_known_by_a_token(tokens, token, accepted):
    assert tokens.accepts(token) is accepted


def test_a_token_is_not_shown():
    assert "secret" not in repr(Tokens("secret", "secret"))
