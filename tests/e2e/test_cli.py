"""`imagestreams import-image` against the real API server and controller, as itself and as a kubectl plugin."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Cli, World, deployment


@pytest.mark.usefixtures("controller")
@pytest.mark.parametrize("program", ["imagestreams", "kubectl"])
def test_import_image_brings_the_new_digest(world: World, cli: Cli, program: str):
    first = world.push("one")
    world.apply(world.stream(), deployment())
    world.until(lambda: world.digests() == [first])
    second = world.push("two")

    done = cli("import-image", "web:stable", program=program)

    assert done.returncode == 0, done.stderr
    assert second in done.stdout
    assert world.digests() == [second, first]
    world.until(lambda: world.images()["web"] == world.pull_spec(second))


@pytest.mark.usefixtures("controller")
def test_import_image_all_fails_with_the_reason_of_the_tag_that_failed(world: World, cli: Cli):
    digest = world.push("one")
    world.apply(world.stream(stable="web:stable", gone="web:gone"))
    world.until(lambda: world.digests() == [digest])

    done = cli("import-image", "web", "--all")

    assert done.returncode == 1
    assert digest in done.stdout
    assert "NotFound" in done.stdout + done.stderr


@pytest.mark.usefixtures("rights")
def test_import_image_of_what_is_not_there(cli: Cli):
    done = cli("import-image", "nothing")
    assert done.returncode == 1
    assert "pass --confirm to create and import" in done.stderr
