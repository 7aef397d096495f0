"""The stories of `tests/stories`; `tests/storyteller.py` tells how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.storyteller import Storyteller

STORIES = [
    pytest.param(story, id=f"{path.stem}: {story['story']}")
    for path in sorted((Path(__file__).parent / "stories").glob("*.yaml"))
    for story in yaml.safe_load_all(path.read_text())
]


@pytest.mark.parametrize("story", STORIES)
async def test_story(story: dict[str, Any], tmp_path: Path):
    assert story.keys() <= {"story", "settings", "registries", "kinds", "steps"}
    hosts, kinds = story.get("registries", ()), story.get("kinds", ())
    async with Storyteller(tmp_path, story.get("settings", {}), registries=hosts, kinds=kinds) as teller:
        for step in story["steps"]:
            await teller.play(step)
