"""How many import requests a namespace may have stored: the quota of docs/webhooks.md, on a real control plane, with
the webhook installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml

from dev.controller import Controller
from dev.images import image, push
from dev.process import Server
from tests.conftest import ROOT
from tests.e2e.hooked import GROUP, Hooked, People, Refused, recorded
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("quotas")]
ANSWERED = 'imagestreams_admission_reviews_total{door="imports",operation="CREATE",verdict="patched"}'

(QUOTA,) = (
    block
    for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/webhooks.md").read_text(), re.DOTALL)
    if "ResourceQuota" in block
)


@pytest.fixture(scope="module")
def quotas(hooked: Hooked) -> Iterator[None]:
    """The controller of quotas, which the control plane has not: it says how many there are."""
    plane = hooked.plane
    options = ("--controllers=resourcequota-controller", "--leader-elect=false", "--secure-port=0")
    command = [plane.programs["kube-controller-manager"], f"--kubeconfig={plane.kubeconfig}", *options]
    server = Server("quotas", command, plane.directory)
    yield
    server.stop()


def test_a_quota_holds_and_what_is_deleted_leaves_room(
    hooked: Hooked, hooked_controller: Controller, people: People, path: str
):
    jane, plane = people(), hooked.plane
    push(hooked.registry, path, "stable", image(text="one"))
    quota = yaml.safe_load(QUOTA)
    ((counted, limit),) = quota["spec"]["hard"].items()
    assert int(limit) > 2
    quota["spec"]["hard"] = {counted: "2"}
    quotas = f"/api/v1/namespaces/{jane.namespace}/resourcequotas"
    plane.request("POST", quotas, {**quota, "metadata": {"name": quota["metadata"]["name"]}})

    def used() -> str | None:
        (found,) = plane.request("GET", quotas)["items"]
        return found.get("status", {}).get("used", {}).get(counted)

    until(lambda: used() == "0", seconds=60)
    request = recorded("oc-import-image-dry-run", path=path)
    first, second = (jane.post(request)["metadata"]["name"] for _ in range(2))
    assert used() == "2"
    before = hooked_controller.metrics()[ANSWERED]
    for query in ({}, {"dryRun": "All"}):
        with pytest.raises(Refused, match="exceeded quota: import-requests") as refused:
            jane.post(request, **query)
        assert (refused.value.code, refused.value.reason) == (403, "Forbidden")
    assert hooked_controller.metrics()[ANSWERED] == before + 2, "the webhook has answered by then"
    stored = f"{GROUP}/namespaces/{jane.namespace}/imagestreamimports"
    assert {each["metadata"]["name"] for each in plane.request("GET", stored)["items"]} == {first, second}
    plane.kubectl("delete", "imagestreamimport", first, "-n", jane.namespace)
    until(lambda: used() == "1", seconds=60)
    assert jane.post(request)["metadata"]["name"] not in {first, second}
