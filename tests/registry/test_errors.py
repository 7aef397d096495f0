"""What a registry's answers become: which error, worth a retry or not, and in which words."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from yarl import URL

from imagestreams.core.importing import TRANSIENT_REASONS
from imagestreams.core.keychain import Credential
from imagestreams.registry.errors import (
    MAX_RETRY_AFTER,
    Denied,
    Exhausted,
    Forbidden,
    InvalidAnswer,
    NotFound,
    RateLimited,
    RegistryError,
    Sign,
    Timeout,
    ToldQuota,
    Unauthorized,
    Unavailable,
    UnknownName,
    Unreachable,
    Untrusted,
    error_of,
    known_code,
    quota_in,
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
        pytest.param(429, b"", RateLimited, id="429"),
        pytest.param(403, errors_body("TOOMANYREQUESTS"), RateLimited, id="throttled under another status"),
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
    reasons = {cls.reason: cls.retryable for cls in tree(RegistryError) if cls not in {RegistryError, Denied}}
    assert {reason for reason, retryable in reasons.items() if retryable} == {
        "RateLimited", "Unavailable", "Timeout", "DNS", "TLS", "Unreachable", "InvalidAnswer",
    }  # fmt: skip
    assert {reason for reason, retryable in reasons.items() if not retryable} == {
        "NotFound", "Unauthorized", "Forbidden", "NotAnImage", "Refused", "TooLarge",
    }  # fmt: skip
    # What a restarted controller finds in a condition is judged by the same words.
    assert {reason for reason, retryable in reasons.items() if retryable} | {"InternalError"} == TRANSIENT_REASONS
    assert issubclass(Unauthorized, Denied)
    assert all(issubclass(cls, Unreachable) for cls in (Timeout, UnknownName, Untrusted))
    assert not issubclass(Exhausted, RateLimited)  # nothing was asked


def tree(cls):
    yield cls
    for child in cls.__subclasses__():
        yield from tree(child)


@pytest.mark.parametrize("status", [404, 429, 500])
def test_a_head_and_a_get_give_the_same_words(status):
    head = error_of(response(status), IMAGE, "quay.io", now=NOW)
    get = error_of(response(status, errors_body("UNKNOWN")), IMAGE, "quay.io", now=NOW)
    assert str(head) == str(get)


@pytest.mark.parametrize(
    ("who", "is_pull", "headers", "body", "is_pull_limit"),
    [
        pytest.param("docker.io", True, {"RateLimit_Remaining": "0;w=21600"}, b"", True, id="none left"),
        pytest.param("docker.io", True, {}, errors_body("TOOMANYREQUESTS"), True, id="in Docker Hub's words"),
        pytest.param("docker.io", True, {}, b"Too Many Requests", False, id="Docker Hub's limit on everything"),
        pytest.param("docker.io", True, {"RateLimit_Remaining": "7;w=21600"}, b"", False, id="some left"),
        pytest.param("docker.io", False, {"RateLimit_Remaining": "0;w=21600"}, b"", False, id="even a HEAD"),
        pytest.param("quay.io", True, {}, errors_body("TOOMANYREQUESTS"), False, id="another registry"),
        pytest.param("quay.io", True, {"RateLimit_Remaining": "0"}, b"", False, id="none left of all requests"),
    ],
)
def test_a_limit_on_pulls_is_told_from_one_on_everything(who, is_pull, headers, body, is_pull_limit):
    error = error_of(response(429, body, **headers), IMAGE, who, now=NOW, is_pull=is_pull)
    assert isinstance(error, RateLimited)
    assert error.is_pull_limit is is_pull_limit


def test_a_repository_is_not_called_an_image():
    error = error_of(response(404), "quay.io/acme/web", "quay.io", now=NOW, what="image repository")
    assert str(error) == 'image repository "quay.io/acme/web" not found'


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


@settings(deadline=None)
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


SECONDS = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        pytest.param(
            {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"},
            ToldQuota(76, True, 100, 21600 * SECONDS),
            id="Docker Hub",
        ),
        pytest.param(
            {"ratelimit-limit": "100 ; w = 21600", "ratelimit-remaining": " 0;w=21600 "},
            ToldQuota(0, True, 100, 21600 * SECONDS),
            id="in other letters",
        ),
        pytest.param({"RateLimit-Remaining": "76;w=21600"}, ToldQuota(76, True), id="without the limit"),
        pytest.param(
            {"RateLimit-Limit": "0;w=0", "RateLimit-Remaining": "5;w=0"}, ToldQuota(5, True), id="a limit of nothing"
        ),
        pytest.param(
            {"RateLimit-Limit": "999999999999;w=999999999999", "RateLimit-Remaining": "999999999999;w=1"},
            ToldQuota(1_000_000, True, 1_000_000, timedelta(days=1)),
            id="absurd numbers",
        ),
        pytest.param(
            {"RateLimit-Limit": "10, 10;w=1, 50;w=60", "RateLimit-Remaining": "9", "RateLimit-Reset": "50"},
            ToldQuota(9, reset=50 * SECONDS),
            id="the first drafts",
        ),
        pytest.param(
            {"RateLimit-Remaining": "0", "RateLimit-Reset": str(int(NOW.timestamp()) + 40)},
            ToldQuota(0, reset=40 * SECONDS),
            id="a point in time",
        ),
        pytest.param(
            {"RateLimit-Remaining": "0", "RateLimit-Reset": str(int(NOW.timestamp()) - 40)},
            ToldQuota(0, reset=0 * SECONDS),
            id="one that has passed",
        ),
        pytest.param(
            {"RateLimit-Remaining": "0", "RateLimit-Reset": "86400"},
            ToldQuota(0, reset=MAX_RETRY_AFTER * SECONDS),
            id="no longer than a Retry-After",
        ),
        pytest.param({"RateLimit-Remaining": "0"}, ToldQuota(0), id="no word on when"),
        pytest.param(
            {"RateLimit": "limit=100, remaining=50, reset=30"}, ToldQuota(50, reset=30 * SECONDS), id="draft 7"
        ),
        pytest.param({"RateLimit": '"default";r=50;t=30'}, ToldQuota(50, reset=30 * SECONDS), id="the later drafts"),
        pytest.param(
            {"RateLimit": '"a";r=9;t=60, "b;r=1";pk=:aGVsbG8=:;r=0;t=1;x="r=5", "c";r=0;t=5'},
            ToldQuota(0, reset=5 * SECONDS),
            id="several: the strictest",
        ),
        pytest.param({"RateLimit": '"default";t=30'}, None, id="nothing of what is left"),
        pytest.param({"RateLimit-Limit": "100"}, None, id="only a limit"),
        pytest.param({"RateLimit-Remaining": "-1", "RateLimit-Reset": "5"}, None, id="negative"),
        pytest.param({"RateLimit-Remaining": "٣"}, None, id="digits of another script"),
        pytest.param({"RateLimit-Remaining": "many"}, None, id="words"),
        pytest.param({"X-RateLimit-Remaining": "0"}, None, id="private spellings mean many things"),
        pytest.param({}, None, id="nothing"),
    ],
)
def test_what_is_left_is_read_in_the_spellings_in_use(headers, told):
    assert quota_in(CIMultiDict(headers), NOW) == told


words = st.one_of(st.text(), st.from_regex(r'[0-9"a-z;=, *]{0,40}', fullmatch=True))


@settings(deadline=None)
@given(words, words, words, words)
def test_what_is_left_may_be_said_in_any_words(limit, remaining, reset, field):
    headers = {"RateLimit-Limit": limit, "RateLimit-Remaining": remaining, "RateLimit-Reset": reset, "RateLimit": field}
    told = quota_in(CIMultiDict(headers), NOW)
    assert told is None or 0 <= told.left <= 1_000_000
    assert told is None or told.reset is None or 0 * SECONDS <= told.reset <= MAX_RETRY_AFTER * SECONDS


@pytest.mark.parametrize("field", ['"' * 100_000, '"a"' + ";a" * 50_000, '"a";r' + "=" * 50_000, "limit=1," * 20_000])
def test_long_words_cost_little(field):
    quota_in(CIMultiDict({"RateLimit": field}), NOW)


@pytest.mark.parametrize("code", ["", "UNAVAILABLE"])
def test_a_failure_is_one_message_whatever_a_balancer_makes_of_it(code):
    """Which number it is changes from one attempt to the next, and with it would the status."""
    body = errors_body(code) if code else b""
    statuses = (408, 500, 502, 503, 504, 521)
    messages = {error_of(response(status, body), "quay.io/x:y", "quay.io", now=NOW).message for status in statuses}
    assert messages == {"quay.io failed with an error of its own"}


def test_what_an_error_tells_of_the_host():
    assert NotFound("x").sign is Sign.ANSWER
    assert (Unreachable("x").sign, Timeout("x").sign, UnknownName("x").sign) == (Sign.SILENCE,) * 3
    assert Untrusted("x").sign is Sign.ANSWER
    assert RateLimited("x", retry_after=1.0).sign is Sign.ANSWER
    assert Exhausted("x", NOW).sign is Sign.NONE
    assert Timeout("x", sign=Sign.NONE).sign is Sign.NONE
