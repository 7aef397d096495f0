"""The commands that write, against the real API server and controller: what they leave behind, and that its schemas
take it.
"""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import HOST, Cli, World, deployment

pytestmark = pytest.mark.usefixtures("controller")


def check_schema(world: World, printed: str) -> None:
    """Have the API server judge a printed object by its schema, every field known."""
    value = json.loads(printed)
    value["metadata"] = {"name": "another"}
    world.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", input=json.dumps(value))


def test_import_image_makes_a_stream_and_later_changes_it(world: World, cli: Cli):
    digest = world.push("one")
    source = f"{HOST}/{world.namespace}/web:stable"

    assert cli("import-image", "web:stable", f"--from={source}").returncode == 1, "--confirm is missing"
    done = cli("import-image", "web:stable", f"--from={source}", "--confirm")
    assert done.returncode == 0, done.stderr
    assert digest in done.stdout
    done = cli("import-image", "web:stable", "--scheduled", "--import-mode=legacy", "-o", "json")

    assert done.returncode == 0, done.stderr
    [tag] = json.loads(done.stdout)["spec"]["tags"]
    assert tag["importPolicy"] == {"scheduled": True, "importMode": "Legacy"}
    check_schema(world, done.stdout)


def test_a_dry_run_tells_what_would_be_found_as_often_as_it_is_asked(world: World, cli: Cli):
    digest = world.push("one")
    world.apply(world.stream(stable="web:stable", gone="web:gone"))
    world.until(lambda: world.digests() == [digest])
    before = world.get("imagestreams")

    for _ in range(2):
        done = cli("import-image", "web", "--all", "--dry-run")
        assert done.returncode == 1, done.stderr
        assert [line.split()[-1] for line in done.stdout.splitlines()[3:4]] == ["unchanged"]
        assert "NotFound: " in done.stdout
    done = cli("import-image", f"{HOST}/{world.namespace}/web:stable", "-o", "json", "--dry-run")
    [answer] = json.loads(done.stdout)["status"]["images"]
    assert answer["image"]["metadata"]["name"] == digest
    assert world.get("imagestreams") == before


def test_a_tag_is_set_frozen_followed_and_deleted(world: World, cli: Cli):
    first = world.push("one")
    source = f"{HOST}/{world.namespace}/web:stable"

    assert cli("tag", source, "web:stable").stdout == f"Tag web:stable set to {source}.\n"
    world.until(lambda: world.digests() == [first])
    done = cli("tag", "web:stable", "web:kept", "other:kept")
    assert done.stdout == f"Tag web:kept set to web@{first}.\nTag other:kept set to web@{first}.\n", done.stderr
    assert cli("tag", "--alias", "web:stable", "web:moving").returncode == 0
    world.until(lambda: world.digests("kept") == world.digests("moving") == world.digests("kept", "other") == [first])
    second = world.push("two")
    assert cli("import-image", "web:stable").returncode == 0
    world.until(lambda: world.digests("moving") == [second, first])
    assert world.digests("kept") == [first]

    done = cli("tag", "-d", "web:kept", "web:none")
    assert done.stdout == f"Deleted tag {world.namespace}/web:kept.\n"
    assert done.returncode == 1
    world.until(lambda: world.digests("kept") == [])
    assert world.digests("kept", "other") == [first], "what others took from it stays"


def test_a_schema_of_the_server_has_the_last_word(world: World, cli: Cli):
    world.apply(world.stream())
    done = cli("tag", "nginx:1", "web:x", "--source=docker", "--dry-run=server")
    assert (done.returncode, done.stdout) == (0, "Tag web:x set to nginx:1. (server dry run)\n")
    assert "x" not in {tag["name"] for tag in world.get("imagestreams")["spec"]["tags"]}


def test_a_workload_follows_a_tag_and_stops(world: World, cli: Cli):
    first = world.push("one")
    world.apply(world.stream(), deployment(annotations={}))
    world.until(lambda: world.digests() == [first])

    done = cli("set-triggers", "deploy/web", "--from-image=web:stable")
    assert (done.returncode, done.stdout) == (0, "deployment.apps/web triggers updated\n"), done.stderr
    world.until(lambda: world.images()["web"] == world.pull_spec(first))
    assert cli("set-triggers", "deploy/web", "--manual").returncode == 0
    listed = cli("set-triggers", "deploy/web").stdout.splitlines()[-1].split()
    assert listed == ["deployments/web", "image", "web:stable", "(web)", "false"]
    second = world.push("two")
    assert cli("import-image", "web:stable").returncode == 0
    world.until(lambda: world.digests() == [second, first])
    world.until(world.is_rolled_out)
    assert world.images()["web"] == world.pull_spec(first)

    done = cli("set-triggers", "deploy/web", "--auto", "-o", "json")
    check_schema(world, done.stdout)
    world.until(lambda: world.images()["web"] == world.pull_spec(second))


def test_streams_and_workloads_are_looked_up(world: World, cli: Cli):
    world.apply(world.stream(), deployment(annotations={}))

    done = cli("set-lookup", "web", "deploy/web")
    assert done.returncode == 0, done.stderr
    assert "kubectl label namespace" in done.stderr
    assert world.get("imagestreams")["spec"]["lookupPolicy"] == {"local": True}
    template = world.get("deployments")["spec"]["template"]["metadata"]
    assert template["annotations"] == {"alpha.image.policy.openshift.io/resolve-names": "*"}
    world.kubectl("label", "namespace", world.namespace, "imagestreams.dev/resolve-names=enabled")
    assert cli("set-lookup", "web", "deploy/web", "--enabled=false").stderr == ""
    assert "annotations" not in world.get("deployments")["spec"]["template"]["metadata"]
    listed = [line.split() for line in cli("set-lookup").stdout.splitlines()]
    assert listed == [["NAME", "LOCAL"], ["web", "false"]]
