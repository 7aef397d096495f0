"""Keeps the webhooks trusted: their keys in one Secret, their authorities and paths in the webhook configurations.

Every replica does the same, and they agree: a Secret or configuration is written only as it was read, and a
configuration is read before the Secret whose keys it is given, so that no replica takes back what another has replaced.
One round at the start, after each change of what is watched, and every few minutes; while all is well it writes
nothing but a new token from time to time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random as _random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from imagestreams.core.admission import Tokens
from imagestreams.core.certificate import (
    EXPIRES_SOON,
    Certificate,
    InvalidCertificate,
    KeyPair,
    Keys,
    authorities,
    describe,
    is_same_issuer,
    is_trusted_by,
    merged_authorities,
    problem_of,
    renewed,
)
from imagestreams.kube.errors import AlreadyExists, ApiError, Conflict
from imagestreams.kube.events import Involved
from imagestreams.kube.watch import number
from imagestreams.kube.webhooks import (
    CONFIGURATION_KINDS,
    Configuration,
    Configurations,
    Hook,
    KeySecret,
    NotOurs,
    StoredKeys,
    TlsSecret,
    path_of,
)

log = structlog.get_logger(__name__)

Announce = Callable[[Involved, str, str], object]
"""Told object, reason and message of a Warning."""

# A call that cannot even be made shows the token to its user, and no replica hears of it: hence so short.
_TOKEN_LIFE: Final = timedelta(minutes=15)
# Seconds.
_PREVIOUS_TOKEN = 120.0  # that a token is accepted after it was replaced; one is, so none is replaced sooner
_NEW_STAMP_KEY = 120.0  # until a new one is used: every replica knows it by then
_PUBLISHED = 5.0  # until API servers know an authority that was written for them
_SETTLED = 120.0  # until an authority that is not ours any more is taken away
_REFRESH = 1.0
_REFRESH_TIMEOUT = 5.0
_LOOK_AGAIN = 600.0
_FIRST_DELAY = 1.0
_MAX_DELAY = 30.0
_AGAIN = 0.2  # when another replica was faster


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why webhooks do not, or will soon not work: about which object, and in words."""

    involved: Involved
    reason: str
    message: str


class _Unusable(Exception):
    """There is nothing to serve with."""

    def __init__(self, trouble: _Trouble) -> None:
        super().__init__(trouble.message)
        self.trouble = trouble


@dataclass(frozen=True, slots=True)
class _Served:
    """What is to be served with; `authorities` are empty where nobody says who vouches for it."""

    pair: KeyPair
    authorities: bytes
    certificate: Certificate
    involved: Involved


class WebhookKeeper:
    """Makes, adopts, rotates and publishes the keys; `run` does so until it is cancelled.

    Args:
        tls_secret: whose certificate is served instead of our own; the other keys are ours all the same.
        names: DNS names and addresses by which API servers reach us, the Service's first.
        use: told the certificate to serve with; raises InvalidCertificate if that is not possible.
        announce: Events.
        clock: aware, UTC.
        random: gives as many bytes that nobody can guess.
        monotonic: seconds.
        chance: a number in [0, 1) each time.
    """

    def __init__(
        self,
        key_secret: KeySecret,
        configurations: Configurations,
        *,
        names: Sequence[str],
        use: Callable[[KeyPair], None],
        announce: Announce,
        clock: Callable[[], datetime],
        tls_secret: TlsSecret | None = None,
        random: Callable[[int], bytes] = secrets.token_bytes,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = _random.random,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._key_secret = key_secret
        self._configurations = configurations
        self._tls_secret = tls_secret
        self._names = tuple(names)
        self._use = use
        self._announce = announce
        self._clock = clock
        self._random = random
        self._monotonic = monotonic
        self._chance = chance
        self._sleep = sleep
        self._keys = Keys()
        self._adopted = 0
        self._previous_token = ""
        self._former_stamp_key = b""
        self._previous_until = 0.0
        self._stamp_key_from = 0.0
        self._served: _Served | None = None
        self._served_since = 0.0
        self._swap_from: tuple[bytes, float] | None = None  # a certificate that waits, and until when
        self._began = clock()
        self._is_exposed = True  # by the end of the process before, which could not tell
        self._are_told = False  # API servers know the present token
        self._is_undisturbed = False  # this round was not asked for by a change
        self._refreshed = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._ready = asyncio.Event()
        self._versions: dict[object, str] = {}  # of what is watched, as we have seen it last
        self._troubles: dict[str, _Trouble] = {}

    # --- what others ask

    def tokens(self) -> Tokens:
        """By which callers are proven now."""
        previous = self._previous_token if self._monotonic() < self._previous_until else ""
        return Tokens(self._keys.token, previous)

    def stamp_key(self) -> bytes:
        """What to make stamps with. A new key is used only when every replica must have heard of it."""
        if self._former_stamp_key and self._monotonic() < self._stamp_key_from:
            return self._former_stamp_key
        return self._keys.stamp_key

    def stamp_keys(self) -> tuple[bytes, ...]:
        """With which of them a stamp may have been made."""
        known = (self._keys.stamp_key, self._keys.stamp_key_previous, self._former_stamp_key)
        return tuple(dict.fromkeys(key for key in known if key))

    @property
    def expires(self) -> datetime | None:
        """When the certificate that is served ends; None while there is none."""
        return self._served.certificate.not_after if self._served else None

    @property
    def problem(self) -> str | None:
        """Why API servers cannot call the webhooks, for people; None while nothing is known to be in the way."""
        found = [trouble.message for name, trouble in self._troubles.items() if name != "expiry"]
        if not found and not self._ready.is_set():
            return "the webhooks' keys are not read yet"
        return "; ".join(found) or None

    @property
    def warning(self) -> str | None:
        """Why that will come to pass within days, for people. It is no reason to take this replica out of service."""
        return self._troubles["expiry"].message if "expiry" in self._troubles else None

    async def ready(self) -> None:
        """Wait until there are keys, and a certificate is served."""
        await self._ready.wait()

    def exposed(self) -> None:
        """A call failed in a way of which the API server tells its user, path and token included."""
        if not self._is_exposed:
            self._is_exposed = True
            self._wake.set()

    async def refresh(self) -> None:
        """Read the keys anew: another replica may have replaced the token.

        The reading begins after this was called, and a second after the one before: whoever asks more often waits for
        the same.
        """
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._read_again())
        await asyncio.shield(self._refreshing)

    async def _read_again(self) -> None:
        if (wait := self._refreshed + _REFRESH - self._monotonic()) > 0:
            await self._sleep(wait)
        self._refreshed, self._refreshing = self._monotonic(), None
        try:
            async with asyncio.timeout(_REFRESH_TIMEOUT):
                stored = await self._key_secret.read()
            if stored.keys.is_usable:
                self._adopt(stored)
        except (ApiError, NotOurs, TimeoutError) as error:
            log.warning("webhook keys not read", reason=str(error))

    # --- the loop

    async def run(self) -> None:
        """Keep everything right, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._key_secret.watch(self._changed(self._key_secret)).run())
            if self._tls_secret is not None:
                group.create_task(self._tls_secret.watch(self._changed(self._tls_secret)).run())
            for kind in CONFIGURATION_KINDS:
                group.create_task(self._configurations.watch(kind, self._changed(kind)).run())
            group.create_task(self._keep())

    async def _keep(self) -> None:
        failures = 0
        while True:
            self._wake.clear()
            try:
                is_whole = await self._round()
            except (Conflict, AlreadyExists):
                await self._sleep(_AGAIN * (0.5 + self._chance()))  # another replica has written; look at what
                continue
            except _Unusable as error:
                self._say("keys", error.trouble)
                failures += 1
            except (ApiError, NotOurs) as error:
                self._say("keys", self._key_trouble(error))
                failures += 1
            else:
                failures = 0 if is_whole else failures + 1
            self._is_undisturbed = await self._rest(self._delay(failures))

    def _delay(self, failures: int) -> float:
        """Seconds until the next round, if nothing happens."""
        longest = _LOOK_AGAIN
        if failures:
            longest = min(_MAX_DELAY, _FIRST_DELAY * 2 ** min(failures - 1, 10))
        elif "configuration" in self._troubles:
            longest = _MAX_DELAY
        due = longest * (0.75 + self._chance() / 4)
        if failures:
            return due
        if self._swap_from is not None and (left := self._swap_from[1] - self._monotonic()) > 0:
            due = min(due, left)
        if self._is_exposed and self._are_told and self._keys.token_at is not None:
            age = self._clock() - self._keys.token_at
            due = min(due, _PREVIOUS_TOKEN - age.total_seconds())
        return max(_AGAIN, due)

    async def _rest(self, seconds: float) -> bool:
        """Sleep, but not beyond the next change; returns whether there was none."""
        sleeping, woken = asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait((sleeping, woken), return_when=asyncio.FIRST_COMPLETED)
            return not woken.done()
        finally:
            for each in (sleeping, woken):
                each.cancel()
            await asyncio.wait((sleeping, woken))

    def _changed(self, what: object) -> Callable[[str], None]:
        def changed(version: str) -> None:
            if self._versions.get(what) != version:
                self._versions[what] = version
                self._wake.set()

        return changed

    # --- a round

    async def _round(self) -> bool:
        """Look at everything once; returns whether all could be read."""
        # The configurations before the Secret: if another replica replaces the token after this, the configuration is
        # another by the time we write it, and that is refused.
        found = await self._read_configurations()
        stored = await self._keys_now(found)
        self._adopt(stored)
        wanted = await self._to_serve(stored.keys)
        self._swap(wanted, found)
        self._troubles.pop("keys", None)
        self._ready.set()
        self._judge(wanted, found or ())
        if found is not None:
            await self._publish(wanted, found)
        return found is not None

    async def _read_configurations(self) -> list[Configuration] | None:
        """Those that there are, or None where nobody knows, which is said. Keys are kept, and served with, all the
        same.
        """
        mutating, *others = CONFIGURATION_KINDS
        try:
            found = [await self._configurations.read(mutating)]
        except ApiError as error:
            words = f"{mutating} {self._configurations.name} cannot be read: {error}"
            self._say("configuration", self._configuration_trouble(None, words))
            return None
        for kind in others:
            # Ours is a mutating one. Where there is another, it may not even be ours to read.
            with contextlib.suppress(ApiError):
                found.append(await self._configurations.read(kind))
        for kind, configuration in zip(CONFIGURATION_KINDS, found, strict=False):
            self._versions[kind] = configuration.resource_version if configuration else ""
        return [each for each in found if each is not None]

    async def _keys_now(self, found: Sequence[Configuration] | None) -> StoredKeys:
        stored = await self._key_secret.read()
        names = () if self._tls_secret is not None else self._names
        keys, made = renewed(
            stored.keys,
            now=self._clock(),
            names=names,
            token_life=self._token_life(stored.keys, found),
            random=self._random,
        )
        if made:
            stored = await self._key_secret.write(keys, stored)
            log.info("webhook keys renewed", renewed=list(made))
            if "token" in made:
                self._is_exposed = False
        elif self._is_replaced(stored.keys):
            self._is_exposed = False
        self._versions[self._key_secret] = stored.resource_version
        return stored

    def _token_life(self, keys: Keys, found: Sequence[Configuration] | None) -> timedelta | None:
        """At which age the token is to be replaced now; never while API servers have yet to be told the present one,
        lest they end up with one that nobody accepts.
        """
        self._are_told = found is not None and all(hook.token == keys.token for each in found for hook in each.hooks)
        if not self._are_told:
            return None
        return timedelta(seconds=_PREVIOUS_TOKEN) if self._is_exposed else _TOKEN_LIFE

    def _is_replaced(self, keys: Keys) -> bool:
        """Whether another replica has replaced the token that was shown."""
        if self._keys.token:
            return self._keys.token != keys.token
        return keys.token_at is not None and keys.token_at >= self._began

    def _adopt(self, stored: StoredKeys) -> None:
        """Prove callers and make stamps with these keys from now on."""
        version = number(stored.resource_version)
        if version < self._adopted:
            return  # read before what we have, and arrived after it
        self._adopted = version
        known, self._keys = self._keys, stored.keys
        now, keys = self._monotonic(), stored.keys
        if known.token != keys.token:
            since = None if known.token else keys.token_at
            # A Secret that was deleted comes back without it.
            self._previous_token = keys.token_previous or known.token
            self._previous_until = now + self._left(_PREVIOUS_TOKEN, since)
        if known.stamp_key != keys.stamp_key:
            # A Secret that was deleted comes back without it, too; requests that it has stamped are still on their way.
            self._former_stamp_key = keys.stamp_key_previous or known.stamp_key
            since = None if known.stamp_key else keys.stamp_key_at
            self._stamp_key_from = now + self._left(_NEW_STAMP_KEY, since)

    def _left(self, seconds: float, since: datetime | None) -> float:
        """How much of the time is left; all of it where a key has been replaced before our eyes."""
        if since is None:
            return seconds
        return seconds - min(seconds, max(0.0, (self._clock() - since).total_seconds()))

    async def _to_serve(self, keys: Keys) -> _Served:
        """What is to be served with.

        Raises:
            _Unusable: it is not there, or of no use.
        """
        involved, pair, bundle = self._key_secret.involved, keys.serving, keys.authorities
        if self._tls_secret is not None:
            involved = self._tls_secret.involved
            held = await self._tls_secret.read()
            if held is None:
                words = f"{self._tls_secret} with the webhooks' certificate is not there; create it, or leave out "
                raise _Unusable(_Trouble(involved, "WebhookCertificateMissing", f"{words}--webhook-tls-secret"))
            pair, bundle = held.pair, held.authorities
        try:
            return _Served(pair, bundle, describe(pair), involved)
        except InvalidCertificate as error:
            words = f"{self._tls_secret or self._key_secret} holds no certificate to serve with: {error}"
            raise _Unusable(_Trouble(involved, "WebhookCertificateUnusable", words)) from None

    def _swap(self, wanted: _Served, found: Sequence[Configuration] | None) -> None:
        """Serve with it, as soon as API servers can verify it."""
        served = self._served
        if served is not None and served.pair.certificate == wanted.pair.certificate:
            self._swap_from = None
            return
        if served is not None and not self._may_swap(served, wanted, found):
            return
        try:
            self._use(wanted.pair)
        except InvalidCertificate as error:
            words = f"the certificate in {self._tls_secret or self._key_secret}: {error}"
            raise _Unusable(_Trouble(wanted.involved, "WebhookCertificateUnusable", words)) from None
        self._swap_from = None
        self._served, self._served_since = wanted, self._monotonic()
        log.info("webhook certificate in use", expires=wanted.certificate.not_after.isoformat())

    def _may_swap(self, served: _Served, wanted: _Served, found: Sequence[Configuration] | None) -> bool:
        known = wanted.authorities
        if not known or not served.certificate.is_valid(self._clock()):
            return True
        if is_same_issuer(served.pair.certificate, wanted.pair.certificate, known):
            return True
        # Another authority: first everybody must know it.
        if self._swap_from is None or self._swap_from[0] != wanted.pair.certificate:
            self._swap_from = (wanted.pair.certificate, self._monotonic() + _PUBLISHED)
        if found is None:
            return False
        hooks = [hook for each in found for hook in each.hooks]
        are_told = all(is_trusted_by(wanted.pair.certificate, hook.authorities) for hook in hooks)
        return are_told and self._monotonic() >= self._swap_from[1]

    def _judge(self, wanted: _Served, found: Sequence[Configuration]) -> None:
        """Say what is wrong with the certificate, or will be."""
        now, holder = self._clock(), self._tls_secret or self._key_secret
        # API servers ask for a Service's name, or for what a URL says.
        names = [hook.host or self._names[0] for each in found for hook in each.hooks] or self._names[:1]
        words = problem_of(wanted.certificate, dict.fromkeys(names), now)
        trouble = soon = None
        if words:
            words = f"webhooks cannot be called: {words}; see {holder}, and --webhook-name for further names"
            trouble = _Trouble(wanted.involved, "WebhookCertificateUnusable", words)
        elif wanted.certificate.not_after - now < EXPIRES_SOON:
            ends = f"{wanted.certificate.not_after:%Y-%m-%d}"
            words = f"the webhooks' certificate in {holder} expires on {ends} and was not renewed; see who renews it"
            soon = _Trouble(wanted.involved, "WebhookCertificateExpiring", words)
        self._say("certificate", trouble)
        self._say("expiry", soon)

    # --- the configurations

    async def _publish(self, wanted: _Served, found: Sequence[Configuration]) -> None:
        trouble = self._missing(found)
        for each in found:
            if changed := self._changes(wanted, each):
                try:
                    await self._configurations.write(each, changed)
                except Conflict:
                    raise
                except ApiError as error:
                    words = f"{each.kind} {each.name} cannot be given the webhooks' authority and paths: {error}"
                    trouble = self._configuration_trouble(each, words)
                else:
                    log.info("webhook configuration kept", kind=each.kind, name=each.name, webhooks=len(changed))
        self._say("configuration", trouble)

    def _missing(self, found: Sequence[Configuration]) -> _Trouble | None:
        """What keeps API servers from calling us that we cannot change."""
        elsewhere = [name for each in found for name in each.elsewhere]
        if not elsewhere and any(each.hooks for each in found):
            return None
        mutating = next(iter(CONFIGURATION_KINDS))
        name = f"{mutating} {self._configurations.name}"
        there = next((each for each in found if each.kind == mutating), None)
        if elsewhere:
            words = f"{name}: {', '.join(elsewhere[:4])} would call another Service than ours; see --webhook-service"
        elif there:
            words = f"{name} has no webhook that leads here; apply config/webhook again"
        else:
            words = f"{name} is not there; apply config/webhook, or name another with --webhook-configuration"
        return self._configuration_trouble(there, words)

    def _changes(self, wanted: _Served, configuration: Configuration) -> list[Hook]:
        # Replicas of two settings, as during an update, would take away each other's, again and again.
        is_settled = self._is_undisturbed and self._monotonic() - self._served_since >= _SETTLED
        changed = []
        for hook in configuration.hooks:
            bundle = hook.authorities
            if wanted.authorities:
                # Another replica may still serve under an authority of before.
                bundle = b"" if is_settled and self._swap_from is None else hook.authorities
                bundle = merged_authorities(wanted.authorities, bundle, self._clock())
                if set(authorities(bundle)) == set(authorities(hook.authorities)):
                    bundle = hook.authorities
            new = replace(hook, authorities=bundle, path=path_of(hook.door, self._keys.token))
            if new != hook:
                changed.append(new)
        return changed

    def _configuration_trouble(self, configuration: Configuration | None, words: str) -> _Trouble:
        kind = configuration.kind if configuration else "MutatingWebhookConfiguration"
        involved = self._configurations.involved(kind, configuration.uid if configuration else "")
        return _Trouble(involved, "WebhookConfigurationNotKept", words)

    def _key_trouble(self, error: ApiError | NotOurs) -> _Trouble:
        words = str(error) if isinstance(error, NotOurs) else f"{self._key_secret} cannot be kept: {error}"
        return _Trouble(self._key_secret.involved, "WebhookKeysNotKept", words)

    def _say(self, about: str, trouble: _Trouble | None) -> None:
        """Tell what is wrong about something, once for as long as it stays so."""
        known = self._troubles.pop(about, None)
        if trouble is None:
            return
        for token in filter(None, (self._keys.token, self._previous_token)):
            trouble = replace(trouble, message=trouble.message.replace(token, "…"))
        self._troubles[about] = trouble
        if known != trouble:
            log.warning("webhooks are not as they should be", reason=trouble.reason, problem=trouble.message)
            self._announce(trouble.involved, trouble.reason, trouble.message)
