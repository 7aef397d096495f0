"""`explain` from a reference to the registry's socket: the steps, the facts, the exit code, and nothing secret."""

# ruff: noqa: PLR0917  # fixtures and parameters

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from dev.images import helm_chart, image, index
from imagestreams.cli.explain import text
from imagestreams.cli.explanation import _ADVICE, Explanation, Step
from imagestreams.cli.main import invoke
from imagestreams.registry import errors
from tests.fakes.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.usefixtures("environment")

WEB = image()


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry(auth="token") as server:
        server.add("acme/web", "1", WEB)
        server.add("public/web", "latest", WEB)
        yield server


@pytest.fixture
def credentials(registry, tmp_path) -> str:
    def auth(password: str) -> dict[str, str]:
        return {"auth": base64.b64encode(f"{registry.username}:{password}".encode()).decode()}

    path = tmp_path / "config.json"
    logins = {f"{registry.host}/acme": auth(registry.password), f"{registry.host}/other": auth("elsewhere")}
    path.write_text(json.dumps({"auths": logins}))
    return str(path)


@pytest.fixture
def run(capsys):
    async def call(*args: str, listed: str = "") -> tuple[int, str, str]:
        flags = [f"--insecure-registry={listed}"] if listed else []
        code = await asyncio.to_thread(invoke, ["explain", *args, *flags], "imagestreams")
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def facts(run):
    """The steps of `-o json` by title, with the exit code."""

    async def call(*args: str, listed: str = "") -> tuple[int, dict[str, Any]]:
        code, out, _ = await run(*args, "-o", "json", listed=listed)
        whole = json.loads(out)
        assert whole["resolved"] is (code == 0)
        return code, {step["title"]: step for step in whole["steps"]}

    return call


READ, RULES, LOGINS, END = (
    "How the reference is read",
    "What the rules say",
    "Which logins are for it",
    "What comes of it",
)


# ---- the whole story ----


async def test_an_image_that_is_there(run, registry, credentials):
    source = f"{registry.host}/acme/web:1"
    code, out, err = await run(source, "--credentials", credentials, listed=registry.host)
    assert (code, err) == (0, "")
    titles = [line for line in out.splitlines() if line[:1].isdigit()]
    assert titles == [
        f"1. {READ}",
        f"2. {RULES}",
        f"3. {LOGINS}",
        f"4. What {registry.host} was asked",
        f"5. {END}",
    ]
    words = " ".join(out.split())
    assert f"GET {registry.url}/v2/acme/web/manifests/1" in words
    assert f"401: wants a token of {registry.tokens.realm}" in words
    assert "scope=repository:acme/web:pull" in words
    assert f"(as Basic secret {credentials}) -> 200" in words
    assert f"The tag records {registry.host}/acme/web@{WEB.digest}." in words


async def test_nothing_secret_is_told(run, registry, credentials):
    source = f"{registry.host}/acme/web:1"
    for output in ("text", "json"):
        for password in (registry.password, "changed"):
            registry.tokens.users[registry.username] = password
            registry.tokens.requests.clear()
            registry.requests.clear()
            _, out, err = await run(source, "--credentials", credentials, "-o", output, listed=registry.host)
            sent = [request.authorization for request in [*registry.requests, *registry.tokens.requests]]
            assert any(sent)
            for authorization in sent:
                secret = authorization.partition(" ")[2]
                assert not secret or secret not in out + err
            assert "correct-horse" not in out + err
            assert "elsewhere" not in out + err


async def test_an_image_that_is_not(run, registry, credentials):
    code, out, _ = await run(f"{registry.host}/acme/web:9", "--credentials", credentials, listed=registry.host)
    words = " ".join(out.split())
    assert code == 1
    assert "-> 404: MANIFEST_UNKNOWN" in words
    assert f'There is no image (NotFound): container image "{registry.host}/acme/web:9" not found' in words
    assert "A controller does not try again by itself before" in words
    assert "What to do: check the spelling" in words


# ---- reading ----


@pytest.mark.parametrize(
    ("reference", "host", "path", "tag", "words"),
    [
        ("nginx", "docker.io", "library/nginx", "latest", "Docker Hub, as none is named"),
        ("index.docker.io/acme/a:1", "docker.io", "acme/a", "1", "which index.docker.io is another name of"),
        ("quay.io/a/b/c:x", "quay.io", "a/b/c", "x", "The tag is x."),
        (f"quay.io/a/b:x@{WEB.digest}", "quay.io", "a/b", "", "the tag x beside it is not looked at"),
    ],
)
async def test_how_a_reference_is_read(facts, reference, host, path, tag, words):
    _, steps = await facts(reference, f"--blocked-registry={host}")
    step = steps[READ]
    assert (step["host"], step["repository"], step["tag"]) == (host, path, tag)
    assert words in " ".join(step["lines"])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("Nginx:1 2",), 'error: "Nginx:1 2" is not an image reference'),
        (("https://quay.io/a/b",), "write it without the scheme"),
        (("quay.io",), "error: quay.io names a registry, not an image; add a repository, as in quay.io/app:tag"),
        (("nginx", "--platform", "arm64"), "error: --platform: "),
        (("nginx", "--mode", "Both"), "'Both' is not one of"),
        (("nginx", "--credentials", "/nowhere"), "error: --credentials /nowhere: cannot be read: No such file"),
        ((), "Missing argument 'REFERENCE'"),
    ],
)
async def test_called_wrongly(run, args, words):
    code, out, err = await run(*args)
    assert (code, out) == (2, "")
    assert words in err


# ---- rules ----


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--blocked-registry=docker.io/library"], "Blocked"),
        (["--allowed-registry=quay.io,gcr.io"], "NotAllowed"),
    ],
)
async def test_what_the_rules_forbid_is_not_asked_for(facts, flags, reason):
    code, steps = await facts("nginx", *flags)
    assert code == 1
    assert list(steps) == [READ, RULES, END]
    assert (steps[RULES]["allowed"], steps[RULES]["reason"], steps[END]["reason"]) == (False, reason, reason)
    assert steps[END]["advice"]


async def test_which_pattern_allows_it(facts, registry):
    source = f"{registry.host}/public/web"
    _, steps = await facts(
        source, f"--allowed-registry=quay.io,{registry.host}/public,{registry.host}", listed=registry.host
    )
    assert steps[RULES]["lines"][0] == f"Nothing is blocked, and the pattern {registry.host}/public allows it."


async def test_an_endpoint_and_an_address_that_nobody_listed(facts, registry):
    _, steps = await facts("quay.io/public/web", f"--registry-endpoint=quay.io={registry.url}")
    (place,) = steps[RULES]["places"]
    assert (place["endpoint"], place["listed"], place["credentials"]) == (registry.url, True, False)
    code, steps = await facts(f"{registry.host}/public/web")
    assert (code, steps[END]["reason"]) == (1, "Refused")
    assert "--internal-registry" in steps[END]["advice"]


async def test_mirrors_are_asked_first(facts, registry, tmp_path):
    document = tmp_path / "registries.yaml"
    async with FakeRegistry() as source:
        source.add("public/web", "latest", WEB)
        hosts = {registry.host: {"insecure": True}, source.host: {"insecure": True}}
        mirrors = [{"source": f"{source.host}/public", "mirrors": [f"{registry.host}/gone", f"{registry.host}/public"]}]
        document.write_text(json.dumps({"hosts": hosts, "mirrors": mirrors}))
        code, steps = await facts(f"{source.host}/public/web", "--registries", str(document))
        assert code == 0
        assert [place["repository"] for place in steps[RULES]["places"]] == [
            f"{registry.host}/gone/web",
            f"{registry.host}/public/web",
            f"{source.host}/public/web",
        ]
        assert source.requests == []
        assert steps[END]["image"] == f"{source.host}/public/web@{WEB.digest}"


async def test_the_password_of_a_proxy_is_not_told(run, registry, tmp_path):
    document = tmp_path / "registries.yaml"
    hosts = {registry.host: {"insecure": True, "proxy": "http://me:s3cret@127.0.0.1:9"}}
    document.write_text(json.dumps({"hosts": hosts}))
    for output in ("text", "json"):
        code, out, err = await run(f"{registry.host}/public/web", "--registries", str(document), "-o", output)
        assert (code, registry.requests) == (1, [])
        assert "http://127.0.0.1:9" in out
        assert "s3cret" not in out + err


# ---- logins ----


async def test_which_logins_match_and_why_others_do_not(facts, registry, credentials):
    _, steps = await facts(f"{registry.host}/acme/web:1", "--credentials", credentials, listed=registry.host)
    acme, other = steps[LOGINS]["logins"]
    assert (acme["key"], acme["tried"]) == (f"{registry.host}/acme", True)
    assert (other["key"], other["tried"]) == (f"{registry.host}/other", False)
    assert "neither the repository" in other["why"]


async def test_an_insecure_reference_has_no_login(facts, registry, credentials):
    code, steps = await facts(
        f"{registry.host}/acme/web:1",
        "--insecure",
        "--credentials",
        credentials,
        f"--internal-registry={registry.host}",
    )
    assert (code, steps[END]["reason"]) == (1, "Unauthorized")
    assert [login["tried"] for login in steps[LOGINS]["logins"]] == [False, False]
    assert any(": not sent, as" in line for line in steps[LOGINS]["lines"])
    assert not any(request.authorization for request in registry.tokens.requests)


# ---- answers ----


async def test_the_platforms_of_an_index(facts, registry):
    several = index([image(architecture="amd64"), image(architecture="arm64", variant="v8")], attestations=True)
    registry.add("public/web", "all", several)
    source = f"{registry.host}/public/web:all"
    code, steps = await facts(source, listed=registry.host)
    assert code == 0
    assert steps[END]["platforms"] == ["linux/amd64", "linux/arm64/v8"]
    assert steps[END]["mediaType"] == several.media_type
    assert steps[END]["digest"] == several.digest
    _, steps = await facts(source, "--mode=Legacy", "--platform=linux/arm64", listed=registry.host)
    assert (steps[END]["digest"], steps[END]["served"]) == (several.images[1].digest, several.digest)


@pytest.mark.parametrize(
    ("status", "headers", "reason", "words"),
    [
        (503, {}, "Unavailable", "A controller tries again by itself, first after 10s"),
        (429, {"Retry-After": "60"}, "RateLimited", "A controller tries again by itself"),
        (418, {}, "InvalidAnswer", "A controller tries again by itself"),
    ],
)
async def test_failures_that_may_pass(facts, registry, status, headers, reason, words):
    registry.reply(status, headers=headers)
    code, steps = await facts(f"{registry.host}/public/web", listed=registry.host)
    assert (code, steps[END]["reason"], steps[END]["retryable"]) == (1, reason, True)
    assert words in " ".join(steps[END]["lines"])
    (request,) = steps[f"What {registry.host} was asked"]["requests"]
    assert request["outcome"] == str(status)


async def test_what_is_no_image(facts, registry):
    registry.add("public/web", "chart", helm_chart())
    code, steps = await facts(f"{registry.host}/public/web:chart", listed=registry.host)
    assert (code, steps[END]["reason"]) == (1, "NotAnImage")


async def test_that_nobody_answers(facts, registry):
    registry.hold()
    code, steps = await facts(f"{registry.host}/public/web", "--timeout=200ms", listed=registry.host)
    assert (code, steps[END]["reason"]) == (1, "Timeout")
    registry.release()


def test_there_is_advice_for_every_reason_of_a_registry():
    def reasons(kind: type[errors.RegistryError]) -> set[str]:
        return {kind.reason}.union(*map(reasons, kind.__subclasses__()))

    assert reasons(errors.RegistryError) - {"RegistryError"} <= _ADVICE.keys()


def test_what_would_steer_a_terminal_is_not_printed():
    shown = text(Explanation("x", (Step("Title", ("a\x1b[2Jb", f"long {'x' * 200} end")),), is_resolved=True))
    assert "\x1b" not in shown
    assert "x" * 200 in shown
