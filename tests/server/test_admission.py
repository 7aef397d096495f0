"""The webhook server: who may call it, what it answers when it cannot decide, and what it never says."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import structlog
import trustme

from imagestreams.core.admission import Allowed, Denied, Review, Tokens, Verdict
from imagestreams.core.certificate import InvalidCertificate, KeyPair, new_authority, new_serving
from imagestreams.server import admission as module
from imagestreams.server.admission import Admission, ServingCertificate, deny_image_stream_tags, serve_admission
from tests.fakes.waiting import until
from tests.server.conftest import NAMES, PREVIOUS, TOKEN, WRONG, Webhooks, review_of

if TYPE_CHECKING:
    from pathlib import Path


def nobody_answers(review: Review) -> Any:
    return asyncio.Event().wait()


async def raises(review: Review) -> Verdict:
    raise RuntimeError("a bug")


# --- what a door says


async def test_a_review_reaches_its_door_and_the_verdict_the_caller(webhooks: Webhooks) -> None:
    webhooks.door("pinning", Allowed(({"op": "remove", "path": "/metadata/name"},), ("a word",)))
    webhooks.door("pins", Denied(422, "Invalid", "no"))
    await webhooks.start()
    answer = await webhooks.ask(f"/admit/pinning/{TOKEN}")
    assert json.loads(base64.b64decode(answer.pop("patch"))) == [{"op": "remove", "path": "/metadata/name"}]
    assert answer == {"allowed": True, "patchType": "JSONPatch", "warnings": ["a word"]}
    refusal = await webhooks.ask(f"/admit/pins/{TOKEN}?timeout=2s", review_of(operation="UPDATE", dryRun=True))
    assert (refusal["allowed"], refusal["status"]["code"]) == (False, 422)
    first, second = webhooks.reviews
    assert (first.name, first.namespace, first.requester.username, first.is_dry_run) == ("web", "shop", "jane", False)
    assert (second.operation, second.is_dry_run) == ("UPDATE", True)
    assert webhooks.calls == [("pinning", "CREATE", "patched"), ("pins", "UPDATE", "denied")]
    assert webhooks.exposed == 0


async def test_the_door_of_image_stream_tags() -> None:
    def review(operation: str) -> Review:
        from imagestreams.core.admission import decode_review

        return decode_review(json.dumps(review_of(operation=operation)).encode())

    verdict = await deny_image_stream_tags(review("CREATE"))
    assert isinstance(verdict, Denied)
    assert (verdict.code, verdict.reason) == (403, "Forbidden")
    assert "imagestreams tag" in verdict.message
    assert await deny_image_stream_tags(review("DELETE")) == Allowed()


# --- proof


@pytest.mark.parametrize(
    ("method", "path", "tokens", "status"),
    [
        pytest.param("POST", f"/admit/pinning/{TOKEN}", Tokens(TOKEN, PREVIOUS), 200, id="the token"),
        pytest.param("POST", f"/admit/pinning/{PREVIOUS}", Tokens(TOKEN, PREVIOUS), 200, id="the one before"),
        pytest.param("POST", f"/admit/pinning/{TOKEN}?timeout=1s", Tokens(TOKEN), 200, id="with a deadline"),
        pytest.param("POST", f"/admit/pinning/{PREVIOUS}", Tokens(TOKEN), 404, id="the one before is over"),
        pytest.param("POST", f"/admit/pinning/{WRONG}", Tokens(TOKEN, PREVIOUS), 404, id="another"),
        pytest.param("POST", f"/admit/pinning/{TOKEN[:-1]}", Tokens(TOKEN, PREVIOUS), 404, id="a part of it"),
        pytest.param("POST", f"/admit/pinning/{TOKEN}/", Tokens(TOKEN, PREVIOUS), 404, id="and a slash"),
        pytest.param("POST", f"/admit/pinning/{TOKEN}/x", Tokens(TOKEN, PREVIOUS), 404, id="and more"),
        pytest.param("POST", "/admit/pinning", Tokens(TOKEN, PREVIOUS), 404, id="none"),
        pytest.param("POST", "/admit/pinning/", Tokens(TOKEN, PREVIOUS), 404, id="an empty one"),
        pytest.param("POST", "/admit/pinning/", Tokens(), 404, id="an empty one where there are none"),
        pytest.param("POST", "/admit/pinning/%FF%FE", Tokens(TOKEN), 404, id="no text"),
        pytest.param("POST", f"/admit/other/{TOKEN}", Tokens(TOKEN), 404, id="no door"),
        pytest.param("POST", f"/pinning/{TOKEN}", Tokens(TOKEN), 404, id="no prefix"),
        pytest.param("POST", "/", Tokens(TOKEN), 404, id="the root"),
        pytest.param("GET", f"/admit/pinning/{TOKEN}", Tokens(TOKEN), 404, id="not a POST"),
        pytest.param("PUT", f"/admit/pinning/{TOKEN}", Tokens(TOKEN), 404, id="not a POST either"),
    ],
)
async def test_a_caller_is_proven_by_the_token(webhooks: Webhooks, method, path, tokens, status) -> None:
    webhooks.door("pinning")
    webhooks.tokens = tokens
    await webhooks.start()
    found, body = await webhooks.post(path, method=method)
    assert found == status
    assert len(webhooks.reviews) == (1 if status == 200 else 0)
    if status != 200:
        assert body == b"not found\n"
        assert webhooks.calls[0][1:] == ("", "refused")
        assert webhooks.calls[0][0] in {"pinning", ""}


async def test_nothing_of_an_unproven_body_is_waited_for(webhooks: Webhooks) -> None:
    webhooks.door("pinning")
    await webhooks.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", webhooks.port, ssl=webhooks.trusting())
    writer.write(f"POST /admit/pinning/{WRONG} HTTP/1.1\r\nHost: x\r\nContent-Length: 7000000\r\n\r\n".encode())
    assert (await reader.readline()).split()[1] == b"404"
    writer.close()


async def test_a_token_that_is_new_to_this_replica_is_looked_for(webhooks: Webhooks) -> None:
    webhooks.door("pinning")
    webhooks.late_tokens = Tokens(WRONG, TOKEN)
    await webhooks.start()
    await webhooks.ask(f"/admit/pinning/{WRONG}")
    await webhooks.ask(f"/admit/pinning/{TOKEN}")
    assert webhooks.refreshed == 1
    for nonsense in ("x", "A" * 64, "a" * 65):
        assert (await webhooks.post(f"/admit/pinning/{nonsense}"))[0] == 404
    assert webhooks.refreshed == 1, "what is no token is not worth a request"


@pytest.fixture(scope="session")
def clients() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize(
    ("name", "expected", "of_theirs", "status"),
    [
        pytest.param("kube-apiserver", "kube-apiserver", True, 200, id="known"),
        pytest.param("someone", "kube-apiserver", True, 404, id="another name"),
        pytest.param("kube-apiserver", "", True, 404, id="no name is proof"),
        pytest.param("", "kube-apiserver", True, 404, id="none shown"),
        pytest.param("kube-apiserver", "kube-apiserver", False, 0, id="of another authority"),
    ],
)
async def test_a_client_certificate_is_proof(webhooks, clients, tmp_path, name, expected, of_theirs, status) -> None:  # noqa: PLR0917
    ca = tmp_path / "clients.pem"
    clients.cert_pem.write_to_path(ca)
    webhooks.client_ca, webhooks.client_name = str(ca), expected
    webhooks.door("pinning")
    await webhooks.start()
    tls = webhooks.trusting()
    if name:
        (clients if of_theirs else trustme.CA()).issue_cert("client", common_name=name).configure_cert(tls)
    if status:
        assert (await webhooks.post("/admit/pinning", tls=tls))[0] == status
        assert (await webhooks.post(f"/admit/pinning/{TOKEN}", tls=tls))[0] == 200, "the token still is proof"
    else:
        with pytest.raises(aiohttp.ClientError):
            await webhooks.post("/admit/pinning", tls=tls)


async def test_a_client_certificate_is_not_asked_for_unless_it_is_wanted(webhooks, clients) -> None:
    webhooks.client_name = "kube-apiserver"
    webhooks.door("pinning")
    await webhooks.start()
    tls = webhooks.trusting()
    clients.issue_cert("client", common_name="kube-apiserver").configure_cert(tls)
    assert (await webhooks.post("/admit/pinning", tls=tls))[0] == 404


def test_a_client_authority_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        ServingCertificate(str(tmp_path / "absent.pem"))
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(OSError):
        ServingCertificate(str(tmp_path / "empty.pem"))


# --- when it cannot decide


@pytest.mark.parametrize(
    ("handler", "fails_open", "status", "answer", "said"),
    [
        pytest.param(nobody_answers, False, 200, 504, "failed", id="late, refused"),
        pytest.param(nobody_answers, True, 200, "in time", "failed", id="late, let pass"),
        pytest.param(raises, False, 500, "", "failed", id="a bug, left to the failure policy"),
        pytest.param(raises, True, 200, "failed to look", "failed", id="a bug, let pass"),
    ],
)
async def test_a_door_that_cannot_decide(webhooks: Webhooks, handler, fails_open, status, answer, said) -> None:  # noqa: PLR0917
    webhooks.door("one", handler, seconds=0.1, fails_open=fails_open)
    await webhooks.start()
    found, body = await webhooks.post(f"/admit/one/{TOKEN}")
    assert found == status
    if isinstance(answer, int):
        assert json.loads(body)["response"]["status"]["code"] == answer
    elif answer:
        response = json.loads(body)["response"]
        assert response["allowed"] is True
        assert answer in response["warnings"][0]
        assert "patch" not in response
    assert webhooks.calls == [("one", "CREATE", said)]
    assert webhooks.exposed == (1 if handler is nobody_answers or status == 500 else 0)


async def test_a_handlers_own_timeout_is_a_bug_and_no_deadline(webhooks: Webhooks) -> None:
    async def times_out(review: Review) -> Verdict:
        raise TimeoutError

    webhooks.door("one", times_out)
    await webhooks.start()
    assert (await webhooks.post(f"/admit/one/{TOKEN}"))[0] == 500


async def test_a_verdict_that_cannot_be_encoded_is_a_bug_as_any(webhooks: Webhooks) -> None:
    webhooks.door("one", Allowed(({"value": object()},)), fails_open=True)
    await webhooks.start()
    assert "patch" not in await webhooks.ask(f"/admit/one/{TOKEN}")


@pytest.mark.parametrize(
    ("waits", "seconds", "is_in_time"),
    [
        ("?timeout=200ms", 30, True),
        ("?timeout=30s", 0.1, True),
        ("", 0.1, True),
        ("?timeout=soon", 0.1, True),
        ("?timeout=0s", 30, True),
        ("?timeout=-5s", 0.1, True),
    ],
)
async def test_a_deadline_is_the_doors_or_a_little_before_the_callers(webhooks, waits, seconds, is_in_time) -> None:
    webhooks.door("one", nobody_answers, seconds=seconds, fails_open=True)
    await webhooks.start()
    began = asyncio.get_running_loop().time()
    await webhooks.ask(f"/admit/one/{TOKEN}{waits}")
    took = asyncio.get_running_loop().time() - began
    assert took < 5
    if waits == "?timeout=200ms":
        assert took >= 0.15


async def test_a_loop_that_is_held_up_beyond_the_deadline_answers_all_the_same(webhooks: Webhooks) -> None:
    async def held_up(review: Review) -> Verdict:
        asyncio.get_running_loop().call_later(0.05, time.sleep, 0.3)
        return await nobody_answers(review)

    webhooks.door("one", held_up, seconds=0.2, fails_open=True)
    await webhooks.start()
    assert (await webhooks.ask(f"/admit/one/{TOKEN}"))["allowed"] is True


async def test_a_body_that_does_not_come(webhooks: Webhooks) -> None:
    webhooks.door("one", seconds=0.1, fails_open=True)
    await webhooks.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", webhooks.port, ssl=webhooks.trusting())
    writer.write(f"POST /admit/one/{TOKEN} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode())
    assert (await reader.readline()).split()[1] == b"500"
    writer.close()
    assert webhooks.exposed == 1


async def test_too_many_calls_at_a_door(webhooks: Webhooks) -> None:
    end = asyncio.Event()

    async def waits(review: Review) -> Verdict:
        await end.wait()
        return Allowed()

    webhooks.door("imports", waits, in_flight=2)
    webhooks.door("pinning", waits, in_flight=1, fails_open=True)
    await webhooks.start()
    under_way = [asyncio.ensure_future(webhooks.ask(f"/admit/imports/{TOKEN}")) for _ in range(2)]
    under_way.append(asyncio.ensure_future(webhooks.ask(f"/admit/pinning/{TOKEN}")))
    await until(lambda: len(webhooks.reviews) == 3)
    refusal = await webhooks.ask(f"/admit/imports/{TOKEN}")
    assert refusal["status"]["code"] == 429
    assert refusal["status"]["details"] == {"retryAfterSeconds": 5}
    passed = await webhooks.ask(f"/admit/pinning/{TOKEN}")
    assert passed["allowed"] is True
    assert "too much" in passed["warnings"][0]
    assert [call[2] for call in webhooks.calls] == ["refused", "refused"]
    end.set()
    assert [each["allowed"] for each in await asyncio.gather(*under_way)] == [True] * 3
    assert (await webhooks.ask(f"/admit/imports/{TOKEN}"))["allowed"] is True, "there is room again"


async def test_a_caller_that_leaves_ends_the_work_and_has_shown_the_path(webhooks: Webhooks) -> None:
    ended = asyncio.Event()

    async def waits(review: Review) -> Verdict:
        try:
            return await nobody_answers(review)
        finally:
            ended.set()

    webhooks.door("imports", waits)
    await webhooks.start()
    with pytest.raises(TimeoutError):
        await webhooks.post(f"/admit/imports/{TOKEN}", timeout=aiohttp.ClientTimeout(total=0.2))
    await asyncio.wait_for(ended.wait(), 5)
    await until(lambda: webhooks.exposed == 1)
    assert webhooks.calls == [("imports", "CREATE", "failed")]


# --- what is sent


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(b"", {}, id="nothing"),
        pytest.param(b"{}", {}, id="no review"),
        pytest.param(b"x" * (module.MAX_BODY + 1), {}, id="too large"),
        pytest.param(b"\x1f\x8b", {"Content-Encoding": "gzip"}, id="compressed"),
    ],
)
async def test_what_is_no_review(webhooks: Webhooks, body, headers) -> None:
    webhooks.door("one", fails_open=True)
    await webhooks.start()
    status, answer = await webhooks.post(f"/admit/one/{TOKEN}", body, headers=headers)
    assert (status, answer) == (400, b"not an AdmissionReview\n")
    assert webhooks.reviews == []


async def test_a_body_without_a_length_is_bounded_too(webhooks: Webhooks) -> None:
    webhooks.door("one")
    await webhooks.start()

    async def endless():
        for _ in range(module.MAX_BODY // (1 << 20) + 1):
            yield b"x" * (1 << 20)

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=webhooks.trusting())) as session,
        session.post(f"https://127.0.0.1:{webhooks.port}/admit/one/{TOKEN}", data=endless()) as response,
    ):
        assert response.status == 400


async def test_a_review_of_two_large_objects(webhooks: Webhooks) -> None:
    webhooks.door("one")
    await webhooks.start()
    large = {"data": "x" * (3 << 20)}
    answer = await webhooks.ask(f"/admit/one/{TOKEN}", review_of(object=large, oldObject=large, operation="UPDATE"))
    assert answer["allowed"] is True
    assert len(webhooks.reviews[0].old) > 3 << 20


LARGE = review_of(object={"data": "x" * (3 << 20)})


async def test_the_reviews_at_a_door_have_room_together(webhooks: Webhooks) -> None:
    end = asyncio.Event()

    async def waits(review: Review) -> Verdict:
        await end.wait()
        return Allowed()

    webhooks.door("one", waits, room=4 << 20)
    webhooks.door("open", waits, room=4 << 20, fails_open=True)
    await webhooks.start()
    under_way = [asyncio.ensure_future(webhooks.ask(f"/admit/{door}/{TOKEN}", LARGE)) for door in ("one", "open")]
    await until(lambda: len(webhooks.reviews) == 2)
    under_way.append(asyncio.ensure_future(webhooks.ask(f"/admit/one/{TOKEN}")))
    await until(lambda: len(webhooks.reviews) == 3)
    refusal = await webhooks.ask(f"/admit/one/{TOKEN}", LARGE)
    assert (refusal["allowed"], refusal["status"]["code"]) == (False, 429)
    passed = await webhooks.ask(f"/admit/open/{TOKEN}", LARGE)
    assert passed["allowed"] is True
    assert "too much" in passed["warnings"][0]
    assert webhooks.calls == [("one", "", "refused"), ("open", "", "refused")]
    assert webhooks.exposed == 0, "an answer shows no path"
    end.set()
    await asyncio.gather(*under_way)
    await webhooks.ask(f"/admit/one/{TOKEN}", LARGE)


async def test_a_door_without_room_closes_no_other(webhooks: Webhooks) -> None:
    webhooks.door("imports", nobody_answers, room=4 << 20, in_flight=1000)
    webhooks.door("pinning", fails_open=True)
    await webhooks.start()
    waiting = [asyncio.ensure_future(webhooks.post(f"/admit/imports/{TOKEN}", LARGE)) for _ in range(8)]
    await until(lambda: len(webhooks.calls) == 7)
    assert "warnings" not in await webhooks.ask(f"/admit/pinning/{TOKEN}", LARGE)
    for each in waiting:
        each.cancel()


@pytest.mark.parametrize(
    ("changes", "is_refused"),
    [
        pytest.param({}, True, id="the same"),
        pytest.param({"userInfo": {"username": "joe"}}, True, id="another user of the namespace"),
        pytest.param({"namespace": "other"}, True, id="the user in another namespace"),
        pytest.param({"namespace": "other", "userInfo": {"username": "joe"}}, False, id="others"),
    ],
)
async def test_nobody_takes_all_the_room_of_a_door(webhooks: Webhooks, changes, is_refused) -> None:
    async def waits(review: Review) -> Verdict:
        return Allowed() if len(webhooks.reviews) > 1 else await nobody_answers(review)

    webhooks.door("imports", waits, room=32 << 20, share=4 << 20)
    await webhooks.start()
    first = asyncio.ensure_future(webhooks.post(f"/admit/imports/{TOKEN}", LARGE))
    await until(lambda: webhooks.reviews)
    answer = await webhooks.ask(f"/admit/imports/{TOKEN}", {**LARGE, "request": {**LARGE["request"], **changes}})
    assert answer["allowed"] is not is_refused
    if is_refused:
        assert answer["status"]["code"] == 429
    first.cancel()
    await until(lambda: len(webhooks.calls) == 2)
    assert (await webhooks.ask(f"/admit/imports/{TOKEN}", LARGE))["allowed"] is True, "there is room again"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"x" * 100, id="no review"),
        pytest.param(b'{"request": {"kind": {"uid": "u-1"}}}' + b" " * 100, id="no uid at its begin"),
        pytest.param(json.dumps(review_of()).encode() + b" " * module.MAX_BODY, id="too large"),
    ],
)
async def test_what_is_no_review_where_there_is_no_room(webhooks: Webhooks, body) -> None:
    webhooks.door("one", room=10)
    await webhooks.start()
    assert (await webhooks.post(f"/admit/one/{TOKEN}", body))[0] == 400


# --- TLS


async def served_by(webhooks: Webhooks, *trusted: KeyPair, name: str = "127.0.0.1") -> bytes:
    """The certificate that a new connection meets."""
    _, writer = await asyncio.open_connection(
        "127.0.0.1", webhooks.port, ssl=webhooks.trusting(*trusted), server_hostname=name
    )
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return found


@pytest.mark.parametrize("name", NAMES)
async def test_the_certificate_is_replaced_while_connections_are_open(webhooks: Webhooks, name) -> None:
    webhooks.door("one")
    await webhooks.start()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=webhooks.trusting())) as session:
        url = f"https://{name}:{webhooks.port}/admit/one/{TOKEN}"

        async def call() -> int:
            async with session.post(url, json=review_of()) as response:
                await response.read()
                return response.status

        assert await call() == 200
        before = await served_by(webhooks, name=name)
        other = new_authority(datetime.now(UTC))
        webhooks.certificate.use(new_serving(other, NAMES, datetime.now(UTC)))
        assert await call() == 200, "on the connection that is open"
    with pytest.raises(ssl.SSLCertVerificationError):
        await served_by(webhooks, name=name)
    assert await served_by(webhooks, other, name=name) != before


async def test_a_key_of_another_type(webhooks: Webhooks) -> None:
    """A context would keep the certificate of the first type beside that of the second, and choose it."""
    await webhooks.start()
    rsa = trustme.CA(key_type=trustme.KeyType.RSA)
    leaf = rsa.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA)
    webhooks.certificate.use(KeyPair(leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes()))
    assert await served_by(webhooks, KeyPair(rsa.cert_pem.bytes(), b""))
    webhooks.certificate.use(new_serving(webhooks.authority, NAMES, datetime.now(UTC)))
    assert await served_by(webhooks)


async def test_a_certificate_of_no_use_changes_nothing(webhooks: Webhooks) -> None:
    await webhooks.start()
    before = await served_by(webhooks)
    good = new_serving(webhooks.authority, NAMES, datetime.now(UTC))
    for broken in (
        KeyPair(b"", b""),
        KeyPair(good.certificate, webhooks.authority.key),
        KeyPair(good.certificate, b""),
    ):
        with pytest.raises(InvalidCertificate):
            webhooks.certificate.use(broken)
    assert await served_by(webhooks) == before


async def test_at_the_end_a_call_is_answered_that_may_take_long(webhooks: Webhooks, monkeypatch) -> None:
    monkeypatch.setattr(module, "_GRACE", 0.05)
    go_on = asyncio.Event()

    async def takes_long(review: Review) -> Verdict:
        await go_on.wait()
        return Allowed()

    webhooks.door("imports", takes_long, seconds=20)
    webhooks.door("pinning")
    await webhooks.start()
    call = asyncio.ensure_future(webhooks.ask(f"/admit/imports/{TOKEN}"))
    await until(lambda: webhooks.reviews)
    ending = asyncio.ensure_future(webhooks.listener.cleanup())
    asyncio.get_running_loop().call_later(0.5, go_on.set)
    assert (await call)["allowed"] is True
    await ending
    assert webhooks.exposed == 0


async def test_before_there_is_a_certificate_nobody_can_connect() -> None:
    listener, port = await serve_admission(Admission({}, Tokens), "127.0.0.1", 0, ServingCertificate())
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context())
    await listener.cleanup()


async def test_old_versions_of_tls_are_refused(webhooks: Webhooks) -> None:
    await webhooks.start()
    assert webhooks.certificate.context.minimum_version is ssl.TLSVersion.TLSv1_2, "whatever the system's default is"
    tls = webhooks.trusting()
    with pytest.warns(DeprecationWarning, match="deprecated"):
        tls.minimum_version, tls.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        await asyncio.open_connection("127.0.0.1", webhooks.port, ssl=tls, server_hostname="127.0.0.1")


async def test_an_address_that_is_taken(webhooks: Webhooks) -> None:
    await webhooks.start()
    with pytest.raises(OSError):
        await serve_admission(webhooks.admission, "127.0.0.1", webhooks.port, webhooks.certificate)


# --- visitors


async def test_a_connection_that_proves_nothing_is_ended_and_one_that_does_stays(webhooks, monkeypatch) -> None:
    monkeypatch.setattr(module, "_UNPROVEN", 0.2)
    webhooks.door("one")
    await webhooks.start()
    tls = webhooks.trusting()
    idle, _idle = await asyncio.open_connection("127.0.0.1", webhooks.port, ssl=tls, server_hostname="127.0.0.1")
    stranger, other = await asyncio.open_connection("127.0.0.1", webhooks.port, ssl=tls, server_hostname="127.0.0.1")
    other.write(b"POST /admit/one HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", webhooks.port, ssl=tls, server_hostname="127.0.0.1")
    body = json.dumps(review_of()).encode()
    call = f"POST /admit/one/{TOKEN} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    writer.write(call)
    assert b"200" in await reader.readline()
    later, _later = await asyncio.open_connection("127.0.0.1", webhooks.port, ssl=tls, server_hostname="127.0.0.1")
    for end in (idle, stranger, later):
        with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(end.readexactly(1 << 20), 5)
    writer.write(call)
    await reader.readuntil(b'"allowed":true}}')
    assert b"200" in await reader.readline()
    writer.close()


async def test_visitors_beyond_the_limit_push_out_the_oldest(webhooks, monkeypatch) -> None:
    monkeypatch.setattr(module, "_MAX_UNPROVEN", 2)
    await webhooks.start()
    tls = webhooks.trusting()
    opened = [
        await asyncio.open_connection("127.0.0.1", webhooks.port, ssl=tls, server_hostname="127.0.0.1")
        for _ in range(3)
    ]
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(opened[0][0].readexactly(1), 5)
    opened[2][1].write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert b"404" in await opened[2][0].readline()
    for _, writer in opened:
        writer.close()


async def test_the_end_waits_for_calls_under_way_and_takes_no_more(webhooks: Webhooks) -> None:
    end = asyncio.Event()

    async def waits(review: Review) -> Verdict:
        await end.wait()
        return Allowed()

    webhooks.door("one", waits)
    await webhooks.start()
    under_way = asyncio.ensure_future(webhooks.ask(f"/admit/one/{TOKEN}"))
    await until(lambda: webhooks.reviews)
    ending = asyncio.ensure_future(webhooks.listener.cleanup())
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", webhooks.port)
            writer.close()
        except OSError:
            break
    end.set()
    assert (await under_way)["allowed"] is True
    await ending
    assert webhooks.exposed == 0


# --- what it never says


async def test_a_token_is_in_no_log_and_no_answer(webhooks: Webhooks, capfd, caplog) -> None:
    said: list[str] = []

    def note(logger: object, method: str, event: dict[str, Any]) -> dict[str, Any]:
        said.append(repr(event))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.processors.format_exc_info, note])
    webhooks.door("fails", raises)
    webhooks.door("late", nobody_answers, seconds=0.05)
    await webhooks.start()
    answers = [await webhooks.post(f"/admit/{door}/{TOKEN}") for door in ("fails", "fails", "late", "none")]
    answers.append(await webhooks.post(f"/admit/fails/{TOKEN}", b"{"))
    answers.append(await webhooks.post(f"/admit/fails/{WRONG}"))
    reader, writer = await asyncio.open_connection("127.0.0.1", webhooks.port, ssl=webhooks.trusting())
    writer.write(f"POST /admit/fails/{TOKEN}\x00 HTTP/1.1\r\n\r\n".encode())
    assert b"400" in await reader.read()  # only the sender sees what it quotes
    writer.close()
    structlog.reset_defaults()
    captured = capfd.readouterr()
    everything = "".join([*said, *(str(each) for each in answers), captured.out, captured.err, caplog.text])
    everything += repr(webhooks.admission) + repr(webhooks.tokens) + repr(webhooks.calls)
    assert TOKEN not in everything
    assert WRONG not in everything
    failures = [each for each in said if "admission failed" in each]
    assert ["Traceback" in each for each in failures] == [True, False], "the traceback once, the failure each time"
    assert "a bug" in failures[0]
