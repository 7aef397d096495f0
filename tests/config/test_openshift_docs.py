"""docs/openshift.md names settings, conditions and annotations that are there."""

from __future__ import annotations

import re

import pytest
import yaml

from imagestreams import settings
from tests.config.kustomize import ROOT

TEXT = (ROOT / "docs" / "openshift.md").read_text()
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in TEXT.splitlines() if line.startswith("|")
]
# Of `oc import-image`, which has them, and of our `import-image`.
OTHERS = {
    "--from",
    "--confirm",
    "--scheduled",
    "--insecure",
    "--import-mode",
    "--reference-policy",
    "--dry-run",
    "--all",
}


def test_every_flag_is_a_setting():
    flags = set(re.findall(r"--[a-z][a-z-]+", TEXT)) - OTHERS
    assert "--install-secret" in flags
    known = {"--" + name.replace("_", "-") for name in settings.Settings.__dataclass_fields__}
    assert flags - known == set()


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
    stream = (ROOT / "imagestreams" / "core" / "stream.py").read_text()
    assert f'"{annotation}"' in stream


def test_every_field_of_status_is_in_the_schema():
    crd = yaml.safe_load((ROOT / "crds" / "imagestreams.yaml").read_text())
    status = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    (listed,) = re.findall(r"in `status`: ([^;]*);", TEXT)
    assert {name.split("[")[0] for name in re.findall(r"`(\w+)", listed)} <= status.keys()
