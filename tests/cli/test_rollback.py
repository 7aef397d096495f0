"""`rollback` from the command line to the socket: what it asks, refuses, writes, waits for and says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from imagestreams.core.merging import merge_status
from imagestreams.core.stream import ObjectKey, encode
from imagestreams.core.wish import ImportRules
from tests.cli.shop import (
    NOW,
    World,
    alias,
    answer_imports,
    command,
    decoded,
    opened,
    refused,
    serve_imports,
    stream,
    succeeded,
    tag,
)
from tests.cli.test_revisions import PINS, A, B, C, D, held, recorded
from tests.fakes.apiserver import disconnect, raw, status

KEY = ObjectKey("shop", "web")
IMPORTS = "imagestreamimports"
WHO = "selfsubjectreviews"
CHECKED = "warning: it was not checked whether the registry still has the image\n"


@pytest.fixture
async def world(tmp_path, monkeypatch):
    monkeypatch.setattr("imagestreams.cli.waiting._FIRST_PAUSE", 0.001)
    async with opened(tmp_path, monkeypatch) as world:
        world.server.put(web(recorded(C, B, A)))
        yield world


@pytest.fixture
def run(capsys):
    return command("rollback", capsys)


def web(recorded: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {**stream(tag("1"), alias("prod", "1"), **metadata), "status": {"tags": [recorded]}}


def controller(world: World):
    """The controller's next round."""

    def act() -> None:
        found = world.stream
        update = merge_status(decoded(found), (), {}, now=NOW, rules=ImportRules())
        assert update.stream.status is not None
        world.server.put({**found, "status": json.loads(encode(update.stream.status))})

    return act


def pins(world: World) -> dict[str, Any]:
    return json.loads(world.annotation(PINS) or "{}")


def deployment(name: str = "web", follow: str = "web=web:1", **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "shop", "annotations": {"imagestreams.dev/follow": follow}},
        "spec": {"replicas": 0, "template": {"spec": {"containers": [{"name": "web", "image": "x/web"}]}}},
        **more,
    }


# ---- done ----


async def test_the_image_before_is_checked_pinned_and_waited_for(world, run):
    answer_imports(world, {"images": [succeeded(B)]})
    world.when("watch", controller(world))
    world.server.put(deployment())
    world.server.put(deployment("shop", "web=web:prod"))
    world.server.put(deployment("other", "web=other:1"))
    done = await run("web:1", "--reason", "checkout fails")
    assert (done.code, done.err) == (0, "")
    pin = pins(world)["1"]
    assert (pin["digest"], pin["reason"]) == (B, "checkout fails")
    assert done.out.splitlines() == [
        "imagestream.image.openshift.io/web tag 1 rolled back",
        f"  to    quay.io/acme/web@{B} (revision 2)",
        f"  from  quay.io/acme/web@{C} (revision 3)",
        "It stays there until: imagestreams resume web:1",
        "",
        "WORKLOAD               CONTAINER   FOLLOWS",
        "deployment.apps/shop   web         web:prod",
        "deployment.apps/web    web         web:1",
    ]
    [asked] = world.bodies("create", IMPORTS)
    assert asked["spec"] == {
        "import": False,
        "images": [
            {
                "from": {"kind": "DockerImage", "name": f"quay.io/acme/web@{B}"},
                "importPolicy": {"importMode": "PreserveOriginal"},
            }
        ],
    }
    # It is read, written, and waited for; then come those who follow.
    assert world.verbs() == ["get", "get", "patch", "get", "watch", "list"]
    assert [items["image"] for items in world.stream["status"]["tags"][0]["items"]] == [B, C, B, A]


async def test_the_server_says_who_it_is(world, run):
    world.server.username = "jane"
    done = await run("web:1", "--unchecked", "--wait=false")
    assert (done.code, pins(world)["1"]["by"]) == (0, "jane")


async def test_without_an_answer_to_who_it_is_nobody_is_named(world, run):
    refusal = status(403, "Forbidden", "no")
    world.server.inject(refusal, verb="create", when=lambda seen: seen.path.endswith(WHO))
    done = await run("web:1", "--unchecked", "--wait=false")
    assert done.code == 0
    assert "by" not in pins(world)["1"]
    assert done.err == CHECKED
    assert "tag 1 will be rolled back\n" in done.out
    assert "\nNo workload of namespace shop follows it.\n" in done.out


@pytest.mark.parametrize(
    ("args", "image"),
    [(("--to", A), A), (("--to", A[7:13]), A), (("--revision", "1"), A), (("--revision", "3"), C), ((), B)],
)
async def test_where_to(world, run, args, image):
    done = await run("web:1", *args, "--unchecked", "--wait=false")
    assert (done.code, pins(world)["1"]["digest"]) == (0, image)
    assert ("is held" in done.out) is (image == C)


async def test_pins_of_others_stay_as_they_are(world, run):
    text = json.dumps({"prod": {"digest": D, "note": "ours"}, "odd": "?"})
    world.server.put(web(recorded(C, B, A), annotations={PINS: text, "a": "b"}))
    done = await run("web:1", "--unchecked", "--wait=false")
    assert done.code == 0
    assert {name: pin for name, pin in pins(world).items() if name != "1"} == json.loads(text)
    assert world.annotation("a") == "b"


async def test_what_is_pinned_already_is_not_written_again(world, run):
    value = web(recorded(B, C, B, A, condition=held()), annotations={PINS: json.dumps({"1": {"digest": B}})})
    world.server.put(value)
    done = await run("web:1", "--to", B, "--unchecked")
    assert (done.code, world.verbs().count("patch")) == (0, 0)
    assert "was pinned already" in done.out
    done = await run("web:1", "--to", B, "--unchecked", "--reason", "because")
    assert (pins(world)["1"]["reason"], world.verbs().count("patch")) == ("because", 1)


async def test_somebody_writes_the_stream_meanwhile(world, run):
    def edit() -> None:
        found = world.stream
        found["metadata"]["annotations"] = {PINS: json.dumps({"prod": {"digest": A}})}
        world.server.put(found)

    world.when("patch", edit)
    done = await run("web:1", "--unchecked", "--wait=false")
    assert done.code == 0
    assert {name: pin["digest"] for name, pin in pins(world).items()} == {"1": B, "prod": A}


@pytest.mark.parametrize(("form", "words"), [("client", "(dry run)"), ("server", "(server dry run)")])
async def test_a_dry_run_writes_nothing(world, run, form, words):
    done = await run("web:1", "--unchecked", f"--dry-run={form}")
    assert (done.code, pins(world)) == (0, {})
    assert f"will be rolled back {words}" in done.out


async def test_a_clients_dry_run_asks_no_registry(world, run):
    answer_imports(world, {"images": [refused("NotFound", "gone")]})
    done = await run("web:1", "--dry-run=client")
    assert (done.code, world.verbs(IMPORTS), pins(world)) == (0, [], {})
    assert done.err == "warning: a client's dry run does not ask whether the registry still has the image\n"


async def test_a_servers_dry_run_asks_the_registry(world, run):
    answer_imports(world, {"images": [refused("NotFound", "gone")]})
    done = await run("web:1", "--dry-run=server")
    assert (done.code, world.verbs(IMPORTS), pins(world)) == (1, ["create"], {})


async def test_output(world, run):
    world.when("watch", controller(world))
    done = await run("web:1", "--unchecked", "-o", "json")
    found = json.loads(done.out)
    assert (found["kind"], found["status"]["tags"][0]["items"][0]["image"]) == ("ImageStream", B)
    done = await run("web:1", "--to", B, "--unchecked", "-o", "name")
    assert done.out == "imagestream.image.openshift.io/web\n"


@pytest.mark.parametrize(
    ("resource", "fault", "words"),
    [
        ("deployments", status(403, "Forbidden", "not yours"), "Error from server (Forbidden): not yours\n"),
        ("deployments", status(500, "InternalError", "etcd"), "Error from server (InternalError): etcd\n"),
        ("deployments", raw(b"<html>"), "error: the server answered with something that is no Kubernetes API's answer"),
        ("deployments", disconnect(), "Unable to connect to the server"),
        ("imagestreams", raw(b'{"items": [{"metadata": {"name": 1}}]}'), "error: the server's image stream is malf"),
    ],
)
async def test_what_is_done_is_done_though_nobody_can_say_who_follows(world, run, resource, fault, words):
    """Whoever would do it again would go back by two."""
    world.server.inject(fault, verb="list", resource=resource, times=-1)
    done = await run("web:1", "--unchecked", "--wait=false")
    assert (done.code, pins(world)["1"]["digest"]) == (0, B)
    assert f"Which workloads follow it cannot be said: {words}" in done.err


# ---- refused ----


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(
            refused("NotFound", "no such manifest"),
            "error: the registry does not have quay.io/acme/web@{} any more (no such manifest); choose another one",
            id="gone",
        ),
        pytest.param(
            refused("Unauthorized", "no login", 401),
            "error: Unauthorized: no login\n  So it cannot be said whether the registry still has quay.io/acme/web@{}.",
            id="not known",
        ),
        pytest.param(succeeded(D), "error: the registry has " + D + " under the name quay.io/acme/web@{}", id="other"),
    ],
)
async def test_what_the_registry_does_not_have_is_not_pinned(world, run, answer, words):
    answer_imports(world, {"images": [answer]})
    done = await run("web:1")
    assert (done.code, done.out, pins(world)) == (1, "", {})
    assert words.format(B) in done.err
    assert "--unchecked" in done.err


async def test_without_import_requests_there_is_a_way_out(world, run):
    done = await run("web:1")
    assert (done.code, pins(world)) == (1, {})
    assert "the server has no imagestreamimports" in done.err
    assert done.err.endswith("  To roll back without asking: --unchecked\n")


async def test_without_the_right_to_ask_there_is_a_way_out(world, run):
    serve_imports(world)
    world.server.inject(status(403, "Forbidden", "jane cannot create"), verb="create", resource=IMPORTS)
    done = await run("web:1")
    assert (done.code, pins(world)) == (1, {})
    assert done.err.startswith("Error from server (Forbidden): jane cannot create\n  So it cannot be said whether")
    assert done.err.endswith("  To roll back without asking: --unchecked\n")


@pytest.mark.parametrize("to", ["", " "])
async def test_an_empty_digest_is_not_the_image_before(world, run, to):
    """In a script it is a variable that is not set."""
    done = await run("web:1", "--unchecked", "--to", to)
    assert (done.code, world.verbs()) == (2, [])
    assert "Invalid value for '--to': it is empty" in done.err


async def test_a_template_that_does_not_fit_is_told_with_what_was_done(world, run):
    done = await run("web:1", "--unchecked", "--wait=false", "-o", "jsonpath={.spec.tags[7].name}")
    assert (done.code, pins(world)["1"]["digest"]) == (1, B)
    assert done.err.endswith("\n  The pin is written; to take it back: imagestreams resume web:1\n")


async def test_an_annotation_that_cannot_be_read_is_not_written_over(world, run):
    world.server.put(web(recorded(C, B, A), annotations={PINS: "{"}))
    done = await run("web:1", "--unchecked")
    assert (done.code, world.annotation(PINS)) == (1, "{")
    assert "error: the annotation imagestreams.dev/pins is no JSON" in done.err
    assert done.err.endswith("  Mend it: kubectl edit imagestream web\n")


async def test_a_broken_entry_of_the_tag_is_replaced(world, run):
    world.server.put(web(recorded(C, B, A), annotations={PINS: '{"1": {"digest": "x"}}'}))
    done = await run("web:1", "--unchecked", "--wait=false")
    assert (done.code, pins(world)["1"]["digest"]) == (0, B)


async def test_as_many_pins_as_can_be(world, run):
    many = {f"t{number}": {"digest": A} for number in range(1000)}
    world.server.put(web(recorded(C, B, A), annotations={PINS: json.dumps(many).replace(A, A[:13])}))
    done = await run("web:1", "--unchecked", "--wait=false")
    assert done.code == 1
    assert "has as many pins as it can hold" in done.err


async def test_the_image_is_forgotten_while_it_is_asked_for(world, run):
    world.when("patch", lambda: world.server.put(web(recorded(C), annotations={"a": "b"})))
    done = await run("web:1", "--unchecked")
    assert (done.code, pins(world)) == (1, {})
    assert f"{B} is not in the history of web:1" in done.err


async def test_another_stream_of_the_name(world, run):
    world.when("patch", lambda: world.server.put(web(recorded(C, B), uid="u-2")))
    done = await run("web:1", "--unchecked")
    assert (done.code, pins(world)) == (1, {})
    assert "was deleted and created anew meanwhile" in done.err


@pytest.mark.parametrize(
    "args", [("web:1", "--to", A, "--revision", "1"), ("web:1", "--to", "1.2"), ("shop/web:1",), (), ("web:1", "x")]
)
async def test_calling_it_wrongly(world, run, args):
    assert (await run(*args)).code == 2
    assert not world.bodies("patch")


# ---- waiting ----


async def test_the_time_is_up(world, run):
    done = await run("web:1", "--unchecked", "--timeout", "50ms")
    assert (done.code, pins(world)["1"]["digest"]) == (1, B)
    assert "error: the pin is written, but imagestream.image.openshift.io/web does not have it" in done.err
    assert done.err.endswith("  To take it back: imagestreams resume web:1\n")


async def test_who_interrupts_the_waiting_is_told_that_the_pin_stays(world, run, monkeypatch):
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("imagestreams.cli.waiting.states", interrupt)
    done = await run("web:1", "--unchecked")
    assert (done.code, pins(world)["1"]["digest"]) == (130, B)
    assert done.err.rstrip().endswith("\nThe pin is written; to take it back: imagestreams resume web:1")


async def test_an_answer_that_is_lost_is_no_failure(world, run):
    world.server.inject(disconnect(after=True), verb="patch")
    done = await run("web:1", "--unchecked", "--wait=false")
    assert (done.code, pins(world)["1"]["digest"]) == (0, B)
    assert " tag 1 will be rolled back\n" in done.out


async def test_somebody_takes_the_pin_back(world, run):
    def edit() -> None:
        found = world.stream
        del found["metadata"]["annotations"]
        world.server.put(found)

    world.when("watch", edit)
    done = await run("web:1", "--unchecked")
    assert (done.code, done.err) == (1, f"{CHECKED}error: somebody changed the pin of web:1 meanwhile\n")


async def test_the_controller_does_not_find_the_image(world, run):
    def trim() -> None:
        found = world.stream
        found["status"]["tags"][0]["items"] = found["status"]["tags"][0]["items"][:1]
        world.server.put(found)
        controller(world)()

    world.when("watch", trim)
    done = await run("web:1", "--unchecked")
    assert done.code == 1
    assert f"error: web:1 was not rolled back: {B} is not in its history; the tag stays as it is" in done.err


async def test_where_watching_is_not_allowed_it_is_asked_again(world, run):
    world.server.inject(status(403, "Forbidden", "no watch"), verb="watch", times=-1)
    asked: list[int] = []

    async def count(_request: Any, serve: Any) -> Any:
        asked.append(1)
        if len(asked) == 4:
            controller(world)()
        return await serve()

    world.server.inject(count, verb="get", resource="imagestreams", times=-1)
    done = await run("web:1", "--unchecked")
    assert (done.code, world.verbs().count("watch")) == (0, 1)
