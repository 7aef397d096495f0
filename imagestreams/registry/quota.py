"""How much a registry may still be asked.

    pace      so many lookups in a time at one host, whoever asks    the lanes hold back what comes too early
    pulls     manifests read at one host with one credential         `Exhausted`; a HEAD is no pull
    requests  all that a registry says is left for one credential    `Exhausted`

Pace and pulls are an administrator's or a preset's. What a registry says of its own limit is believed instead of a
preset, and beside an administrator's word; it counts for the credential with which it was said, anonymous being one.
Nothing here waits or asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from imagestreams.core.policy import PRESETS, HostRule, Rate
from imagestreams.core.reference import HTTPS_PORT
from imagestreams.registry.errors import Exhausted, ToldQuota, quota_in, retry_after
from imagestreams.registry.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OnQuota = Callable[[str, str, int], None]

_MAX_ACCOUNTS: Final = 4096  # host and credential; one that was not used for longest starts anew
_MAX_PACES: Final = 2048
_MAX_PENDING: Final = 64
_PENDING_LIFE: Final = timedelta(minutes=2)  # longer than any request takes; then its answer was not told
_LONGEST_DEBT: Final = timedelta(minutes=1)
_LONGEST_WAIT: Final = timedelta(hours=1)  # for one pull, whatever a registry says
_FIRST_DENIAL: Final = timedelta(minutes=1)
_SAME_RESET: Final = timedelta(seconds=2)


class Bucket:
    """What is used up of a rate, kept as the time at which all of it will be there again.

    After a pause all of the rate's count may go at once; over any time no more than that and what comes back meanwhile.

    Args:
        rate: at least one in a time.
        now: aware, as everywhere here; all is there.
    """

    __slots__ = ("_cost", "_full_at", "rate")

    def __init__(self, rate: Rate, now: datetime) -> None:
        self.rate = rate
        self._cost = _cost(rate)
        self._full_at = now

    def ready_at(self) -> datetime:
        """From when on one is there."""
        return self._full_at - self._cost * (self.rate.count - 1)

    def left(self, now: datetime) -> int:
        """How many are there; negative where more were taken than there were."""
        return self.rate.count - -((now - max(self._full_at, now)) // self._cost)

    def take(self, now: datetime) -> None:
        """Take one, there or not."""
        self._full_at = max(self._full_at, now) + self._cost

    def give_back(self) -> None:
        self._full_at -= self._cost

    def set(self, left: int, now: datetime) -> None:
        self._full_at = now + self._cost * (self.rate.count - min(left, self.rate.count))

    def limit_debt(self, longest: timedelta, now: datetime) -> None:
        """Have one there after `longest`, or the time one takes to come back, even where the clock was set back."""
        self._full_at = min(self._full_at, now + max(longest, self._cost) + self._cost * (self.rate.count - 1))

    def use(self, rate: Rate, now: datetime) -> None:
        """Go on at another rate; the same part of it is used up."""
        if rate == self.rate:
            return
        used = max(self._full_at - now, timedelta()) / (self._cost * self.rate.count)
        self.rate, self._cost = rate, _cost(rate)
        self._full_at = now + self._cost * rate.count * min(used, 1.0)


def _cost(rate: Rate) -> timedelta:
    """How long one of the rate takes to come back."""
    return max(rate.per // max(rate.count, 1), timedelta.resolution)


class _Pace:
    """The lookups of a host. One may need several requests, or none: `prepaid` is what begun ones have not used."""

    __slots__ = ("bucket", "prepaid")

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.prepaid = 0


class _Account:
    """What one credential has left at one host.

    `own` is the administrator's word on pulls, `told` the registry's, or a preset's until the registry has spoken.
    """

    __slots__ = (
        "closed_until",
        "denials",
        "is_lifted",
        "left",
        "own",
        "pending",
        "pulls_closed_until",
        "reset_at",
        "told",
        "was_told",
    )

    def __init__(self) -> None:
        self.own: Bucket | None = None
        self.told: Bucket | None = None
        self.was_told = False
        self.is_lifted = False  # a preset's limit, which the registry does not have for this credential
        self.pending: deque[datetime] = deque(maxlen=_MAX_PENDING)  # pulls that are not yet answered
        self.pulls_closed_until: datetime | None = None
        self.denials = 0  # pulls answered 429 in a row
        self.closed_until: datetime | None = None
        self.left: int | None = None  # of all requests
        self.reset_at: datetime | None = None

    @property
    def is_blank(self) -> bool:
        """Whether a new one would be the same."""
        words = (self.own, self.told, self.pulls_closed_until, self.closed_until, self.reset_at)
        return not self.pending and not self.is_lifted and not any(words)

    def held_until(self, now: datetime, *, is_pull: bool) -> datetime | None:
        waits = [self.closed_until]
        if self.reset_at is not None and self.reset_at <= now:
            self.left = self.reset_at = None
        elif self.left is not None and self.left <= 0:
            waits.append(self.reset_at)
        if is_pull:
            waits.append(self.pulls_closed_until)
            waits.extend(bucket.ready_at() for bucket in self.pulls())
        return max((wait for wait in waits if wait is not None and wait > now), default=None)

    def pulls(self) -> Iterable[Bucket]:
        return (bucket for bucket in (self.own, self.told) if bucket is not None)


class Quota:
    """One for all lanes and the client. One event loop only. `host:443` has what `host` has.

    Args:
        clock: aware, UTC.
        rules: the present rule of a host, asked each time: a policy that is replaced takes effect at once.
        on_quota: told the host, "anonymous" or "authenticated", and what a registry says is left.
    """

    def __init__(
        self, clock: Callable[[], datetime], rules: Callable[[str], HostRule], on_quota: OnQuota | None = None
    ) -> None:
        self._clock = clock
        self._rules = rules
        self._on_quota = on_quota
        self._accounts: Recent[tuple[str, str], _Account] = Recent(_MAX_ACCOUNTS, clock=clock)
        self._paces: Recent[str, _Pace] = Recent(_MAX_PACES, clock=clock)

    # --- for the lanes

    def ready_at(self, host: str) -> datetime | None:
        """When the next lookup may begin there; None for now."""
        pace = self._pace(host)
        if pace is None:
            return None
        at = pace.bucket.ready_at()
        return at if at > self._clock() else None

    def begin(self, host: str) -> None:
        """Count a lookup that begins."""
        if pace := self._pace(host):
            pace.bucket.take(self._clock())
            pace.prepaid = min(pace.prepaid + 1, pace.bucket.rate.count)

    def held_until(self, host: str, fingerprint: str, *, is_pull: bool) -> datetime | None:
        """Until when `check` would refuse; None if it would not."""
        account = self._account(host, fingerprint)
        return account.held_until(self._clock(), is_pull=is_pull) if account is not None else None

    # --- for the client

    def check(self, host: str, fingerprint: str, *, is_pull: bool) -> None:
        """Take what a request to the registry itself needs; not for tokens, nor for other hosts that it leads to.

        The question for a challenge, sent without the credentials that there are, is held against nobody: do not ask.

        Args:
            host: as references name it.
            fingerprint: of the credential that the request is made with, empty for anonymous.
            is_pull: a manifest is read.

        Raises:
            Exhausted: the request must not be sent.
        """
        now = self._clock()
        account = self._account(host, fingerprint)
        if account is not None and (until := account.held_until(now, is_pull=is_pull)):
            is_of_pulls = is_pull and account.held_until(now, is_pull=False) is None
            who = "this login" if fingerprint else "requests without a login"
            raise Exhausted(
                f"{host} allows no more {'pulls' if is_of_pulls else 'requests'} to {who} for now",
                until,
                fingerprint=fingerprint,
            )
        self._take(host, fingerprint, account, is_pull=is_pull)

    def count(self, host: str, fingerprint: str, *, is_pull: bool) -> None:
        """Count a request that was sent without a `check`, and turned out to need one. Arguments as for that."""
        self._take(host, fingerprint, self._account(host, fingerprint), is_pull=is_pull)

    def _take(self, host: str, fingerprint: str, account: _Account | None, *, is_pull: bool) -> None:
        now = self._clock()
        if pace := self._pace(host):
            if pace.prepaid:
                pace.prepaid -= 1
            else:
                pace.bucket.take(now)
        if account is None:
            if not is_pull:
                return
            # Should the answer say what is left, it is known what else is under way.
            account = self._open_account(host, fingerprint)
        if account.left is not None:
            account.left -= 1
        if is_pull:
            for bucket in account.pulls():
                bucket.take(now)
            account.pending.append(now)

    def learn(self, host: str, fingerprint: str, *, is_pull: bool, status: int, headers: Mapping[str, str]) -> None:
        """Read what the registry's own answer says. Tell of each request that `check` let pass, or `count` counted.

        Args:
            host: see `check`, as the next two.
            fingerprint: see there.
            is_pull: see there.
            status: 0 where no answer came, or another host gave it.
            headers: with names in any case; empty where no answer came.
        """
        now = self._clock()
        told = quota_in(headers, now) if headers else None
        account = self._account(host, fingerprint)
        if account is None:
            if told is None and status not in {429, 503}:
                return
            account = self._open_account(host, fingerprint)
        while account.pending and account.pending[0] + _PENDING_LIFE <= now:
            account.pending.popleft()
        if is_pull:
            _learn_pull(account, status, now)
        if told is not None and told.is_of_pulls:
            _learn_pulls_left(account, told, now)
        elif told is not None:
            _learn_requests_left(account, told, now)
        elif is_pull and status == 200 and fingerprint and self._pulls(host, fingerprint)[1] is not None:
            # It says so to those who have a limit, and to those who have none it says nothing.
            account.told, account.was_told, account.is_lifted = None, False, True
        if told is not None and self._on_quota is not None:
            self._on_quota(host, "authenticated" if fingerprint else "anonymous", told.left)
        if status in {429, 503}:
            _learn_denial(account, status, headers, is_pull=is_pull, now=now)
        if account.is_blank:
            self._accounts.forget((host.removesuffix(HTTPS_PORT), fingerprint))

    # --- what is kept

    def _rule(self, host: str) -> HostRule:
        """What is said of a host without a port, by that name or with the port that it has anyway."""
        rule = self._rules(host)
        is_said = rule.requests or rule.pulls or rule.pulls_with_login or ":" in host
        return rule if is_said else self._rules(host + HTTPS_PORT)

    def _pace(self, host: str) -> _Pace | None:
        host = host.removesuffix(HTTPS_PORT)
        rate = self._rule(host).requests
        pace = self._paces.get(host)
        if rate is None:
            if pace is not None:
                self._paces.forget(host)
            return None
        now = self._clock()
        if pace is None:
            pace = _Pace(Bucket(rate, now))
            self._paces.put(host, pace)
        pace.bucket.use(rate, now)
        pace.bucket.limit_debt(_LONGEST_DEBT, now)
        return pace

    def _pulls(self, host: str, fingerprint: str) -> tuple[Rate | None, Rate | None]:
        """What an administrator allows, and what a preset says that the registry does."""
        rule, preset = self._rule(host), PRESETS.get(host)
        rate = rule.pulls_with_login if fingerprint and rule.pulls_with_login is not None else rule.pulls
        if preset and (rule.pulls, rule.pulls_with_login) == (preset.pulls, preset.pulls_with_login):
            return None, rate
        return rate, None

    def _open_account(self, host: str, fingerprint: str) -> _Account:
        account = _Account()
        self._accounts.put((host.removesuffix(HTTPS_PORT), fingerprint), account)
        return account

    def _account(self, host: str, fingerprint: str) -> _Account | None:
        """What is known of a credential at a host, brought up to the present rules; None where there is nothing."""
        host = host.removesuffix(HTTPS_PORT)
        own, preset = self._pulls(host, fingerprint)
        account = self._accounts.get((host, fingerprint))
        if account is None:
            if own is None and preset is None:
                return None
            account = self._open_account(host, fingerprint)
        now = self._clock()
        account.own = _at_rate(account.own, own, now)
        if not account.was_told:
            account.told = _at_rate(account.told, None if account.is_lifted else preset, now)
        for bucket in account.pulls():
            bucket.limit_debt(_LONGEST_WAIT, now)
        return account


def _at_rate(bucket: Bucket | None, rate: Rate | None, now: datetime) -> Bucket | None:
    if rate is None:
        return None
    if bucket is None:
        return Bucket(rate, now)
    bucket.use(rate, now)
    return bucket


def _learn_requests_left(account: _Account, told: ToldQuota, now: datetime) -> None:
    if told.reset is None:
        return
    reset_at, left = now + told.reset, told.left
    if account.left is not None and account.reset_at is not None and abs(account.reset_at - reset_at) <= _SAME_RESET:
        left = min(left, account.left)  # what is under way was not yet counted
    account.left, account.reset_at = left, reset_at


def _learn_pull(account: _Account, status: int, now: datetime) -> None:
    if account.pending:
        account.pending.popleft()
        if status == 401:  # a challenge is no pull
            for bucket in account.pulls():
                bucket.give_back()
    if status == 200 and (account.pulls_closed_until is None or account.pulls_closed_until <= now):
        account.denials, account.pulls_closed_until = 0, None


def _learn_pulls_left(account: _Account, told: ToldQuota, now: datetime) -> None:
    if told.limit is not None and told.window is not None:
        rate = Rate(told.limit, min(told.window, _LONGEST_WAIT * told.limit))
    elif account.told is not None:
        rate = account.told.rate
    else:
        return
    if account.told is None:
        account.told = Bucket(rate, now)
    account.told.use(rate, now)
    account.told.set(told.left - len(account.pending), now)
    account.was_told, account.is_lifted = True, False


def _learn_denial(account: _Account, status: int, headers: Mapping[str, str], *, is_pull: bool, now: datetime) -> None:
    asked = retry_after(headers.get("Retry-After", ""), now)
    wait = None if asked is None else timedelta(seconds=asked)
    told = quota_in(headers, now)
    is_of_pulls = is_pull and told is not None and told.is_of_pulls and not told.left
    if wait is not None and not is_of_pulls:
        account.closed_until = max(account.closed_until or now, now + wait)
    if not is_pull or status != 429:
        return
    # Those that were under way together are one denial.
    if account.pulls_closed_until is None or account.pulls_closed_until <= now:
        account.denials += 1
    until = now + (wait or min(_FIRST_DENIAL * (1 << min(account.denials - 1, 16)), _LONGEST_WAIT))
    account.pulls_closed_until = max(account.pulls_closed_until or until, until)
