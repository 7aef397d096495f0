"""docs/openshift.md names settings, conditions and annotations that are there."""

from __future__ import annotations

import re

import click
import pytest
import yaml

from imagestreams import settings
from imagestreams.cli.main import group
from tests.config.kustomize import ROOT

TEXT = (ROOT / "docs" / "openshift.md").read_text()
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in TEXT.splitlines() if line.startswith("|")
]


def flags_of_commands() -> set[str]:
    commands = [group.get_command(click.Context(group), name) for name in group.list_commands(click.Context(group))]
    return {flag for command in commands if command for each in command.params for flag in each.opts}


def test_every_flag_is_a_setting_or_a_commands():
    flags = set(re.findall(r"--[a-z][a-z-]+", TEXT))
    assert "--install-secret" in flags
    known = {"--" + name.replace("_", "-") for name in settings.Settings.__dataclass_fields__}
    assert flags - known - flags_of_commands() - {"--image"} == set()  # of `oc new-app`


def test_a_theme_is_one_row_and_every_row_says_what_is_here():
    assert {len(row) for row in ROWS} == {4}
    header, _, *rows = ROWS
    assert header == ["", "OpenShift", "here", "why"]
    for what, openshift, here, why in rows:
        if what.startswith("**"):
            assert not openshift + here + why
        else:
            assert what
            assert openshift + here, what


@pytest.mark.parametrize("annotation", sorted(set(re.findall(r"imagestreams\.dev/[a-z][a-z-]*", TEXT))))
def test_every_annotation_of_ours_is_read(annotation):
    sources = "".join(file.read_text() for file in (ROOT / "imagestreams" / "core").glob("*.py"))
    webhooks = (ROOT / "config" / "webhook" / "configuration.yaml").read_text()  # which asks for a label
    assert f'"{annotation}"' in sources or f"{annotation}:" in webhooks


def test_every_field_of_status_is_in_the_schema():
    crd = yaml.safe_load((ROOT / "crds" / "imagestreams.yaml").read_text())
    status = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    (listed,) = re.findall(r"in `status`: ([^;]*);", TEXT)
    assert {name.split("[")[0] for name in re.findall(r"`(\w+)", listed)} <= status.keys()
