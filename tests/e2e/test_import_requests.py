"""Import requests at a keyboard, with the webhook installed: kubectl creates, shows, labels, edits and deletes them,
and is refused in words; three hundred images in one; and a registry that does not answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dev.controller import Controller
from dev.images import Image, digest_of, image, push
from tests.e2e.beside import RegistryBeside
from tests.e2e.editor import edit
from tests.e2e.hooked import HOST, STAMP, TARGET, Hooked, People, Somebody, mark, recorded
from tests.fakes.registry import FakeRegistry
from tests.requests.openshift import REQUESTS, read_answer
from tests.waiting import until

pytestmark = pytest.mark.cluster

QUICK, TARPIT = "quick.test", "tarpit.test"
IMAGES = 300
ETCD = 3 << 19  # bytes of one object


@pytest.fixture(scope="module")
def quick() -> Iterator[FakeRegistry]:
    with RegistryBeside() as registry:
        yield registry.fake


@pytest.fixture(scope="module")
def tarpit() -> Iterator[RegistryBeside]:
    with RegistryBeside() as registry:
        yield registry


@pytest.fixture(scope="module", autouse=True)
def controller(hooked: Hooked, quick: FakeRegistry, tarpit: RegistryBeside) -> Iterator[Controller]:
    served = (f"--registry-endpoint={QUICK}={quick.url}", f"--registry-endpoint={TARPIT}={tarpit.fake.url}")
    with hooked.controller(*served, name="requests") as controller:
        until(hooked.is_reached, seconds=30)
        until(lambda: controller.metrics()["imagestreams_leader"] == 1, seconds=30)
        yield controller


def asking(*images: tuple[str, str]) -> dict[str, Any]:
    """A request to import images into `web`: sources, and the tags that they are for."""
    asked = [{"from": {"kind": "DockerImage", "name": name}, "to": {"name": tag}} for name, tag in images]
    return {
        "apiVersion": "image.openshift.io/v1",
        "kind": "ImageStreamImport",
        "metadata": {"name": "web"},
        "spec": {"import": True, "images": asked},
    }


def allowed(somebody: Somebody, *role: str) -> None:
    """Give somebody more rights in their namespace; returns when they count."""
    kubectl = somebody.hooked.plane.kubectl
    name = f"{somebody.name}-too"
    kubectl("create", "role", name, "-n", somebody.namespace, *role)
    kubectl("create", "rolebinding", name, f"--role={name}", f"--user={somebody.name}", "-n", somebody.namespace)
    _, resources = (text.partition("=")[2].split(",") for text in role)
    verb = role[0].partition("=")[2].split(",")[0]
    until(lambda: somebody.kubectl("auth", "can-i", verb, resources[0], check=False).stdout == "yes\n")


# --- a registry that does not answer ----------------------------------------------------------------------------------


def test_a_registry_that_does_not_answer_is_said_image_by_image_and_the_controller_goes_on(
    people: People, path: str, quick: FakeRegistry, tarpit: RegistryBeside
):
    """kubectl waits for five seconds; whoever was answered later would be told nothing."""
    jane = people()
    fast, slow = quick.add(path, "1", image(text="fast")), tarpit.fake.add(path, "1", image(text="slow"))
    tarpit.hold()
    try:
        request = asking((f"{TARPIT}/{path}:1", "slow"), (f"{QUICK}/{path}:1", "fast"))
        answer = json.loads(created_within("5s", jane, request))
        late, found = answer["status"]["images"]
        assert (late["status"]["reason"], late["status"]["code"]) == ("Timeout", 504)
        assert late["status"]["message"].startswith("the registry did not answer within ")
        assert late["status"]["message"].endswith("; the controller goes on")
        assert found["image"]["metadata"]["name"] == fast

        until(lambda: mark(jane, answer))
        until(lambda: jane.digests("fast") == [fast])
        assert jane.digests("slow") == []
        name = answer["metadata"]["name"]
        row = jane.kubectl("get", "imagestreamimport", name, "--no-headers").stdout.split()
        assert row[:5] == [name, "web", "true", "1/2", "Partial"]
        assert row[5] == mark(jane, answer) != ""
        assert "did not answer" in jane.kubectl("describe", "imagestreamimport", name).stdout
    finally:
        tarpit.release()
    until(lambda: jane.digests("slow") == [slow], seconds=60)
    jane.kubectl("wait", "--for=condition=Ready", "--timeout=20s", "imagestream/web")


def created_within(timeout: str, jane: Somebody, request: dict[str, Any]) -> str:
    """What kubectl prints. On a busy machine it may itself be late for an answer that was given in time."""
    for _ in range(3):
        arguments = ("create", "-f", "-", "-o", "json", f"--request-timeout={timeout}")
        done = jane.kubectl(*arguments, stdin=request, check=False)
        if done.returncode == 0:
            return done.stdout
    raise AssertionError(done.stderr)


# --- size -------------------------------------------------------------------------------------------------------------


def content(number: int, *, layers: int, texts: int) -> Image:
    """An image of which so much is to be said."""
    env = [f"VARIABLE_{each}={'x' * 3_000}" for each in range(texts)]
    labels = {f"label-{each}": "y" * 3_000 for each in range(texts)}
    found = image(text=str(number), config={"Env": env, "Labels": labels})
    manifest = json.loads(found.manifest)
    layer = manifest["layers"][0]
    manifest["layers"] = [{**layer, "digest": digest_of(f"{number}/{each}".encode())} for each in range(layers)]
    return replace(found, manifest=json.dumps(manifest).encode())


@pytest.mark.parametrize(
    ("layers", "texts", "is_cut"),
    [
        pytest.param(1, 0, False, id="small"),
        pytest.param(40, 0, True, id="each as large as it is kept"),
        pytest.param(120, 20, True, id="each as large as an answer may be, nearly"),
    ],
)
def test_three_hundred_images_in_one_request(  # noqa: PLR0917
    people: People, path: str, quick: FakeRegistry, layers: int, texts: int, is_cut: bool
):
    jane, path = people(), f"{path}/{layers}"
    contents = [content(number, layers=layers, texts=texts) for number in range(IMAGES)]
    digests = {f"v{number}": quick.add(path, f"v{number}", each) for number, each in enumerate(contents)}
    tags = list(digests)

    answer = jane.post(asking(*((f"{QUICK}/{path}:{tag}", tag) for tag in tags)))

    found = answer["status"]["images"]
    assert [entry["status"]["status"] for entry in found] == ["Success"] * IMAGES
    assert [entry["image"]["metadata"]["name"] for entry in found] == list(digests.values())
    assert len(read_answer(answer["status"]).images or ()) == IMAGES
    said = ["imagestreams.dev/left-out" in entry["image"]["metadata"].get("annotations", {}) for entry in found]
    assert any(said) is is_cut, "what is left out is said, and nothing is while there is room"
    until(lambda: mark(jane, answer))
    stored = jane.request("GET", f"imagestreamimports/{answer['metadata']['name']}")
    size = len(json.dumps(stored, separators=(",", ":")).encode())
    print(f"{size} bytes of request and answer")
    assert size < ETCD
    assert stored["status"] == answer["status"]

    def served() -> dict[str, str]:
        tags = jane.stream().get("status", {}).get("tags", [])
        return {tag["tag"]: tag["items"][0]["image"] for tag in tags if tag.get("items")}

    until(lambda: served() == digests)
    assert [tag["name"] for tag in jane.stream()["spec"]["tags"]] == tags


# --- kubectl ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def jane(people: People) -> Somebody:
    """An editor who may also change requests, which the role `edit` does not give."""
    jane = people()
    allowed(jane, "--verb=patch,update", "--resource=imagestreamimports.image.openshift.io")
    return jane


@pytest.fixture
def stored(hooked: Hooked, jane: Somebody, path: str) -> str:
    """A request of one image that is there and one that is not, answered, carried out and imported; its name."""
    push(hooked.registry, path, "stable", image(text="one"))
    answer = jane.post(asking((f"{HOST}/{path}:stable", "latest"), (f"{HOST}/{path}:gone", "gone")))
    until(lambda: mark(jane, answer))
    until(lambda: len(jane.digests()) == 1)
    return str(answer["metadata"]["name"])


REFUSED = [
    (f"annotate {{}} --overwrite {STAMP}=admin", f"metadata.annotations[{STAMP}]"),
    (f"annotate {{}} --overwrite {TARGET}=other", f"metadata.annotations[{TARGET}]"),
    ("annotate {} imagestreams.dev/carried-out-", "metadata.annotations[imagestreams.dev/carried-out]"),
    ('patch {} --type=merge -p {{"spec":{{"import":false}}}}', "spec"),
    ('patch {} --type=merge -p {{"status":{{"images":null}}}}', "status"),
    ('patch {} --type=json -p [{{"op":"remove","path":"/status"}}]', "status"),
    ('patch {} --type=merge -p {{"metadata":{{"labels":{{"a":"b"}}}},"spec":{{"import":false}}}}', "spec"),
]


@pytest.mark.parametrize(("command", "what"), REFUSED)
def test_what_was_asked_and_answered_cannot_be_changed(jane: Somebody, stored: str, command: str, what: str):
    before = jane.request("GET", f"imagestreamimports/{stored}")
    done = jane.kubectl(*command.format(f"imagestreamimports/{stored}").split(), check=False)
    assert (done.returncode, done.stderr) == (1, f"Error from server (Forbidden): {refusal(what)}\n")
    assert jane.request("GET", f"imagestreamimports/{stored}") == before


def refusal(what: str) -> str:
    return (
        f'admission webhook "imports.imagestreams.dev" denied the request: {what} cannot be changed: '
        "an ImageStreamImport is a request that was answered; create another"
    )


@pytest.mark.parametrize(
    ("script", "what"),
    [
        ("found['spec']['images'].pop()", "spec"),
        ("found['status']['images'][1]['status'] = {'status': 'Success', 'metadata': {}}", "status"),
        (f"found['metadata']['annotations'][{STAMP!r}] = 'mine'", f"metadata.annotations[{STAMP}]"),
    ],
)
def test_nor_can_it_with_an_editor(jane: Somebody, stored: str, tmp_path: Path, script: str, what: str):
    before = jane.request("GET", f"imagestreamimports/{stored}")
    whose = (f"--namespace={jane.namespace}", "--as=jane")
    done, seen = edit(jane.hooked.plane, tmp_path, script, *whose, f"imagestreamimport/{stored}")
    assert done.returncode == 1
    assert refusal(what) in done.stderr + seen
    assert jane.request("GET", f"imagestreamimports/{stored}") == before


def test_labels_and_the_annotations_of_others_can(jane: Somebody, stored: str, tmp_path: Path):
    request = f"imagestreamimports/{stored}"
    before = jane.request("GET", request)
    jane.kubectl("label", request, "team=shop", "note=mine")
    jane.kubectl("label", request, "note-")
    jane.kubectl("annotate", request, "example.com/note=ours")
    jane.kubectl("patch", request, "--type=json", "-p", '[{"op":"add","path":"/metadata/labels/a","value":"b"}]')
    whose = (f"--namespace={jane.namespace}", "--as=jane")
    done, _ = edit(jane.hooked.plane, tmp_path, "found['metadata']['labels']['edited'] = 'yes'", *whose, request)
    assert (done.returncode, done.stdout) == (0, f"imagestreamimport.image.openshift.io/{stored} edited\n")
    after = jane.request("GET", request)
    assert after["metadata"]["labels"] == {"team": "shop", "a": "b", "edited": "yes"}
    assert after["metadata"]["annotations"] == before["metadata"]["annotations"] | {"example.com/note": "ours"}
    assert (after["spec"], after["status"]) == (before["spec"], before["status"])


@pytest.mark.parametrize("name", sorted(REQUESTS))
def test_a_request_of_whatever_client_can_be_labelled(hooked: Hooked, jane: Somebody, path: str, name: str):
    """Also by one that reads it, adds the label and writes all of it back, less the nulls that others have sent."""
    push(hooked.registry, path, "stable", image(text="one"))
    asked = f"imagestreamimports/{jane.post(recorded(name, path=path))['metadata']['name']}"
    assert jane.kubectl("label", asked, "team=shop").stdout.endswith(" labeled\n")
    until(lambda: is_at_rest(jane.request("GET", asked)))
    found = without_nulls(jane.request("GET", asked))
    found["metadata"]["labels"]["mine"] = "true"
    assert jane.request("PUT", asked, found)["metadata"]["labels"] == {"team": "shop", "mine": "true"}


def is_at_rest(request: dict[str, Any]) -> bool:
    """Whether the controller has nothing more to write."""
    return not request["spec"].get("import") or "imagestreams.dev/carried-out" in request["metadata"]["annotations"]


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def test_get_and_describe_show_what_became_of_it(jane: Somebody, stored: str, path: str):
    wide = jane.kubectl("get", "imagestreamimports", "-o", "wide").stdout.splitlines()
    assert wide[0].split() == ["NAME", "STREAM", "IMPORT", "IMAGES", "RESULT", "CARRIED-OUT", "AGE"]
    [row] = [line.split() for line in wide[1:]]
    assert row[:5] == [stored, "web", "true", "1/2", "Partial"]
    assert row[5].endswith("Z")
    described = jane.kubectl("describe", "imagestreamimport", stored).stdout
    [digest] = jane.digests()
    for words in (
        "Annotations:  imagestreams.dev/carried-out: 20",
        '"username":"jane"',
        f"{HOST}/{path}@{digest}",
        f'container image "{HOST}/{path}:gone" not found',
        "Result:  Partial",
    ):
        assert words in described, described


def test_explain_says_what_it_is(jane: Somebody):
    for field, words in (
        ("", "asks for images to be imported into an ImageStream"),
        (".status", "the controller goes on with it"),
        (".status.images.image", "by its digest"),
    ):
        text = " ".join(jane.kubectl("explain", f"imagestreamimport{field}").stdout.split())
        assert words in text, text


def test_a_deleted_request_takes_nothing_back(jane: Somebody, stored: str):
    spec, digests = jane.stream()["spec"], jane.digests()
    said = jane.kubectl("delete", "imagestreamimport", stored, "--timeout=10s").stdout
    assert said == f'imagestreamimport.image.openshift.io "{stored}" deleted from {jane.namespace} namespace\n'
    assert jane.kubectl("get", "imagestreamimports", "-o", "name").stdout == ""
    assert (jane.stream()["spec"], jane.digests()) == (spec, digests)


def test_applied_twice_it_is_asked_twice(hooked: Hooked, jane: Somebody, path: str):
    """Client-side apply finds nothing of that name, ever; server-side apply is for a name, which a request has not."""
    push(hooked.registry, path, "stable", image(text="one"))
    request = asking((f"{HOST}/{path}:stable", "latest"))
    for _ in range(2):
        said = jane.kubectl("apply", "-f", "-", stdin=request).stdout
        assert said.startswith("imagestreamimport.image.openshift.io/web-")
    assert len(jane.kubectl("get", "imagestreamimports", "-o", "name").stdout.split()) == 2


# --- rights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "resource", "missing"),
    [
        pytest.param("get", "pods", 'create resource "imagestreamimports"', id="neither"),
        pytest.param("update", "imagestreams.image.openshift.io", 'create resource "imagestreamimports"', id="edit"),
        pytest.param("create", "imagestreamimports.image.openshift.io", 'update resource "imagestreams"', id="ask"),
    ],
)
def test_who_lacks_a_right_is_told_which_and_no_registry_is_asked(  # noqa: PLR0917
    people: People, path: str, quick: FakeRegistry, verb: str, resource: str, missing: str
):
    jane, mallory = people(), people("mallory", "view")
    quick.add(path, "1", image(text="one"))
    stream = {"apiVersion": "image.openshift.io/v1", "kind": "ImageStream", "metadata": {"name": "web"}}
    jane.request("POST", "imagestreams", stream)
    allowed(mallory, f"--verb={verb}", f"--resource={resource}")

    done = mallory.kubectl("create", "-f", "-", stdin=asking((f"{QUICK}/{path}:1", "latest")), check=False)

    assert done.returncode == 1
    assert f'User "mallory" cannot {missing} in API group "image.openshift.io"' in done.stderr
    assert not [request for request in quick.asked() if path in request]
    assert jane.request("GET", "imagestreamimports")["items"] == []
    assert "tags" not in jane.stream().get("spec", {})
