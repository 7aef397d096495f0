"""Image streams in the shapes that OpenShift ships, exports and teaches, made by rule: the same 200 each time.

    samples = make_samples()
    write_manifests(samples, directory)              # what `kubectl apply -f directory` takes
    for image in sorted(sources(samples)):           # "docker.io/library/postgres:13": what must be served
        content_of(image)                            # the image or index that is pushed under that name
    samples[0].wanted["latest"].digest               # what the tag must come to point to

The shapes: sample streams of the official library (languages by version on ubi8 and ubi9, `latest` as an alias,
annotations for the console), those of OpenShift 3 (rhscl, hidden tags, nulls, `ImageStreamList`), community streams
with Docker Hub's short names, `oc get -o yaml` with a status of another cluster, `oc tag` with digests, references and
tags without a source, and streams with twenty versions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from dev.images import Image, Index, image, index

Manifest = dict[str, Any]

FAMILIES = (
    "nodejs",
    "python",
    "ruby",
    "perl",
    "php",
    "golang",
    "java",
    "openjdk-11",
    "dotnet",
    "dotnet-runtime",
    "nginx",
    "httpd",
    "postgresql",
    "mysql",
    "mariadb",
    "mongodb",
    "redis",
    "jenkins",
    "jenkins-agent-base",
    "fuse7-java",
    "jboss-eap74",
    "sso76",
    "datagrid73",
    "ubi8-openjdk-17",
    "modern-webapp",
)
_OLD_DIGEST = "sha256:" + "0" * 63 + "f"  # what the status of an export says; never served by anybody


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a tag must come to point to.

    Attributes:
        image: the source in full, "docker.io/library/postgres:13"; empty for a tag that no registry is asked for.
        recorded: the pull spec that status must show.
        digest: its digest; empty for a reference.
    """

    image: str
    recorded: str
    digest: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One stream, and what each tag with a source must become."""

    manifest: Manifest
    wanted: Mapping[str, Wanted]

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])


def make_samples() -> list[Sample]:
    """25 families in 8 shapes."""
    return [Sample(made, wanted_of(made)) for family in FAMILIES for made in _shapes(family)]


def sources(samples: Iterable[Sample]) -> set[str]:
    """The images that must be served, each in full."""
    return {wanted.image for sample in samples for wanted in sample.wanted.values() if wanted.image}


@cache
def content_of(name: str) -> Image | Index:
    """The image that "host/path:tag" names: another one for each name, every third for two platforms."""
    repository, _, tag = name.rpartition(":")
    if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 3:
        return _stamped(repository, tag, "amd64")
    return index([_stamped(repository, tag, "amd64"), _stamped(repository, tag, "arm64")])


@cache
def _base(repository: str, architecture: str) -> Image:
    return image(text=repository, architecture=architecture)


def _stamped(repository: str, tag: str, architecture: str) -> Image:
    """The repository's image with the tag in its manifest, so that its blobs are uploaded once."""
    base = _base(repository, architecture)
    manifest = {**json.loads(base.manifest), "annotations": {"org.opencontainers.image.version": tag}}
    return replace(base, manifest=json.dumps(manifest, separators=(",", ":")).encode())


def write_manifests(samples: Iterable[Sample], directory: Path) -> None:
    """As people keep them: single JSON files, YAML with several documents, lists of both kinds."""
    groups: dict[str, list[Manifest]] = {}
    for sample in samples:
        groups.setdefault(sample.manifest["metadata"]["labels"]["shape"], []).append(sample.manifest)
    for shape, manifests in groups.items():
        match shape:
            case "official" | "versions":
                for manifest in manifests:
                    (directory / f"{manifest['metadata']['name']}.json").write_text(json.dumps(manifest, indent=2))
            case "rhel7" | "centos":
                kind = "List" if shape == "rhel7" else "ImageStreamList"
                version = "v1" if shape == "rhel7" else "image.openshift.io/v1"
                listed = {"kind": kind, "apiVersion": version, "metadata": {}, "items": manifests}
                (directory / f"image-streams-{shape}.json").write_text(json.dumps(listed))
            case "export":
                listed = {"apiVersion": "v1", "items": manifests, "kind": "List", "metadata": {"resourceVersion": ""}}
                (directory / "export.yaml").write_text(yaml.safe_dump(listed))
            case _:
                (directory / f"{shape}.yaml").write_text(yaml.safe_dump_all(manifests))


def wanted_of(manifest: Manifest) -> dict[str, Wanted]:
    """What the tags of a manifest must become, by the rules of image references and aliases, written down once more."""
    tags = {tag["name"]: tag for tag in manifest["spec"]["tags"]}
    found: dict[str, Wanted] = {}
    for name, tag in tags.items():
        end = tag
        while end.get("from") and end["from"]["kind"] == "ImageStreamTag":
            end = tags[end["from"]["name"].rpartition(":")[2]]
        if end.get("from"):
            found[name] = _wanted(end)
    return found


def _wanted(tag: Manifest) -> Wanted:
    written = tag["from"]["name"]
    if tag.get("reference"):
        return Wanted("", written, "")
    repository, _, digest = written.partition("@")
    if digest:
        pinned = next(name for name in _pinned_names(repository) if content_of(name).digest == digest)
        return Wanted(pinned, written, digest)
    match = re.fullmatch(r"(.+?)(?::([^:/]+))?", written)
    assert match
    repository, version = match[1], match[2] or "latest"
    full = f"{in_full(repository)}:{version}"
    content = content_of(full)
    digest = content.digest
    if tag.get("importPolicy", {}).get("importMode") == "Legacy" and isinstance(content, Index):
        architecture = tag["annotations"].get("importer.image.openshift.io/prefer-arch", "amd64")
        digest = next(each.digest for each in content.images if each.platform["architecture"] == architecture)
    return Wanted(full, f"{repository}@{digest}", digest)


def in_full(repository: str) -> str:
    """`postgres` is docker.io/library/postgres, `bitnami/redis` docker.io/bitnami/redis."""
    first, slash, _ = repository.partition("/")
    if slash and ("." in first or ":" in first):
        return repository
    return f"docker.io/{repository}" if slash else f"docker.io/library/{repository}"


def _pinned_names(repository: str) -> Iterator[str]:
    yield from (f"{in_full(repository)}:{version}" for version in ("stable", "1.0"))


# --- the shapes -------------------------------------------------------------------------------------------------------


def _shapes(family: str) -> Iterator[Manifest]:
    number = FAMILIES.index(family)
    for shape, make in _MAKERS.items():
        made = make(family, number)
        made["metadata"].setdefault("labels", {})["shape"] = shape
        yield made


def _official(family: str, number: int) -> Manifest:
    """official/nodejs/imagestreams/nodejs-rhel.json: the console's annotations, referencePolicy Local."""
    first = 8 + number % 7
    versions = [(f"{first + 2 * step}", base) for step in range(3) for base in ("ubi8", "ubi9") if (step + number) % 3]
    tags = [
        {
            "name": f"{version}-{base}",
            "annotations": _notes(family, version, f"({base.upper()})", "builder"),
            "from": {"kind": "DockerImage", "name": f"registry.redhat.io/{base}/{family}-{version}:latest"},
            "referencePolicy": {"type": "Local"},
        }
        for version, base in versions
    ]
    latest = {
        "name": "latest",
        "annotations": {
            **_notes(family, "", "(Latest)", "builder"),
            "description": f"Build and run {family} on UBI.\n\nWARNING: By selecting this tag, your application will "
            "automatically update to use the latest version available on OpenShift, including major version updates.\n",
        },
        "from": {"kind": "ImageStreamTag", "name": tags[-1]["name"]},
        "referencePolicy": {"type": "Local"},
    }
    return _stream(family, {"openshift.io/display-name": family.title()}, [latest, *tags])


def _rhel7(family: str, number: int) -> Manifest:
    """OpenShift 3: rhscl images, hidden versions, nulls and empty maps, an empty status."""
    tags = [
        {
            "name": f"{version}",
            "annotations": _notes(family, f"{version}", "(RHEL 7)", "hidden,builder" if hidden else "builder"),
            "from": {"kind": "DockerImage", "name": f"registry.redhat.io/rhscl/{family}-{version}-rhel7:latest"},
            "generation": None,
            "importPolicy": {},
            "referencePolicy": {"type": "Local"},
        }
        for version, hidden in ((number + 4, True), (number + 6, False))
    ]
    made = _stream(f"{family}-rhel7", {}, tags)
    made["metadata"]["creationTimestamp"] = None
    made["spec"] |= {"lookupPolicy": {"local": False}}
    made["status"] = {"dockerImageRepository": ""}
    return made


def _centos(family: str, number: int) -> Manifest:
    """image-streams-centos7.json: quay.io/sclorg, an alias to an alias, the stream named in the alias."""
    versions = (f"{number}", f"{number + 1}.2")
    tags: list[Manifest] = [
        {"name": "latest", "from": {"kind": "ImageStreamTag", "name": f"{family}-c9s:stable"}},
        {"name": "stable", "annotations": None, "from": {"kind": "ImageStreamTag", "name": versions[-1]}},
    ]
    tags += [
        {
            "name": version,
            "annotations": _notes(family, version, "(CentOS Stream 9)", "builder"),
            "from": {"kind": "DockerImage", "name": f"quay.io/sclorg/{family}-{version.replace('.', '')}-c9s:latest"},
        }
        for version in versions
    ]
    return _stream(f"{family}-c9s", {"openshift.io/display-name": f"{family} (CentOS)"}, tags)


def _community(family: str, number: int) -> Manifest:
    """Docker Hub as people write it; one tag looked up on schedule; nothing where nothing is meant."""
    short = family.replace("ubi8-", "")
    owner = ("", "library/", "bitnami/", "docker.io/library/", "docker.io/bitnami/")[number % 5]
    tags: list[Manifest] = [
        {
            "name": "latest",
            "annotations": None,
            "from": {"kind": "DockerImage", "name": f"{owner}{short}" + (":latest" if number % 2 else "")},
            "generation": None,
            "importPolicy": {"scheduled": True},
            "referencePolicy": {"type": ""},
        },
        {"name": f"{number + 1}", "from": {"kind": "DockerImage", "name": f"{owner}{short}:{number + 1}-alpine"}},
    ]
    made = _stream(f"{family}-community", {}, tags)
    made["spec"] |= {"dockerImageRepository": "", "lookupPolicy": {"local": True}}
    return made


def _platforms(family: str, number: int) -> Manifest:
    """Streams for several platforms: the mode by name, the platform by annotation."""
    legacy = {"importer.image.openshift.io/prefer-arch": "arm64", "importer.image.openshift.io/prefer-os": "linux"}
    source = f"quay.io/openshift/{family}"
    tags: list[Manifest] = [
        {
            "name": "arm",
            "annotations": {**_notes(family, "4", "(arm64)", "builder"), **legacy},
            "from": {"kind": "DockerImage", "name": f"{source}:4.{number}"},
            "importPolicy": {"importMode": "Legacy"},
        },
        {
            "name": "all",
            "annotations": {"supports": family},
            "from": {"kind": "DockerImage", "name": f"{source}:4.{number}"},
            "importPolicy": {"importMode": "PreserveOriginal", "insecure": False, "scheduled": bool(number % 2)},
        },
    ]
    return _stream(f"{family}-multiarch", {}, tags)


def _export(family: str, number: int) -> Manifest:
    """`oc get is -o yaml`: filled in by another cluster, with its history, a failure and its registry's address."""
    made = _stream(
        f"{family}-exported",
        {"openshift.io/image.dockerRepositoryCheck": "2023-11-03T09:12:44Z"},
        [
            {
                "annotations": None,
                "from": {"kind": "DockerImage", "name": f"quay.io/shop/{family}:{version}"},
                "generation": 2,
                "importPolicy": {"importMode": "PreserveOriginal", **({"scheduled": True} if number % 3 else {})},
                "name": version,
                "referencePolicy": {"type": "Source"},
            }
            for version in ("1.8", "1.9", "edge")
        ],
    )
    made["metadata"] |= {"creationTimestamp": "2023-02-19T14:01:27Z", "generation": 14}
    made["spec"]["lookupPolicy"] = {"local": False}
    own = f"image-registry.openshift-image-registry.svc:5000/shop/{family}"
    item = {
        "created": "2023-11-03T09:12:44Z",
        "dockerImageReference": f"quay.io/shop/{family}@{_OLD_DIGEST}",
        "generation": 14,
        "image": _OLD_DIGEST,
    }
    failure = {
        "generation": 2,
        "lastTransitionTime": "2023-06-21T06:00:05Z",
        "message": "Internal error occurred: dial tcp: lookup quay.io: no such host",
        "reason": "InternalError",
        "status": "False",
        "type": "ImportSuccess",
    }
    made["status"] = {
        "dockerImageRepository": own,
        "tags": [{"items": [item], "tag": "1.8"}, {"conditions": [failure], "items": None, "tag": "edge"}],
    }
    return made


def _oc_tag(family: str, number: int) -> Manifest:
    """What `oc tag` leaves: a digest, a reference, a tag for pushes only, generation 0."""
    repository = f"quay.io/pinned/{family}"
    frozen = f"{repository}@{content_of(f'{repository}:stable').digest}"
    other = "1.0" if number % 2 else "stable"
    tags: list[Manifest] = [
        {"name": "prod", "from": {"kind": "DockerImage", "name": frozen}, "importPolicy": {"scheduled": True}},
        {"name": "next", "from": {"kind": "DockerImage", "name": f"{repository}:{other}"}, "generation": 0},
        {"name": "mirror", "from": {"kind": "DockerImage", "name": f"nowhere.invalid/{family}:7"}, "reference": True},
        {"name": "pushed", "from": None, "annotations": None, "importPolicy": {}, "referencePolicy": {"type": ""}},
    ]
    return _stream(f"{family}-tagged", {}, tags)


def _versions(family: str, number: int) -> Manifest:
    """Up to twenty versions of one repository, and aliases that people follow."""
    count = 8 + number % 13
    names = [f"{major}.{minor}" for major in (3, 4) for minor in range(10)][:count]
    tags: list[Manifest] = [
        {
            "name": name,
            "annotations": _notes(family, name, "", "builder" if position > count - 4 else "hidden,builder"),
            "from": {"kind": "DockerImage", "name": f"quay.io/all/{family}:{name}"},
            "importPolicy": {"scheduled": True} if position == count - 1 else {},
            "referencePolicy": {"type": "Local"},
        }
        for position, name in enumerate(names)
    ]
    aliases = {"latest": names[-1], "previous": names[-2], "3": "3.7"}
    tags += [{"name": name, "from": {"kind": "ImageStreamTag", "name": tag}} for name, tag in aliases.items()]
    return _stream(f"{family}-versions", {"openshift.io/display-name": f"{family}, every version"}, tags)


_MAKERS: Mapping[str, Callable[[str, int], Manifest]] = {
    "official": _official,
    "rhel7": _rhel7,
    "centos": _centos,
    "community": _community,
    "platforms": _platforms,
    "export": _export,
    "oc-tag": _oc_tag,
    "versions": _versions,
}


def _stream(name: str, annotations: Mapping[str, str], tags: list[Manifest]) -> Manifest:
    return {
        "kind": "ImageStream",
        "apiVersion": "image.openshift.io/v1",
        "metadata": {
            "name": name,
            **({"annotations": dict(annotations)} if annotations else {}),
            "labels": {"samples.operator.openshift.io/managed": "true"},
        },
        "spec": {"tags": tags},
    }


def _notes(family: str, version: str, platform: str, kinds: str) -> dict[str, str]:
    """What the console shows of a tag."""
    notes = {
        "openshift.io/display-name": f"{family.title()} {version} {platform}".strip(),
        "openshift.io/provider-display-name": "Red Hat, Inc.",
        "description": f"Build and run {family} {version} applications. For more information about using this builder "
        f"image, see https://github.com/sclorg/s2i-{family}-container/blob/master/README.md.",
        "iconClass": f"icon-{family}",
        "tags": f"{kinds},{family}",
        "supports": f"{family}:{version}".rstrip(":"),
        "version": version,
        "sampleRepo": f"https://github.com/sclorg/{family}-ex.git",
    }
    return {name: value for name, value in notes.items() if value}
