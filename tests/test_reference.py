"""What docs/reference.md says is so: its lists are whole, and its examples are taken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

from imagestreams import metrics
from imagestreams.core.registries import parse_registries
from imagestreams.registry.errors import RegistryError

ROOT = Path(__file__).parent.parent
REFERENCE = (ROOT / "docs/reference.md").read_text()
NAMES = set(re.findall(r"`([^`\s]+)`", REFERENCE))
EXAMPLES = re.findall(r"```yaml\n(.*?)```", REFERENCE, re.DOTALL)


def reasons(error: type[RegistryError]) -> set[str]:
    return {error.reason}.union(*map(reasons, error.__subclasses__()))


def test_every_metric_is_named_and_none_that_is_not_there() -> None:
    assert metrics.REGISTRY is REGISTRY
    there = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in REGISTRY.collect()
        if family.name.startswith("imagestreams_")
    }
    assert {name for name in NAMES if name.startswith("imagestreams_")} == there


# Nothing is ever answered with these: one is the tree's root, one is an instruction to wait.
@pytest.mark.parametrize("reason", sorted(reasons(RegistryError) - {"RegistryError", "Exhausted"}))
def test_every_reason_of_a_registry_is_named(reason: str) -> None:
    assert reason in NAMES


def test_every_reason_of_an_event_is_one_that_is_given() -> None:
    table = REFERENCE.partition("## Events")[2].partition("\n## ")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")][2:]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    sources = "".join(path.read_text() for path in (ROOT / "imagestreams").rglob("*.py"))
    assert len(named) > 10
    assert {name for name in named if f'"{name}"' not in sources} == set()


def test_the_example_of_a_document_on_registries_is_taken() -> None:
    (document,) = (text for text in EXAMPLES if "neverContactSource" in text)
    read = parse_registries(document)
    assert set(yaml.safe_load(document)) == {"allowed", "blocked", "hosts", "mirrors"}
    assert read.allowed
    assert read.blocked
    assert read.hosts
    assert len(read.mirrors) == 1


def test_the_example_of_a_right_to_pull_names_the_role_that_is_installed() -> None:
    (binding,) = (yaml.safe_load(text) for text in EXAMPLES if "RoleBinding" in text)
    roles = (ROOT / "config/rbac/users.yaml").read_text()
    installed = {each["metadata"]["name"] for each in yaml.safe_load_all(roles)}
    assert binding["roleRef"]["name"] in installed
    assert binding["subjects"][0]["name"] == "system:serviceaccounts:consumer"
