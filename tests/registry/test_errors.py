"""What a registry's answers become: which error, worth a retry or not, and in which words."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from yarl import URL

from imagestreams.core.keychain import Credential
from imagestreams.registry.errors import (
    MAX_RETRY_AFTER,
    Denied,
    Forbidden,
    InvalidAnswer,
    NotFound,
    RegistryError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    error_of,
    known_code,
    retry_after,
    scrubbed,
)
from imagestreams.registry.messages import Response
from tests.fakes.registry import errors_body

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
IMAGE = "quay.io/acme/web:latest"


def response(status, body=b"", **headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, CIMultiDict(names), body, URL("https://quay.io/v2/acme/web/manifests/latest"))


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        pytest.param(404, errors_body("MANIFEST_UNKNOWN"), NotFound, id="no such tag"),
        pytest.param(404, errors_body("NAME_UNKNOWN"), NotFound, id="no such repository"),
        pytest.param(404, b"<html>", NotFound, id="404 in other words"),
        pytest.param(401, errors_body("UNAUTHORIZED"), Unauthorized, id="401"),
        pytest.param(403, errors_body("DENIED"), Forbidden, id="403"),
        pytest.param(429, b"", TooManyRequests, id="429"),
        pytest.param(403, errors_body("TOOMANYREQUESTS"), TooManyRequests, id="throttled under another status"),
        pytest.param(500, b"", Unavailable, id="500"),
        pytest.param(503, errors_body("UNAVAILABLE"), Unavailable, id="503"),
        pytest.param(408, b"", Unavailable, id="408"),
        pytest.param(400, errors_body("NAME_INVALID"), InvalidAnswer, id="400"),
        pytest.param(302, b"", InvalidAnswer, id="redirect"),
        pytest.param(204, b"", InvalidAnswer, id="nothing"),
    ],
)
def test_a_status_is_an_error_of_the_tree(status, body, expected):
    error = error_of(response(status, body), IMAGE, "quay.io", now=NOW)
    assert type(error) is expected
    assert "quay.io" in str(error)


def test_what_is_worth_retrying_says_the_class():
    retryable = {cls.reason for cls in tree(RegistryError) if cls.retryable}
    assert retryable == {"TooManyRequests", "Unavailable", "Unreachable", "InvalidAnswer"}
    assert {Unauthorized.reason, Forbidden.reason, NotFound.reason} == {"Unauthorized", "Forbidden", "NotFound"}
    assert issubclass(Unauthorized, Denied)


def tree(cls):
    yield cls
    for child in cls.__subclasses__():
        yield from tree(child)


@pytest.mark.parametrize("status", [404, 429, 500])
def test_a_head_and_a_get_give_the_same_words(status):
    head = error_of(response(status), IMAGE, "quay.io", now=NOW)
    get = error_of(response(status, errors_body("UNKNOWN")), IMAGE, "quay.io", now=NOW)
    assert str(head) == str(get)


def test_a_message_does_not_depend_on_the_time():
    early = error_of(response(429, Retry_After="3"), IMAGE, "quay.io", now=NOW)
    late = error_of(response(429, Retry_After="300"), IMAGE, "quay.io", now=NOW)
    assert (str(early), early.retry_after, late.retry_after) == (str(late), 3.0, 300.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param("30", 30.0, id="seconds"),
        pytest.param(" 30 ", 30.0, id="spaces"),
        pytest.param("1.2", 2.0, id="a fraction is rounded up"),
        pytest.param("0", 0.0, id="at once"),
        pytest.param("86400", MAX_RETRY_AFTER, id="a day is cut to the ceiling"),
        pytest.param("9" * 18, MAX_RETRY_AFTER, id="ages"),
        pytest.param("Sun, 01 Mar 2026 12:00:20 GMT", 20.0, id="a date"),
        pytest.param("Sun, 01 Mar 2026 12:00:20 -0000", 20.0, id="a date without a zone"),
        pytest.param("Sun, 01 Mar 2026 11:00:00 GMT", 0.0, id="a date that has passed"),
        pytest.param("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER, id="the last date"),
        pytest.param("", None, id="absent"),
        pytest.param("soon", None, id="words"),
        pytest.param("-1", None, id="negative"),
        pytest.param("nan", None, id="no number"),
        pytest.param("1e9", None, id="exponent"),
        pytest.param("٣٠", None, id="digits of another script"),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert retry_after(value, NOW) == seconds


@given(st.text())
def test_retry_after_takes_anything(text):
    seconds = retry_after(text, NOW)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (errors_body("MANIFEST_UNKNOWN"), "MANIFEST_UNKNOWN"),
        (errors_body("WHATEVER", "DENIED"), "DENIED"),
        (errors_body("<script>"), ""),
        (b'{"errors": "no"}', ""),
        (b'{"errors": [{"code": 7}]}', ""),
        (b'{"errors": null}', ""),
        (b"[" * 100_000, ""),
        (b"\xff\xfe", ""),
        (b"", ""),
    ],
)
def test_only_codes_of_the_standard_are_told(body, code):
    assert known_code(body) == code


def test_text_from_a_registry_is_scrubbed():
    credential = Credential("robot", "p/ss w\x00rd", "pull")
    told = "p/ss w\x00rd and p%2Fss%20w%00rd and cm9ib3Q6cC9zcyB3AHJk \x1b[31m" + "x" * 1000
    text = scrubbed(told, [credential])
    assert text.startswith("*** and *** and *** ?[31m")
    assert len(text) <= 310
