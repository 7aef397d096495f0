"""`resolve` from manifests to the registry's socket: what is asked, how often, what is printed, the exit code."""

# ruff: noqa: PLR0917  # fixtures and parameters

from __future__ import annotations

import asyncio
import base64
import json
import signal
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from dev.images import image, index
from imagestreams.cli import options
from imagestreams.cli.main import invoke
from imagestreams.cli.manifests import parse_manifests
from imagestreams.cli.resolution import Found, Resolution
from imagestreams.core.policy import HostRule, Policy
from imagestreams.core.wish import ImportRules
from imagestreams.registry.client import RegistryClient
from imagestreams.registry.transport import Reach, Timeouts
from tests.fakes.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.usefixtures("environment")

API = "image.openshift.io/v1"
WEB, OTHER = image(), image(text="other")


def tag(name: str, source: str | None, kind: str = "DockerImage", **more: Any) -> dict[str, Any]:
    if source is None:
        return {"name": name, **more}
    namespace = {"namespace": more.pop("namespace")} if "namespace" in more else {}
    return {"name": name, "from": {"kind": kind, "name": source, **namespace}, **more}


def stream(*tags: dict[str, Any], name: str = "web", namespace: str = "", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": API, "kind": "ImageStream", "metadata": metadata, "spec": {"tags": list(tags)}, **more}


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as server:
        server.add("acme/web", "1", WEB)
        server.add("acme/web", "2", OTHER)
        yield server


@pytest.fixture
def run(capsys, tmp_path):
    """Runs the command on streams, or on a text; the registries are listed as insecure."""

    async def call(given: object, *args: str, listed: str = "") -> tuple[int, str, str]:
        path = tmp_path / "streams.yaml"
        path.write_text(given if isinstance(given, str) else yaml.dump_all(given))
        flags = [f"--insecure-registry={listed}"] if listed else []
        code = await asyncio.to_thread(invoke, ["resolve", "-f", str(path), *flags, *args], "imagestreams")
        return code, *capsys.readouterr()

    return call


def records(out: str) -> dict[str, dict[str, str]]:
    """What `-o json` printed, by "namespace/stream:tag"."""
    return {f"{row['namespace']}/{row['stream']}:{row['tag']}": row for row in json.loads(out)}


# ---- what is asked and found ----


async def test_every_tag_is_asked_for_once(run, registry):
    source = f"{registry.host}/acme/web"
    given = [
        stream(
            tag("one", f"{source}:1", importPolicy={"scheduled": True}),
            tag("again", f"{source}:1"),
            tag("two", f"{source}:2"),
        )
    ]
    code, out, err = await run(given, listed=registry.host)
    assert (code, err) == (0, "")
    assert sorted(registry.asked()) == ["GET acme/web:1", "GET acme/web:2"]
    assert out.splitlines() == [
        "STREAM   TAG     REASON     IMAGE / MESSAGE",
        f"web      one     Imported   {source}@{WEB.digest}",
        f"web      again   Imported   {source}@{WEB.digest}",
        f"web      two     Imported   {source}@{OTHER.digest}",
    ]


async def test_a_failed_tag_is_named_and_its_siblings_go_on(run, registry):
    source = f"{registry.host}/acme/web"
    given = [stream(tag("one", f"{source}:1"), tag("none", f"{source}:9")), stream(tag("x", "web@sha256:1"), name="b")]
    code, out, err = await run(given, "-o", "json", listed=registry.host)
    found = records(out)
    assert code == 1
    assert found["default/web:one"] == {
        "stream": "web",
        "namespace": "default",
        "tag": "one",
        "image": f"{source}@{WEB.digest}",
        "digest": WEB.digest,
        "reason": "Imported",
        "message": "",
        "from": f"{source}:1",
    }
    assert found["default/web:none"]["reason"] == "NotFound"
    assert found["default/web:none"]["digest"] == found["default/web:none"]["image"] == ""
    assert found["default/b:x"]["reason"] == "InvalidImageReference"
    assert err.splitlines() == [
        f'error: default/web:none: NotFound: container image "{source}:9" not found',
        f"error: default/b:x: InvalidImageReference: {found['default/b:x']['message']}",
        "error: 2 of 3 tags could not be resolved",
        f"Step by step: imagestreams explain {source}:9",
    ]


async def test_tags_follow_each_other_among_the_manifests(run, registry):
    source = f"{registry.host}/acme/web"
    given = [
        stream(
            tag("alias", "one", "ImageStreamTag"),
            tag("one", f"{source}:1"),
            tag("base", "base:two", "ImageStreamTag"),
            tag("theirs", "app:two", "ImageStreamTag", namespace="other"),
            tag("missing", "nobody:1", "ImageStreamTag"),
            tag("foreign", "nobody:1", "ImageStreamTag", namespace="nowhere"),
        ),
        stream(tag("two", "app:two", "ImageStreamTag", namespace="other"), name="base"),
        stream(tag("two", f"{source}:2"), name="app", namespace="other"),
    ]
    code, out, err = await run(given, listed=registry.host)
    assert code == 1
    lines = [line.split(maxsplit=4) for line in out.splitlines()[1:]]
    one, two = f"{source}@{WEB.digest}", f"{source}@{OTHER.digest}"
    unknown = "the stream {}/nobody, which it follows, is not among the manifests"
    assert lines == [
        ["default", "web", "alias", "Imported", one],
        ["default", "web", "one", "Imported", one],
        ["default", "web", "base", "Imported", two],
        ["default", "web", "theirs", "Imported", two],
        ["default", "web", "missing", "TagNotFound", unknown.format("default")],
        ["default", "web", "foreign", "TagNotFound", unknown.format("nowhere")],
        ["default", "base", "two", "Imported", two],
        ["other", "app", "two", "Imported", two],
    ]  # fmt: skip
    assert err.splitlines() == [
        *(
            f"note: default/{name} takes its image from other/app: a cluster asks whether default may pull from other, "
            "here nobody does"
            for name in ("web:theirs", "base:two")
        ),
        "error: 2 of 8 tags could not be resolved",
    ]


async def test_tags_in_a_circle(run):
    given = [
        stream(tag("a", "b:b", "ImageStreamTag"), name="a"),
        stream(tag("b", "a:a", "ImageStreamTag"), name="b"),
    ]
    code, out, _ = await run(given, "-o", "json")
    assert code == 1
    assert {row["reason"] for row in records(out).values()} == {"CircularReference"}


async def test_what_nobody_asks_for(run, registry):
    given = [stream(tag("pushed", None), tag("written", "quay.io/x/y:1", reference=True))]
    code, out, err = await run(given, "-o", "json", listed=registry.host)
    found = records(out)
    assert (code, err, registry.asked()) == (0, "", [])
    assert (found["default/web:pushed"]["reason"], found["default/web:pushed"]["image"]) == ("NoSource", "")
    assert (found["default/web:written"]["image"], found["default/web:written"]["digest"]) == ("quay.io/x/y:1", "")


async def test_an_image_of_an_exports_history(run, registry):
    source = f"{registry.host}/acme/web"
    item = {
        "created": "2026-01-01T00:00:00Z",
        "dockerImageReference": f"{source}@{OTHER.digest}",
        "image": OTHER.digest,
    }
    status = {"tags": [{"tag": "now", "items": [item]}]}
    old = tag("old", f"web@{OTHER.digest[:20]}", "ImageStreamImage")
    code, out, _ = await run(
        [stream(tag("now", f"{source}:1"), old, status=status)], "-o", "json", listed=registry.host
    )
    found = records(out)
    assert code == 0
    assert found["default/web:now"]["digest"] == WEB.digest
    assert found["default/web:old"]["image"] == f"{source}@{OTHER.digest}"
    assert found.keys() == {"default/web:now", "default/web:old"}


async def test_history_does_not_pass_for_an_answer(run, registry):
    source = f"{registry.host}/acme/web"
    item = {
        "created": "2026-01-01T00:00:00Z",
        "dockerImageReference": f"{source}@{OTHER.digest}",
        "image": OTHER.digest,
    }
    status = {"tags": [{"tag": "gone", "items": [item]}]}
    given = [stream(tag("gone", f"{source}:9"), tag("alias", "gone", "ImageStreamTag"), status=status)]
    code, out, _ = await run(given, "-o", "json", listed=registry.host)
    assert code == 1
    assert {(row["image"], row["reason"]) for row in records(out).values()} == {("", "NotFound"), ("", "TagNotFound")}


async def test_a_repository_with_all_its_tags(run, registry):
    given = stream(tag("2", f"{registry.host}/acme/web:1"))
    given["spec"]["dockerImageRepository"] = f"{registry.host}/acme/web"
    code, out, err = await run([given], "-o", "json", listed=registry.host)
    assert (code, err) == (0, "")
    assert {name: row["digest"] for name, row in records(out).items()} == {
        "default/web:2": WEB.digest,
        "default/web:1": WEB.digest,
    }


async def test_a_repository_that_cannot_be_listed(run, registry):
    given = stream()
    given["spec"]["dockerImageRepository"] = f"{registry.host}/acme/nothing"
    code, out, _ = await run([given], listed=registry.host)
    assert code == 1
    assert out.splitlines()[1].split()[:3] == ["web", "<repository>", "NotFound"]


async def test_one_platform_of_several(run, registry):
    several = index([image(architecture="amd64"), image(architecture="arm64")])
    registry.add("acme/web", "3", several)
    prefer = {"importer.image.openshift.io/prefer-os": "linux", "importer.image.openshift.io/prefer-arch": "arm64"}
    source = f"{registry.host}/acme/web:3"
    given = [
        stream(
            tag("all", source),
            tag("one", source, importPolicy={"importMode": "Legacy"}),
            tag("arm", source, importPolicy={"importMode": "Legacy"}, annotations=prefer),
        )
    ]
    code, out, _ = await run(given, "-o", "yaml", listed=registry.host)
    assert code == 0
    digests = [row["digest"] for row in yaml.safe_load(out)]
    assert digests == [several.digest, several.images[0].digest, several.images[1].digest]


async def test_a_suspended_stream_is_resolved_and_that_is_said(run, registry):
    given = stream(tag("one", f"{registry.host}/acme/web:1"))
    given["metadata"]["annotations"] = {"imagestreams.dev/suspend": "true"}
    code, _, err = await run([given], listed=registry.host)
    assert code == 0
    assert err.startswith("note: default/web: a controller would not import it")


# ---- logins ----


@pytest.fixture
async def private(registry, tmp_path) -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry(auth="token") as server:
        server.add("acme/web", "1", WEB)
        yield server


@pytest.fixture
def credentials(private, tmp_path) -> str:
    auth = base64.b64encode(f"{private.username}:{private.password}".encode()).decode()
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {private.host: {"auth": auth}}, "credsStore": "desktop"}))
    return str(path)


async def test_logins_serve_all_namespaces(run, private, credentials):
    source = tag("one", f"{private.host}/acme/web:1")
    given = [stream(source), stream(source, namespace="other")]
    code, out, err = await run(given, "--credentials", credentials, listed=private.host)
    assert code == 0
    assert out.count(WEB.digest) == 2
    assert err == (
        f'note: file "{credentials}": its credsStore is ignored, credential helpers are not run; '
        "write a username and password, or an identitytoken, into auths\n"
    )


@pytest.mark.parametrize(
    ("flags", "code", "reason"), [([], 1, "Unauthorized"), (["--allow-insecure-credentials"], 0, "Imported")]
)
async def test_an_insecure_tag_has_no_login_unless_that_is_allowed(run, private, credentials, flags, code, reason):
    given = [stream(tag("one", f"{private.host}/acme/web:1", importPolicy={"insecure": True}))]
    flags = [*flags, f"--internal-registry={private.host}", "--credentials", credentials, "-o", "json"]
    done, out, _ = await run(given, *flags)
    assert (done, records(out)["default/web:one"]["reason"]) == (code, reason)
    assert any(request.authorization for request in private.tokens.requests) is (code == 0)


async def test_no_password_is_printed(run, private, credentials):
    private.users.clear()
    private.tokens.users[private.username] = "changed"
    given = [stream(tag("one", f"{private.host}/acme/web:1"))]
    for output in ("table", "json"):
        code, out, err = await run(given, "--credentials", credentials, "-o", output, listed=private.host)
        assert code == 1
        assert "config.json" in out
        assert private.password not in out + err


# ---- rules ----


async def test_the_flags_and_variables_of_run_count(run, registry, monkeypatch):
    monkeypatch.setenv("IMAGESTREAMS_REGISTRY_ENDPOINT", f"quay.io={registry.url}")
    given = [stream(tag("one", "quay.io/acme/web:1"), tag("two", "docker.io/acme/web:1"))]
    code, out, _ = await run(given, "-o", "json", "--blocked-registry=docker.io")
    found = records(out)
    assert code == 1
    assert found["default/web:one"]["image"] == f"quay.io/acme/web@{WEB.digest}"
    assert found["default/web:two"]["reason"] == "Blocked"


async def test_a_registries_document(run, registry, tmp_path):
    document = tmp_path / "registries.yaml"
    document.write_text(
        yaml.dump(
            {
                "blocked": ["gcr.io"],
                "hosts": {registry.host: {"insecure": True}},
                "mirrors": [{"source": "quay.io/acme", "mirrors": [f"{registry.host}/acme"]}],
            }
        )
    )
    given = [stream(tag("one", "quay.io/acme/web:1"), tag("two", "gcr.io/acme/web:1"))]
    code, out, _ = await run(given, "-o", "json", "--registries", str(document))
    found = records(out)
    assert code == 1
    assert found["default/web:one"]["image"] == f"quay.io/acme/web@{WEB.digest}"
    assert found["default/web:two"]["reason"] == "Blocked"


async def test_a_mirror_by_flag(run, registry):
    given = [stream(tag("one", "quay.io/acme/web:1"))]
    code, out, _ = await run(given, "-o", "json", f"--mirror=quay.io/acme={registry.host}/acme", listed=registry.host)
    assert code == 0
    assert records(out)["default/web:one"]["image"] == f"quay.io/acme/web@{WEB.digest}"
    assert registry.asked() == ["GET acme/web:1"]


async def test_a_mirror_that_fails_sends_on_to_its_source_and_is_named(run, registry):
    async with FakeRegistry() as source:
        mirror = f"--mirror={source.host}/acme={registry.host}/gone"
        listed = f"{registry.host},{source.host}"
        given = [stream(tag("one", f"{source.host}/acme/web:1"), tag("two", f"{source.host}/acme/web:2"))]
        source.add("acme/web", "1", WEB)
        code, out, _ = await run(given, "-o", "json", mirror, listed=listed)
        assert code == 1
        assert records(out)["default/web:one"]["digest"] == WEB.digest
        two = records(out)["default/web:two"]
        assert (two["reason"], f"mirror {registry.host}: NotFound" in two["message"]) == ("NotFound", True)
        assert sorted(source.asked()) == ["GET acme/web:1", "GET acme/web:2"]


async def test_an_address_that_nobody_listed_is_not_contacted(run, registry):
    code, out, _ = await run([stream(tag("one", f"{registry.host}/acme/web:1"))])
    assert (code, registry.asked()) == (1, [])
    assert "Refused" in out


# ---- retries and rate limits ----


def resolution(registry: FakeRegistry, *tags: dict[str, Any], **options: Any) -> tuple[RegistryClient, Resolution]:
    policy = Policy({registry.host: HostRule(insecure=True)})
    given = parse_manifests(yaml.dump(stream(*tags)), origin="f", namespace="default")
    client = RegistryClient(
        Reach.of(policy), clock=lambda: datetime.now(UTC), timeouts=Timeouts(connect=5, idle=5, request=5, lookup=10)
    )
    rules = ImportRules(policy=policy, interval=timedelta(seconds=1), min_interval=timedelta(seconds=1))
    options = {"retry": timedelta(milliseconds=1), "timeout": 20, **options}
    return client, Resolution([found.stream for found in given.streams], ask=client.answer, rules=rules, **options)


async def resolved(registry: FakeRegistry, *tags: dict[str, Any], **options: Any) -> tuple[Found, ...]:
    client, work = resolution(registry, *tags, **options)
    try:
        async with asyncio.timeout(15):
            await work.run()
        return work.found()
    finally:
        await client.close()


async def test_a_failure_that_may_pass_is_retried_once(registry):
    source = tag("one", f"{registry.host}/acme/web:1")
    registry.reply(503, times=1)
    (found,) = await resolved(registry, source)
    assert (found.is_failed, found.digest) == (False, WEB.digest)
    assert len(registry.requests) == 2
    registry.requests.clear()
    registry.reply(503)
    (found,) = await resolved(registry, source)
    assert (found.is_failed, found.reason) == (True, "Unavailable")
    assert len(registry.requests) == 2


async def test_a_failure_that_stays_is_not_retried(registry):
    (found,) = await resolved(registry, tag("one", f"{registry.host}/acme/web:9"))
    assert found.reason == "NotFound"
    assert registry.asked() == ["GET acme/web:9"]


async def test_a_registry_that_asks_to_wait_is_waited_for(registry):
    registry.reply(429, headers={"Retry-After": "2"}, path="/1$", times=1)
    polled = tag("two", f"{registry.host}/acme/web:2", importPolicy={"scheduled": True})
    one, two = await resolved(registry, tag("one", f"{registry.host}/acme/web:1"), polled)
    assert (one.digest, two.digest) == (WEB.digest, OTHER.digest)
    # However long it takes, nothing is polled meanwhile: the slots of this test are a second long.
    assert sorted(registry.asked()) == ["GET acme/web:1", "GET acme/web:1", "GET acme/web:2"]


async def test_but_not_for_longer_than_there_is_time(registry):
    registry.reply(429, headers={"Retry-After": "600"})
    tags = [tag(f"t{number}", f"{registry.host}/acme/web:{number}") for number in range(30)]
    found = await resolved(registry, *tags, timeout=60, concurrency=1)
    assert {row.reason for row in found} == {"RateLimited"}
    assert len(registry.requests) == 1
    assert any("for 10m" in row.message or "9m5" in row.message for row in found)


async def test_a_host_that_is_gone_is_not_waited_for(registry):
    await registry.stop()
    tags = [tag(f"t{number}", f"{registry.host}/acme/web:{number}") for number in range(30)]
    found = await resolved(registry, *tags, timeout=None)
    assert {row.reason for row in found} == {"Unreachable"}


async def test_the_time_is_up(registry):
    registry.hold(path="/1$")
    tags = [tag("one", f"{registry.host}/acme/web:1"), tag("two", f"{registry.host}/acme/web:2")]
    one, two = await resolved(registry, *tags, timeout=1)
    assert (two.is_failed, two.digest) == (False, OTHER.digest)
    assert (one.is_failed, one.reason, one.message) == (True, "Timeout", "there was no answer within 1s")


async def test_progress_comes_to_its_end(registry):
    told: list[tuple[int, int]] = []
    tags = [tag(f"t{number}", f"{registry.host}/acme/web:{1 + number % 3}") for number in range(20)]
    await resolved(registry, *tags, on_progress=lambda done, whole: told.append((done, whole)))
    assert told[-1] == (20, 20)


# ---- the command line ----


async def test_broken_manifests_are_refused_before_anything_is_asked(run, registry):
    good = yaml.dump(stream(tag("one", f"{registry.host}/acme/web:1")))
    code, out, err = await run(f"{good}---\nkind: [\n", listed=registry.host)
    assert (code, out, registry.asked()) == (2, "", [])
    assert "streams.yaml: document 2, line" in err
    assert err.startswith("error: ")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "Missing option '-f'"),
        (("-f", "/nowhere"), "error: /nowhere: cannot be read: No such file or directory\n"),
        (("-f", "-", "-o", "name"), "'name' is not one of 'table', 'yaml', 'json'"),
    ],
)
async def test_called_wrongly(capsys, args, words):
    code = await asyncio.to_thread(invoke, ["resolve", *args], "imagestreams")
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(
    ("flag", "content", "words"),
    [
        ("--credentials", '{"auths": {"x": {"auth": "s3cret!"}}}', "its auth is not base64"),
        ("--credentials", "s3cret", "it is not JSON"),
        ("--registries", "hosts: [", "error: --registries"),
        ("--config", "intervall: 5m", "intervall: from"),
    ],
)
async def test_files_that_cannot_be_used(run, tmp_path, flag, content, words):
    path = tmp_path / "given"
    path.write_text(content)
    code, out, err = await run([stream()], flag, str(path))
    assert (code, out) == (2, "")
    assert words in err
    assert "s3cret" not in err


@pytest.mark.parametrize("flag", ["--credentials", "--registries", "--config"])
async def test_files_that_are_not_there(run, flag):
    code, _, err = await run([stream()], flag, "/nowhere")
    assert code == 2
    assert "cannot be read: No such file or directory" in err


async def test_directories_and_other_kinds(capsys, registry, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.yaml").write_text(
        yaml.dump_all([stream(tag("one", f"{registry.host}/acme/web:1")), {"apiVersion": "v1", "kind": "Service"}])
    )
    args = ["resolve", "-f", str(tmp_path), "-n", "shop", "-o", "json", f"--insecure-registry={registry.host}"]
    code = await asyncio.to_thread(invoke, [*args, "-R"], "imagestreams")
    out, err = capsys.readouterr()
    assert code == 0
    assert records(out).keys() == {"shop/web:one"}
    assert err == f"{tmp_path}/deep/a.yaml: skipped 1 Service: only ImageStreams are resolved\n"
    assert await asyncio.to_thread(invoke, args, "imagestreams") == 2


async def test_progress_is_shown_on_a_terminal_and_taken_away_again(run, registry, monkeypatch):
    shown: list[str] = []
    echo = options.click.echo

    def recorded(words: str = "", **more: Any) -> None:
        shown.append(words)
        echo(words, **more)

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(options.click, "echo", recorded)
    code, _, _ = await run([stream(tag("one", f"{registry.host}/acme/web:1"))], listed=registry.host)
    assert code == 0
    assert shown[0] == "\r\033[Kresolving ..."
    assert "\r\033[Kresolving: 1 of 1 tags ..." in shown
    assert "\r\033[K" in shown


async def test_interrupted(tmp_path, registry):
    registry.hold()
    path = tmp_path / "streams.yaml"
    path.write_text(yaml.dump(stream(tag("one", f"{registry.host}/acme/web:1"))))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "imagestreams", "resolve", "-f", str(path), f"--insecure-registry={registry.host}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    await asyncio.wait_for(registry.arrived(1), 30)
    child.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(child.communicate(), 30)
    assert (child.returncode, out, err.strip()) == (130, b"", b"")
