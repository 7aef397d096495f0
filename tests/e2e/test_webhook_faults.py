"""What becomes of import requests when a real controller dies, or its webhooks run as a process of their own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from dev.controller import NAMESPACE, SERVICE_ACCOUNT, webhook_rights
from dev.images import image, push
from tests.e2e.hooked import Hooked, People, Refused, mark, recorded
from tests.e2e.proxy import ApiProxy
from tests.requests.openshift import read_answer
from tests.waiting import until

pytestmark = pytest.mark.cluster


def test_a_webhook_killed_in_the_midst_of_an_import_leaves_nothing_and_the_next_works(
    hooked: Hooked, people: People, path: str
):
    jane, digest = people(), push(hooked.registry, path, "stable", image(text="one"))
    with (
        ApiProxy(hooked.plane) as proxy,
        hooked.controller(kubeconfig=proxy.kubeconfig(hooked.rights), name="killed") as controller,
        ThreadPoolExecutor(1) as pool,
    ):
        until(hooked.is_reached)
        held = proxy.hold("GET", r"/imagestreams/web$", when="after")
        asking = pool.submit(jane.post, recorded("oc-import-image-first", path=path))
        held.wait()
        controller.kill()
        held.release()
        with pytest.raises(Refused, match=r"imports\.imagestreams\.dev") as refused:
            asking.result(timeout=40)
        assert refused.value.code >= 500
    assert jane.request("GET", "imagestreamimports")["items"] == []
    with hooked.controller(name="next"):
        until(hooked.is_reached)
        jane.post(recorded("oc-import-image-first", path=path))
        until(lambda: jane.digests() == [digest])


def test_an_answer_whose_controller_died_is_carried_out_by_the_next(hooked: Hooked, people: People, path: str):
    jane, digest = people(), push(hooked.registry, path, "stable", image(text="one"))
    controller = f"--webhook-controller=system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"
    rights = webhook_rights(hooked.plane)
    with hooked.controller("--webhooks-only", controller, kubeconfig=rights, name="webhooks") as webhooks:
        until(hooked.is_reached)
        answer = jane.post(recorded("oc-import-image-first", path=path))
        assert read_answer(answer["status"]).images[0].status.status == "Success"
        assert jane.digests() == [], "webhooks write nothing"
        assert [line for line in webhooks.log() if line["level"] in {"warning", "error"}] == [], "no right is missing"
    with hooked.controller(name="after"):
        until(lambda: jane.digests() == [digest])
        until(lambda: mark(jane, answer).startswith("20"))
