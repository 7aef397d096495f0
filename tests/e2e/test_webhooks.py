"""The webhooks of a real controller, called by a real API server: import requests as real clients send them, by users
with the roles that are shipped.
"""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dev.images import image, index, push
from tests.e2e.hooked import HOST, STAMP, TARGET, Hooked, People, Refused, mark, recorded
from tests.requests.openshift import REQUESTS, read_answer
from tests.requests.reader import Reader
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("hooked_controller")]

# --- requests as real clients send them -------------------------------------------------------------------------------


def test_a_first_import_is_answered_at_once_and_stored_within_a_second(
    hooked: Hooked, people: People, path: str, go: Reader
):
    jane, digest = people(), push(hooked.registry, path, "stable", image(text="one"))

    answer = jane.post(recorded("oc-import-image-first", path=path))
    began = time.monotonic()
    until(lambda: jane.digests() == [digest])
    seconds = time.monotonic() - began

    assert seconds < 1.0
    assert f"{digest}" in str(go(answer))
    found = read_answer(answer["status"])
    (first,) = found.images
    assert first.status.status == "Success"
    assert first.image.metadata.name == digest
    assert [layer.name for layer in first.image.docker_image_layers] != []
    assert found.import_.spec.tags == read_answer({**answer["status"], "import": jane.stream()}).import_.spec.tags
    assert answer["metadata"]["name"].startswith("web-")


def test_an_import_of_a_stream_that_is_there_keeps_the_tags_mode(hooked: Hooked, people: People, path: str):
    jane = people()
    digest = push(hooked.registry, path, "stable", index([image(text="one"), image(architecture="arm64", text="one")]))
    tag = {
        "name": "latest",
        "from": {"kind": "DockerImage", "name": f"{HOST}/{path}:stable"},
        "importPolicy": {"importMode": "PreserveOriginal"},
    }
    stream = {"apiVersion": "image.openshift.io/v1", "kind": "ImageStream", "metadata": {"name": "web"}}
    jane.request("POST", "imagestreams", {**stream, "spec": {"tags": [tag]}})
    until(lambda: jane.digests() == [digest])

    version = jane.stream()["metadata"]["resourceVersion"]
    answer = jane.post(recorded("oc-import-image-again", path=path, version=version))

    assert read_answer(answer["status"]).images[0].image.metadata.name == digest, "the index, not one platform's image"
    until(lambda: mark(jane, answer))
    assert jane.stream()["spec"]["tags"][0]["importPolicy"]["importMode"] == "PreserveOriginal"
    assert jane.digests() == [digest]


def test_an_outdated_version_is_a_conflict(hooked: Hooked, people: People, path: str):
    jane, digest = people(), push(hooked.registry, path, "stable", image(text="one"))
    jane.post(recorded("oc-import-image-first", path=path))
    until(lambda: jane.digests() == [digest])
    with pytest.raises(Refused, match="was updated") as refused:
        jane.post(recorded("oc-import-image-again", path=path, version="1"))
    assert (refused.value.code, refused.value.reason) == (409, "Conflict")


@pytest.mark.parametrize("name", sorted(REQUESTS))
def test_every_recorded_request_gets_an_answer_that_its_client_can_read(
    hooked: Hooked, people: People, path: str, name: str, go: Reader
):
    jane = people()
    push(hooked.registry, path, "stable", image(text="one"))
    answer = jane.post(recorded(name, path=path))
    shown = go(answer)
    assert not [line for line in shown.errors if "unmarshal" in line or "unable to read image metadata" in line], shown
    found = read_answer(answer["status"])
    asked = answer["spec"].get("images") or []
    assert len(found.images or ()) == len(asked)
    assert bool(found.import_) == bool(answer["spec"].get("import"))


@pytest.mark.parametrize("request_", ["oc-import-image-dry-run", "dryRun=All"])
def test_a_dry_run_writes_nothing(hooked: Hooked, people: People, path: str, request_: str):
    jane, digest = people(), push(hooked.registry, path, "stable", image(text="one"))
    if request_ == "dryRun=All":
        answer = jane.post(recorded("oc-import-image-first", path=path), dryRun="All")
    else:
        answer = jane.post(recorded(request_, path=path))
    assert read_answer(answer["status"]).images[0].image.metadata.name == digest
    # What is asked for after it is there; what it asked for is not.
    jane.post({**recorded("oc-import-image-first", path=path), "metadata": {"name": "other"}})
    until(lambda: jane.digests(name="other") == [digest])
    assert jane.digests() == []
    with pytest.raises(Refused) as refused:
        jane.stream()
    assert refused.value.code == 404


# --- rights -----------------------------------------------------------------------------------------------------------


def test_who_may_ask_but_not_write_streams_is_told_which_right_is_missing(hooked: Hooked, people: People, path: str):
    plane = hooked.plane
    plane.kubectl("create", "clusterrole", f"asker-{hooked.port}", "--verb=create", "--resource=imagestreamimports")
    mallory = people("mallory", f"asker-{hooked.port}")
    push(hooked.registry, path, "stable", image(text="one"))
    with pytest.raises(Refused) as refused:
        mallory.post(recorded("oc-import-image-first", path=path))
    assert (refused.value.code, refused.value.reason) == (403, "Forbidden")
    assert refused.value.message.endswith(
        'imagestreams.image.openshift.io "web" is forbidden: User "mallory" cannot create resource "imagestreams" in '
        f'API group "image.openshift.io" in the namespace "{mallory.namespace}"'
    )
    answer = mallory.post(recorded("oc-import-image-dry-run", path=path))
    assert read_answer(answer["status"]).images[0].status.status == "Success", "looking needs no more"


def test_what_a_user_writes_into_stamp_and_status_is_overwritten(hooked: Hooked, people: People, path: str):
    jane, digest = people(), push(hooked.registry, path, "stable", image(text="one"))
    request = recorded("oc-import-image-first", path=path)
    forged = {
        "requester": {"username": "admin", "groups": ["system:masters"]},
        "at": "2026-01-01T00:00:00Z",
        "seal": "",
    }
    request["metadata"]["annotations"] = {STAMP: json.dumps(forged), TARGET: "other", "mine": "stays"}
    request["status"] = {"images": [{"status": {"status": "Success"}, "tag": "forged"}]}
    answer = jane.post(request)
    annotations = answer["metadata"]["annotations"]
    assert json.loads(annotations[STAMP])["requester"]["username"] == "jane"
    assert (annotations[TARGET], annotations["mine"]) == ("web", "stays")
    assert answer["status"]["images"][0]["tag"] == "stable"
    until(lambda: jane.digests() == [digest])


def test_an_answer_cannot_be_changed(hooked: Hooked, people: People, path: str):
    jane = people()
    hooked.plane.kubectl(
        "create", "clusterrole", f"changer-{hooked.port}", "--verb=update,patch,get", "--resource=imagestreamimports"
    )
    hooked.plane.kubectl(
        "create", "rolebinding", "changer", f"--clusterrole=changer-{hooked.port}", "--user=jane", "-n", jane.namespace
    )
    push(hooked.registry, path, "stable", image(text="one"))
    stored = jane.post(recorded("oc-import-image-dry-run", path=path))
    name = stored["metadata"]["name"]
    stored["spec"]["import"] = True
    with pytest.raises(Refused, match="create another") as refused:
        jane.request("PUT", f"imagestreamimports/{name}", stored)
    assert refused.value.code == 403
    stored["spec"]["import"] = False
    stored["metadata"]["labels"] = {"mine": "true"}
    assert jane.request("PUT", f"imagestreamimports/{name}", stored)["metadata"]["labels"] == {"mine": "true"}


def test_a_review_that_somebody_else_posts_is_not_even_read(hooked: Hooked):
    review = {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": "1", "operation": "CREATE", "userInfo": {"username": "admin"}, "object": REQUESTS["nulls"]},
    }
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    for door in ("imports", "imports/", "imports/" + "0" * 64, "pinning", ""):
        url = f"https://127.0.0.1:{hooked.port}/admit/{door}"
        with pytest.raises(urllib.error.HTTPError) as refused:
            opener.open(urllib.request.Request(url, json.dumps(review).encode(), method="POST"), timeout=10)
        refused.value.close()
        assert refused.value.code == 404


def test_a_request_that_is_applied_server_side_is_refused_in_words(hooked: Hooked, people: People, path: str):
    request = recorded("oc-import-image-first", path=path)
    request["metadata"]["namespace"] = people().namespace
    done = hooked.plane.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(request), check=False)
    assert done.returncode == 1
    assert "use kubectl create -f" in done.stderr, done.stderr


def test_an_impatient_client_is_told_of_each_image(hooked: Hooked, people: People, path: str):
    jane = people()
    digest = push(hooked.registry, path, "stable", image(text="one"))
    request = recorded("oc-import-image-dry-run", path=path)
    answer = jane.post(request, timeout="8s")
    assert read_answer(answer["status"]).images[0].image.metadata.name == digest


def test_twenty_imports_of_one_stream_at_once(hooked: Hooked, people: People, path: str):
    jane = people()
    digests = {f"v{number}": push(hooked.registry, path, f"v{number}", image(text=str(number))) for number in range(20)}

    def ask(tag: str) -> dict[str, Any]:
        text = json.dumps(recorded("oc-import-image-first", path=path)).replace(":stable", f":{tag}")
        return jane.post(json.loads(text.replace('"latest"', f'"{tag}"')))

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, digests))
    assert all(read_answer(answer["status"]).images[0].status.status == "Success" for answer in answers)
    for tag, digest in digests.items():
        until(lambda tag=tag, digest=digest: jane.digests(tag) == [digest])
