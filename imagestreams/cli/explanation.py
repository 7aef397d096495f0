"""The steps of `imagestreams explain`: what each part of the importer makes of one reference, in words and as facts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from imagestreams.core import keychain
from imagestreams.core.duration import show_duration
from imagestreams.core.lookup import Described, Description, ImportMode, Lookup, Resolved
from imagestreams.core.policy import Place, Policy, Refused, places_for, transport_for
from imagestreams.core.reference import DEFAULT_TAG, DOCKER_HUB, ImageReference
from imagestreams.registry.errors import Exhausted, RegistryError

if TYPE_CHECKING:
    from imagestreams.cli.registries import Chosen
    from imagestreams.core.manifest import Platform
    from imagestreams.core.wish import ImportRules
    from imagestreams.registry.client import RegistryClient
    from imagestreams.registry.messages import Step as Request


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked about: the text as it was written, and what a tag would say beside it."""

    text: str
    reference: ImageReference
    insecure: bool
    mode: ImportMode
    prefer: Platform | None


@dataclass(frozen=True, slots=True)
class Step:
    """One numbered step: for people lines, for programs facts."""

    title: str
    lines: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Explanation:
    reference: str
    steps: tuple[Step, ...]
    is_resolved: bool


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    message: str
    retryable: bool
    until: str = ""


async def explain(wish: Wish, given: Chosen, timeout: float | None) -> Explanation:
    """Do for a reference what the importer does, and tell of it.

    Args:
        wish: the reference.
        given: what flags and files say of registries and logins.
        timeout: seconds for all requests together; None: as long as they take.
    """
    steps = [_reading(wish)]
    places = places_for(given.policy, wish.reference, insecure=wish.insecure)
    steps.append(_rules(wish, given.policy, places))
    if isinstance(places, Refused):
        steps.append(_failed(_Failure(places.reason, places.message, retryable=False), given.rules, wish.reference))
        return Explanation(wish.text, tuple(steps), is_resolved=False)
    steps.append(_logins(places, given.entries))
    requests: list[Request] = []
    async with given.client(given.quota(), requests.append) as client:
        asking = _Asking(client, wish, given, requests)
        try:
            async with asyncio.timeout(timeout):
                outcome = await asking.ask(places)
        except TimeoutError:
            words = f"there was no answer within {_seconds(timeout or 0)}"
            outcome = _Failure("Timeout", words, retryable=True)
            asking.told(places[-1].transport.host)
    steps += asking.steps
    if isinstance(outcome, _Failure):
        steps.append(_failed(outcome, given.rules, wish.reference))
    else:
        steps.append(_found(outcome, asking.described))
    return Explanation(wish.text, tuple(steps), is_resolved=not isinstance(outcome, _Failure))


# ---- reading and rules ----


def _reading(wish: Wish) -> Step:
    reference = wish.reference
    lines = [f"{wish.text} is the image {reference.repository}{_target(reference)}."]
    host = f"The registry is {reference.host}"
    if not reference.registry:
        host += ", Docker Hub, as none is named"
    elif reference.registry != reference.host:
        host += f", which {reference.registry} is another name of"
    lines.append(f"{host}.")
    if reference.host == DOCKER_HUB and not reference.namespace:
        lines.append(f"The repository is {reference.path}: Docker Hub keeps names without a slash in library.")
    else:
        lines.append(f"The repository is {reference.path}.")
    if reference.digest:
        ignored = f"; the tag {reference.tag} beside it is not looked at" if reference.tag else ""
        lines.append(f"It is named by digest, so it is imported once and never polled{ignored}.")
    elif reference.tag:
        lines.append(f"The tag is {reference.tag}.")
    else:
        lines.append(f"The tag is {DEFAULT_TAG}, as neither a tag nor a digest is named.")
    facts = {
        "host": reference.host,
        "repository": reference.path,
        "tag": "" if reference.digest else reference.tag or DEFAULT_TAG,
        "digest": reference.digest,
    }
    return Step("How the reference is read", tuple(lines), facts)


def _target(reference: ImageReference) -> str:
    return f"@{reference.digest}" if reference.digest else f":{reference.tag or DEFAULT_TAG}"


def _rules(wish: Wish, policy: Policy, places: tuple[Place, ...] | Refused) -> Step:
    if isinstance(places, Refused):
        facts: dict[str, Any] = {"allowed": False, "reason": places.reason, "message": places.message}
        return Step("What the rules say", (f"It must not be asked for ({places.reason}): {places.message}.",), facts)
    lines = [_permission(wish, policy)]
    if len(places) > 1:
        lines.append(f"There are {len(places)} places to ask, one after the other until one has the image.")
    for number, place in enumerate(places, start=1):
        lines.append(f"{_numbered(number, places)}{_place(place, wish.reference)}")
    return Step("What the rules say", tuple(lines), {"allowed": True, "places": [_place_facts(p) for p in places]})


def _permission(wish: Wish, policy: Policy) -> str:
    blocked = "No pattern blocks it" if policy.blocked else "Nothing is blocked"
    if not policy.allowed:
        return f"{blocked}, and every registry is allowed."
    alone = (replace(policy, allowed=(pattern,), blocked=()) for pattern in policy.allowed)
    matching = [
        each.allowed[0]
        for each in alone
        if not isinstance(transport_for(each, wish.reference, insecure=wish.insecure), Refused)
    ]
    by = f"the pattern {matching[0]} allows it" if matching else "a mirror of it may be asked"
    return f"{blocked}, and {by}."


def _place(place: Place, reference: ImageReference) -> str:
    transport = place.transport
    words = [f"{place.reference.repository} is asked at {transport.endpoint}"]
    if transport.proxy:
        words.append(f"through the proxy {_proxy(transport.proxy)}")
    if transport.insecure:
        words.append("TLS is not verified there, and plain http is tried where https fails")
    elif transport.endpoint.startswith("http://"):
        words.append("in plain http")
    if transport.ca_file or transport.ca:
        words.append("its own certificate authorities are trusted, too")
    if not transport.credentials:
        words.append("no login is sent there, as the connection is not safe and no administrator lists it as insecure")
    if transport.listed:
        words.append("an administrator lists it, so any address of it is good")
    if place.recorded.repository != reference.repository:
        words.append(f"what it has is recorded as {place.recorded.repository}")
    return "; ".join(words) + "."


def _place_facts(place: Place) -> dict[str, Any]:
    transport = place.transport
    return {
        "repository": place.reference.repository,
        "endpoint": transport.endpoint,
        "insecure": transport.insecure,
        "credentials": transport.credentials,
        "listed": transport.listed,
        "proxy": _proxy(transport.proxy),
        "recorded": place.recorded.repository,
    }


def _proxy(url: str) -> str:
    """A proxy without what may be a password."""
    if not url:
        return ""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}"


# ---- logins ----


def _logins(places: Sequence[Place], entries: Sequence[keychain.Entry]) -> Step:
    title = "Which logins are for it"
    if not entries:
        words = "None are given (--credentials FILE), so every registry is asked anonymously."
        return Step(title, (words,), {"logins": []})
    lines: list[str] = []
    facts: list[dict[str, Any]] = []
    for number, place in enumerate(places, start=1):
        before = _numbered(number, places)
        explained = keychain.explain(entries, place.reference)
        if not any(each.is_tried for each in explained):
            lines.append(f"{before}None of the {len(entries)} given is for {place.reference.repository}: anonymous.")
        for each in explained:
            is_sent = each.is_tried and place.transport.credentials
            verdict = "tried" if is_sent else "not sent" if each.is_tried else "not used"
            lines.append(f"{before}{each.entry.key} of {each.entry.credential.secret}: {verdict}, as {each.why}.")
            facts.append(
                {
                    "place": place.reference.repository,
                    "key": each.entry.key,
                    "secret": each.entry.credential.secret,
                    "tried": is_sent,
                    "why": each.why,
                }
            )
        if not place.transport.credentials and any(each.is_tried for each in explained):
            lines.append(f"{before}No login is sent to {place.transport.endpoint}; see above.")
    return Step(title, tuple(lines), {"logins": facts})


# ---- asking ----


class _Asking:
    """Asks the places in their order, and keeps what was said."""

    def __init__(self, client: RegistryClient, wish: Wish, given: Chosen, requests: list[Request]) -> None:
        self._client, self._wish, self._given, self._requests = client, wish, given, requests
        self._told = 0
        self.steps: list[Step] = []
        self.described: Mapping[str, Any] = {}

    async def ask(self, places: Sequence[Place]) -> Resolved | _Failure:
        failure = _Failure("Unreachable", "there is no place to ask", retryable=False)
        for place in places:
            found = await self._at(place)
            self.told(place.transport.host)
            if isinstance(found, Resolved):
                return found
            failure = found
        return failure

    async def _at(self, place: Place) -> Resolved | _Failure:
        wish = self._wish
        prefer = wish.prefer or self._given.rules.legacy_platform
        logins = keychain.candidates(self._given.entries, place.reference)
        lookup = Lookup(
            reference=place.reference,
            transport=place.transport,
            credentials=logins,
            mode=wish.mode,
            prefer=prefer if wish.mode is ImportMode.LEGACY else None,
            recorded=place.recorded,
        )
        try:
            answer = await self._client.answer(lookup)
        except Exhausted as error:
            return _Failure(error.reason, error.message, retryable=True, until=f"{error.until:%Y-%m-%d %H:%M:%S} UTC")
        except RegistryError as error:
            return _Failure(error.reason, error.message, error.retryable)
        if not isinstance(answer, Resolved):
            raise TypeError(f"a lookup is answered by an image, not by {type(answer)}")
        await self._describe(place, answer)
        return answer

    async def _describe(self, place: Place, answer: Resolved) -> None:
        """Ask what the image is. That it cannot be told does not make the lookup a failure."""
        pinned = place.reference.pinned(answer.served.digest)
        logins = keychain.candidates(self._given.entries, place.reference)
        try:
            described = await self._client.answer(Description(pinned, place.transport, logins))
        except RegistryError:
            return
        if isinstance(described, Described):
            self.described = msgspec.json.decode(described.body, type=dict[str, Any])

    def told(self, host: str) -> None:
        """Make a step of the requests that were made since."""
        requests = self._requests[self._told :]
        self._told = len(self._requests)
        lines = [_line(request) for request in requests] or ["No request was made."]
        facts = [
            {
                "method": request.method,
                "url": request.url,
                "outcome": request.outcome,
                "note": request.note,
                "authorization": request.authorization,
            }
            for request in requests
        ]
        self.steps.append(Step(f"What {host} was asked", tuple(lines), {"requests": facts}))


def _line(request: Request) -> str:
    who = f" (as {request.authorization})" if request.authorization else " (anonymously)"
    note = f": {request.note}" if request.note else ""
    return f"{request.method} {request.url}{who} -> {request.outcome}{note}"


# ---- the end ----


def _found(answer: Resolved, described: Mapping[str, Any]) -> Step:
    served, image = answer.served.digest, answer.served.image
    pull_spec = str(answer.recorded.pinned(image))
    media_type = str(described.get("dockerImageManifestMediaType") or "")
    platforms = list(_platforms(described))
    lines = [f"The tag records {pull_spec}."]
    if image != served:
        lines.append(f"That is one image of what the registry serves, {served}: the import mode is Legacy.")
    if media_type:
        lines.append(f"The media type is {media_type}.")
    if platforms:
        lines.append(f"It is for {', '.join(platforms)}.")
    facts = {"image": pull_spec, "digest": image, "served": served, "mediaType": media_type, "platforms": platforms}
    return Step("What comes of it", tuple(lines), facts)


def _platforms(described: Mapping[str, Any]) -> Iterator[str]:
    """Of an index each image's, once; of an image what its config says."""
    seen = set()
    for child in described.get("dockerImageManifests") or ():
        words = [child.get("os"), child.get("architecture"), child.get("variant")]
        name = "/".join(str(word) for word in words if word)
        if name and name not in seen:
            seen.add(name)
            yield name
    metadata = described.get("dockerImageMetadata") or {}
    if not seen and isinstance(metadata, dict) and (architecture := metadata.get("Architecture")):
        yield str(architecture)


def _failed(failure: _Failure, rules: ImportRules, reference: ImageReference) -> Step:
    advice = _ADVICE.get(failure.reason, "")
    if failure.until:
        again = f"It is put off, and asked for again at {failure.until}."
    elif failure.retryable:
        base, cap = show_duration(rules.retry_base), show_duration(rules.retry_cap)
        again = f"A controller tries again by itself, first after {base}, then less and less often, up to {cap}."
    elif failure.reason in {"Unauthorized", "Forbidden"}:
        again = "A controller tries again when a pull secret of the namespace changes, or when it is asked to."
    else:
        again = "A controller does not try again by itself before the source or the settings change" + (
            "." if reference.digest else ", its time comes (if it is scheduled), or it is asked to."
        )
    lines = [f"There is no image ({failure.reason}): {failure.message}.", again]
    if advice:
        lines.append(f"What to do: {advice}")
    facts = {
        "reason": failure.reason,
        "message": failure.message,
        "retryable": failure.retryable,
        "until": failure.until,
        "advice": advice,
    }
    return Step("What comes of it", tuple(lines), facts)


_ADVICE: Final = {
    "NotFound": "check the spelling of repository and tag. Some registries say this of what is private, too: then give "
    "a login (in a cluster a pull secret of the namespace, here --credentials).",
    "Unauthorized": "give a login that may pull it: in a cluster a pull secret of the namespace, here --credentials. "
    "The steps above tell which were tried and what was answered.",
    "Forbidden": "the login is known and may not pull this repository; ask its owner for the right, or use another.",
    "NotAnImage": "name an image; what is there is something else, such as a chart, a signature or a manifest of "
    "Docker's first form, which nobody runs any more.",
    "Refused": "if the address is meant, an administrator lists the host: --internal-registry HOST.",
    "TooLarge": "nothing can be done here; no image's manifest is that large.",
    "InvalidAnswer": "the registry, or a proxy in front of it, answers something else than its protocol; tell its "
    "operator.",
    "RateLimited": "wait, or use a login with more left; a mirror or a pull-through cache helps all.",
    "Unavailable": "the registry has a fault of its own; wait, or tell its operator.",
    "Timeout": "see whether the registry can be reached from here, and whether a proxy is needed (--http-proxy, "
    "--https-proxy).",
    "DNS": "check the host's spelling, and whether the name is known here; names of a cluster are known only in it.",
    "TLS": "name the certificate authority (--registry-ca HOST=FILE); for a registry without TLS --insecure-registry "
    "HOST, or importPolicy.insecure on the tag.",
    "Unreachable": "see whether the registry runs, and whether a firewall or a proxy is between.",
    "Blocked": "use another registry, or ask the administrator who set the pattern.",
    "NotAllowed": "use a registry that is allowed, or ask the administrator who set the list.",
}


def _numbered(number: int, places: Sequence[Place]) -> str:
    return f"[{number}] " if len(places) > 1 else ""


def _seconds(timeout: float) -> str:
    return f"{timeout:g}s"
