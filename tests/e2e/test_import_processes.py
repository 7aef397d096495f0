"""Import requests and the processes that serve them: one answers and another leads, one is killed, and somebody posts
reviews who is no API server.
"""

from __future__ import annotations

import json
import re
import ssl
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median
from typing import Any

import pytest

from dev.controller import NAMESPACE, SERVICE_ACCOUNT, Controller, webhook_rights
from dev.images import image, push
from dev.process import free_port
from imagestreams.core.admission import DOORS
from tests.e2e.beside import RegistryBeside
from tests.e2e.hooked import HOST, Hooked, People, Somebody, mark, recorded
from tests.e2e.proxy import ApiProxy
from tests.requests.openshift import read_answer
from tests.waiting import until

pytestmark = pytest.mark.cluster

CONTROLLER = f"--webhook-controller=system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"
OTHER = "other.test"
MARK = r"{.metadata.annotations.imagestreams\.dev/carried-out}"
KEYS = f"/api/v1/namespaces/{NAMESPACE}/secrets/imagestreams-webhook"
IMPORTS = 10
SOON = 5.0  # seconds, on a machine that does much else; the bar for one that does not is 1


@pytest.fixture
def path() -> str:
    """A repository that no other test has: registries outlive tests here."""
    return f"processes/{time.monotonic_ns()}"


# --- one answers, another leads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", ["a standby", "a process for webhooks alone"])
def test_what_one_replica_answers_another_carries_out_at_once(hooked: Hooked, people: People, path: str, answers: str):
    """From the answer to the create call until the stream's spec and status show it."""
    jane = people()
    with ExitStack() as stack:
        leader = stack.enter_context(hooked.controller(port=free_port(), name="leader", lease="15s"))
        until(lambda: leader.metrics()["imagestreams_leader"] == 1, seconds=30)
        if answers == "a standby":
            other = stack.enter_context(hooked.controller(name="standby", lease="15s"))
        else:
            rights = webhook_rights(hooked.plane)
            other = stack.enter_context(
                hooked.controller("--webhooks-only", CONTROLLER, kubeconfig=rights, name="webhooks")
            )
        until(hooked.is_reached, seconds=30)
        before = reviews(other)
        seconds = [shown_after(hooked, jane, path, number) for number in range(IMPORTS)]
        assert (reviews(leader), reviews(other) - before) == (0, IMPORTS), "who answers does not lead"
        assert leader.metrics()["imagestreams_leader"] == 1
    print(f"shown after {median(seconds):.3f} s, at most {max(seconds):.3f} s, where {answers} answers")
    assert median(seconds) < SOON


def shown_after(hooked: Hooked, jane: Somebody, path: str, number: int) -> float:
    """Import a new image into a new stream; returns the seconds from the answer until the stream shows all of it."""
    name = f"web-{number}"
    digest = push(hooked.registry, path, f"v{number}", image(text=str(number)))
    request = json.loads(json.dumps(recorded("oc-import-image-first", path=path)).replace(":stable", f":v{number}"))
    request["metadata"]["name"] = name
    answer = jane.post(request)
    began = time.monotonic()
    assert read_answer(answer["status"]).images[0].image.metadata.name == digest
    until(lambda: jane.digests(name=name) == [digest])
    seconds = time.monotonic() - began
    assert jane.stream(name)["spec"]["tags"] == answer["status"]["import"]["spec"]["tags"]
    return seconds


def reviews(controller: Controller) -> float:
    """How many import requests it has answered."""
    name = 'imagestreams_admission_reviews_total{door="imports",operation="CREATE",verdict="patched"}'
    return controller.metrics().get(name, 0)


# --- processes end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "resource", "when"),
    [
        pytest.param("POST", r"/imagestreams$", "before", id="before the stream was written"),
        pytest.param("POST", r"/imagestreams$", "after", id="before it knew that the stream was written"),
        pytest.param("PATCH", r"/imagestreamimports/[^/]+$", "before", id="before the request was marked"),
    ],
)
def test_a_stored_request_is_finished_by_the_next(  # noqa: PLR0917
    hooked: Hooked, people: People, path: str, method: str, resource: str, when: Any
):
    """Kill -9 of the only controller just after it has answered."""
    jane, digest = people(), push(hooked.registry, path, "stable", image(text="one"))
    streams = rf"/namespaces/{jane.namespace}/imagestreams(/web)?$"
    with ApiProxy(hooked.plane) as proxy:
        rights = proxy.kubeconfig(hooked.rights)
        with hooked.controller(kubeconfig=rights, name="killed") as controller:
            until(hooked.is_reached, seconds=30)
            until(lambda: controller.metrics()["imagestreams_leader"] == 1, seconds=30)
            held = proxy.hold(method, rf"/namespaces/{jane.namespace}{resource}", when=when)
            answer = jane.post(recorded("oc-import-image-first", path=path))
            held.wait()
            controller.kill()
            held.release()
        assert mark(jane, answer) == ""
        is_written = jane.request("GET", "imagestreams")["items"] != []
        proxy.requests.clear()
        with hooked.controller(kubeconfig=rights, name="next"):
            until(lambda: mark(jane, answer).startswith("20"), seconds=30)
            until(lambda: jane.digests() == [digest])
        writes = [how for how, what in proxy.requests if how != "GET" and re.search(streams, what)]
    assert writes == ([] if is_written else ["POST"]), "nothing is written twice"
    assert jane.stream()["spec"]["tags"] == answer["status"]["import"]["spec"]["tags"]
    assert jane.request("GET", f"imagestreamimports/{answer['metadata']['name']}")["status"] == answer["status"]


def test_a_webhook_process_killed_while_it_asks_a_registry_is_missed_by_one_client_only(
    hooked: Hooked, people: People, path: str
):
    """Kill -9; the controller lives on, and has nothing that it could write half of."""
    jane, request = people(), importing(path)
    with RegistryBeside() as registry, ThreadPoolExecutor(1) as pool:
        digest = registry.fake.add(path, "stable", image(text="one"))
        webhooks_only = ("--webhooks-only", CONTROLLER, *endpoint(registry))
        rights = webhook_rights(hooked.plane)
        with hooked.controller(*endpoint(registry), port=free_port(), name="survivor") as survivor:
            until(lambda: survivor.metrics()["imagestreams_leader"] == 1, seconds=30)
            with hooked.controller(*webhooks_only, kubeconfig=rights, name="killed") as killed:
                until(hooked.is_reached, seconds=30)
                registry.hold()
                asking = pool.submit(jane.kubectl, "create", "-f", "-", stdin=request, check=False)
                registry.wait()
                killed.kill()
                done = asking.result(40)
            registry.release()
            assert (done.returncode, done.stdout) == (1, "")
            assert 'failed calling webhook "imports.imagestreams.dev"' in done.stderr
            with hooked.controller(*webhooks_only, kubeconfig=rights, name="again"):
                until(hooked.is_reached, seconds=30)
                assert jane.request("GET", "imagestreamimports")["items"] == []
                assert jane.request("GET", "imagestreams")["items"] == []
                name = jane.kubectl("create", "-f", "-", "-o", "name", stdin=request).stdout.strip()
                until(lambda: jane.digests() == [digest])
                jane.kubectl("wait", f"--for=jsonpath={MARK}", "--timeout=20s", name)


def importing(path: str) -> dict[str, Any]:
    """A first import of an image at OTHER."""
    found: dict[str, Any] = json.loads(
        json.dumps(recorded("oc-import-image-first", path=path)).replace(f"{HOST}/", f"{OTHER}/")
    )
    del found["metadata"]["namespace"]
    return found


def endpoint(registry: RegistryBeside) -> tuple[str, ...]:
    """Flags that say where OTHER is; logins may be sent there."""
    return (f"--registry-endpoint={OTHER}={registry.fake.url}", f"--insecure-registry={OTHER}")


# --- reviews of nobody ------------------------------------------------------------------------------------------------


def test_a_forged_review_reads_no_secret_and_asks_no_registry(hooked: Hooked, people: People, path: str):
    """Seen where it would show: at the API server, and at the registry whose login the namespace has.

    A word that may be a token is looked up in the webhook's own Secret, once a second at most; no other is read.
    """
    jane, request = people(), importing(path)
    forged = forged_review(jane, request)
    with (
        RegistryBeside(auth="htpasswd") as registry,
        ApiProxy(hooked.plane) as proxy,
        hooked.controller(*endpoint(registry), kubeconfig=proxy.kubeconfig(hooked.rights), name="forged") as controller,
    ):
        private = registry.fake
        digest = private.add(path, "stable", image(text="one"))
        login = (f"--docker-server={OTHER}", f"--docker-username={private.username}")
        jane.kubectl("create", "secret", "docker-registry", "pull", *login, f"--docker-password={private.password}")
        until(hooked.is_reached, seconds=30)
        until(lambda: controller.metrics()["imagestreams_leader"] == 1, seconds=30)
        token = token_of(hooked)

        def asked() -> list[tuple[str, str]]:
            """Of Jane's namespace, and for Secrets that are not the webhook's own."""
            return [
                (method, path)
                for method, path in proxy.requests
                if f"/namespaces/{jane.namespace}/" in path or ("/secrets/" in path and path != KEYS)
            ]

        for door in ("imports", "imports/", f"imports/{'0' * 64}", f"imports/{token[:-1]}", f"imports/{token}/", ""):
            assert post(hooked.port, door, forged)[0] == 404, door
        for door in set(DOORS) - {"imports"}:
            status, said = post(hooked.port, f"{door}/{token}", forged)
            assert (status, "patch" in said["response"]) == (200, False), door
        assert asked() == []
        assert private.requests == []

        # The very same, asked by who may: then both are seen.
        answer = jane.post(request)
        assert read_answer(answer["status"]).images[0].image.metadata.name == digest
        assert [path for _, path in asked() if path.endswith("/secrets") or "/secrets/" in path]
        assert path in " ".join(private.asked())


def forged_review(jane: Somebody, request: dict[str, Any]) -> dict[str, Any]:
    """What an API server would send if an administrator asked for it."""
    version = {"group": "image.openshift.io", "version": "v1"}
    metadata = {**request["metadata"], "namespace": jane.namespace}
    asked = {
        "uid": "forged",
        "kind": {**version, "kind": "ImageStreamImport"},
        "resource": {**version, "resource": "imagestreamimports"},
        "operation": "CREATE",
        "namespace": jane.namespace,
        "userInfo": {"username": "admin", "groups": ["system:masters"]},
        "object": {**request, "metadata": metadata},
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}


def token_of(hooked: Hooked) -> str:
    """By which the webhooks know the API server, as an administrator may read it."""
    path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/imagestreams"
    found = hooked.plane.request("GET", path)["webhooks"][0]["clientConfig"]["url"]
    return str(found).rpartition("/")[2]


def post(port: int, door: str, review: dict[str, Any]) -> tuple[int, Any]:
    """Status and answer of a review that is posted straight to the webhooks."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    sent = urllib.request.Request(f"https://127.0.0.1:{port}/admit/{door}", json.dumps(review).encode(), method="POST")
    try:
        with opener.open(sent, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None
