"""What an import costs a registry, from the create call to the stream that has its images: registries limit pulls, and
reading a manifest is one.

Each test counts what comes in at the registry's socket.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from dev.images import image, index
from imagestreams.core.stream import ObjectKey
from tests.fakes.registry import FakeRegistry
from tests.requests_world import Object, World, asked, asking, results

REPOSITORY = "registry.test/acme/web"


@pytest.fixture
async def world(tmp_path: Path):
    async with World(tmp_path) as made:
        yield made


@pytest.fixture
def registry(world: World) -> FakeRegistry:
    return world.registries["registry.test"]


def seen(registry: FakeRegistry) -> Counter[str]:
    """How often each manifest and list of tags was asked for; configs are no pulls."""
    return Counter(each for each in registry.asked() if "/blobs/" not in each)


def once(*tags: str) -> Counter[str]:
    return Counter(f"GET acme/web:{tag}" for tag in tags)


LISTING = Counter(["GET /v2/acme/web/tags/list"])


def importing_all() -> Object:
    """A request for all tags of the repository."""
    value = asking("web")
    value["spec"] = {"import": True, "repository": {"from": {"kind": "DockerImage", "name": REPOSITORY}}}
    return value


def pushed(registry: FakeRegistry, *tags: str, text: str = "") -> dict[str, str]:
    """Tags with an image each; their digests."""
    return {tag: registry.add("acme/web", tag, image(text=f"{text}{tag}")) for tag in tags}


def names(count: int) -> list[str]:
    return [f"v{number}" for number in range(1, count + 1)]


async def test_an_import_of_many_images_is_one_pull_for_each(world: World, registry: FakeRegistry):
    """More than a description's manifest used to be kept for."""
    digests = pushed(registry, *names(40))
    stored = await world.create(asking("web", *(asked(f"{REPOSITORY}:{tag}", tag) for tag in digests)))
    assert results(stored) == list(digests.values())
    await world.settled()
    assert {tag: world.items(tag) for tag in digests} == {tag: [digest] for tag, digest in digests.items()}
    assert seen(registry) == once(*digests)


async def test_an_image_that_is_chosen_of_an_index_is_one_pull_more(world: World, registry: FakeRegistry):
    children = [image(text=f"{number}") for number in range(40)]
    indexes = [index([child, image(architecture="arm64", text=child.digest)]) for child in children]
    for number, each in enumerate(indexes):
        registry.add("acme/web", f"v{number}", each)
    stored = await world.create(
        asking(
            "web",
            *(
                asked(f"{REPOSITORY}:v{number}", f"v{number}", importPolicy={"importMode": "Legacy"})
                for number in range(40)
            ),
        )
    )
    assert results(stored) == [child.digest for child in children]
    await world.settled()
    assert [world.items(f"v{number}") for number in range(40)] == [[child.digest] for child in children]
    expected = once(*(f"v{number}" for number in range(40)))
    assert seen(registry) == expected + Counter(f"GET acme/web@{child.digest}" for child in children)


async def test_an_import_of_a_repository_is_one_listing_and_one_pull_for_each_tag(world: World, registry: FakeRegistry):
    """Also for those tags that the answer only names: they are beyond what it describes."""
    digests = pushed(registry, *names(60))
    stored = await world.create(importing_all())
    status = stored["status"]["repository"]
    assert (len(status["images"]), len(status["additionalTags"])) == (50, 10)
    await world.settled()
    assert {tag: world.items(tag) for tag in digests} == {tag: [digest] for tag, digest in digests.items()}
    assert seen(registry) == once(*digests) + LISTING


async def test_without_a_webhook_it_costs_no_more(tmp_path: Path):
    async with World(tmp_path, has_webhook=False) as world:
        registry = world.registries["registry.test"]
        digests = pushed(registry, *names(3))
        world.put_stream(dockerImageRepository=REPOSITORY)
        await world.settled()
        registry.requests.clear()
        await world.create(importing_all())
        await world.settled()
        assert {tag: world.items(tag) for tag in digests} == {tag: [digest] for tag, digest in digests.items()}
        assert seen(registry) == LISTING + Counter(f"HEAD acme/web:{tag}" for tag in digests)


# --- what is not answered by what was found before -------------------------------------------------------------------


WEB = ObjectKey("shop", "web")


async def test_a_hint_between_is_looked_up_anew(world: World, registry: FakeRegistry):
    """The request was answered, then somebody sees the tag move, and then the request is carried out."""
    old, value = pushed(registry, "1"), asking("web", f"{REPOSITORY}:1")
    await world.create(value)
    await world.settled()
    answered = await world.admitted(value)
    assert results(answered) == [old["1"]]
    new = pushed(registry, "1", text="new")
    world.process.stream_queue.add(WEB, frozenset({"1"}))
    await world.settled()
    world.has_webhook = False
    await world.create(answered)
    await world.settled()
    world.clock.advance(seconds=2)  # so long nobody asks twice
    world.process.stream_queue.add(WEB)
    await world.settled()
    assert world.items("1") == [new["1"], old["1"]]
