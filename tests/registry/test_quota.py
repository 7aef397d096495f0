"""What may still be asked: the pace of a host, and what a credential has left there."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from imagestreams.core.policy import HostRule, Policy, Rate, rule_of
from imagestreams.registry import quota as module
from imagestreams.registry.errors import Exhausted
from imagestreams.registry.quota import Bucket, Quota

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
HUB = "docker.io"
QUAY = "quay.io"
ALICE, BOB = "a" * 64, "b" * 64


class Rules:
    """The rules of an installation, which a test may change."""

    def __init__(self, **hosts):
        self.policy = Policy(hosts)

    def __call__(self, host):
        return rule_of(self.policy, host)

    def set(self, host, **rule):
        self.policy = Policy({**self.policy.hosts, host: HostRule(**rule)})


@pytest.fixture
def rules():
    return Rules()


@pytest.fixture
def told():
    return []


@pytest.fixture
def quota(clock, rules, told):
    return Quota(clock, rules, lambda *words: told.append(words))


def pull(quota, host=HUB, fingerprint="", status=200, **headers):
    """Read a manifest, and hear the answer."""
    quota.check(host, fingerprint, is_pull=True)
    learn(quota, host, fingerprint, status=status, **headers)


def learn(quota, host=HUB, fingerprint="", *, is_pull=True, status=200, **headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    quota.learn(host, fingerprint, is_pull=is_pull, status=status, headers=CIMultiDict(names))


def left(count, limit=100):
    return {"RateLimit_Limit": f"{limit};w=21600", "RateLimit_Remaining": f"{count};w=21600"}


def pulls(quota, host=HUB, fingerprint=""):
    """How many pulls `check` lets pass, at most 1000."""
    for number in range(1000):
        try:
            quota.check(host, fingerprint, is_pull=True)
        except Exhausted:
            return number
    return 1000


def head(quota, host=HUB, fingerprint=""):
    """Whether a HEAD is let pass."""
    try:
        quota.check(host, fingerprint, is_pull=False)
    except Exhausted:
        return False
    return True


# --- a rate -----------------------------------------------------------------------------------------------------------

rates = st.builds(
    Rate, st.one_of(st.integers(1, 50), st.integers(1, 1_000_000)), st.timedeltas(SECOND, timedelta(days=31))
)


@settings(deadline=None)
@given(rates, st.lists(st.timedeltas(timedelta(), HOUR), max_size=60))
def test_no_time_has_more_than_the_rate_and_what_comes_back(rate, pauses):
    bucket, now, taken = Bucket(rate, NOW), NOW, []
    for pause in pauses:
        now += pause
        while bucket.ready_at() <= now and len(taken) < 400:
            bucket.take(now)
            taken.append(now)
    cost = rate.per // rate.count
    for first in range(0, len(taken), 7):
        for last in range(first, len(taken), 5):
            assert last - first + 1 <= rate.count + (taken[last] - taken[first]) / cost


@settings(deadline=None)
@given(rates, st.integers(0, 100))
def test_what_is_there_comes_back_in_time(rate, taken):
    bucket = Bucket(rate, NOW)
    for _ in range(taken):
        bucket.take(NOW)
    assert bucket.left(NOW) == rate.count - taken
    assert (bucket.ready_at() <= NOW) == (taken < rate.count)
    at = max(bucket.ready_at(), NOW)
    assert bucket.left(at) >= 1
    assert bucket.left(NOW + rate.per * (1 + taken // rate.count)) == rate.count


@settings(deadline=None)
@given(rates, st.integers(-64, 2_000_000))
def test_what_is_left_may_be_set(rate, count):
    bucket = Bucket(rate, NOW)
    bucket.set(count, NOW)
    assert bucket.left(NOW) == min(count, rate.count)
    assert (bucket.ready_at() <= NOW) == (count >= 1)


@settings(deadline=None)
@given(rates, rates, st.integers(0, 100))
def test_another_rate_begins_where_the_old_one_was(old, new, taken):
    assume(old != new)
    bucket = Bucket(old, NOW)
    for _ in range(taken):
        bucket.take(NOW)
    bucket.use(new, NOW)
    assert bucket.rate == new
    assert bucket.ready_at() <= NOW + new.per
    if not taken:
        assert bucket.left(NOW) == new.count


# --- the pace of a host -----------------------------------------------------------------------------------------------


def test_a_host_without_a_rate_has_no_pace(quota):
    for _ in range(1000):
        quota.begin(QUAY)
        pull(quota, QUAY, ALICE)
    assert quota.ready_at(QUAY) is None
    assert not len(quota._accounts)
    assert not len(quota._paces)


def test_a_pace_is_the_hosts_whoever_asks(quota, rules, clock):
    rules.set(QUAY, requests=Rate(2, SECOND))
    for fingerprint in (ALICE, BOB):
        assert quota.ready_at(QUAY) is None
        quota.begin(QUAY)
        quota.check(QUAY, fingerprint, is_pull=False)
    assert quota.ready_at(QUAY) == clock() + SECOND / 2
    assert quota.ready_at("other.example") is None
    assert head(quota, QUAY)  # a lookup that has begun is not stopped
    clock.advance(seconds=0.5)
    assert quota.ready_at(QUAY) == clock() + SECOND / 2  # but counts
    clock.advance(seconds=0.5)
    assert quota.ready_at(QUAY) is None


def test_a_lookup_that_needs_more_requests_takes_them_from_the_next(quota, rules, clock):
    rules.set(QUAY, requests=Rate(10, SECOND))
    quota.begin(QUAY)
    quota.begin(QUAY)
    for _ in range(8):
        quota.check(QUAY, "", is_pull=False)
    assert quota.ready_at(QUAY) is None
    for _ in range(2):
        quota.check(QUAY, "", is_pull=False)
    assert quota.ready_at(QUAY) == clock() + SECOND / 10


def test_what_a_lookup_did_not_need_serves_the_next(quota, rules, clock):
    rules.set(QUAY, requests=Rate(1, SECOND))
    quota.begin(QUAY)  # answered without a request
    quota.check(QUAY, "", is_pull=False)
    assert quota.ready_at(QUAY) == clock() + SECOND


def test_one_long_listing_does_not_close_a_host_for_long(quota, rules, clock):
    rules.set(QUAY, requests=Rate(1, SECOND))
    for _ in range(500):
        quota.check(QUAY, "", is_pull=False)
    assert quota.ready_at(QUAY) <= clock() + MINUTE


def test_a_clock_that_was_set_back_stops_nothing_for_long(quota, rules, clock):
    rules.set(QUAY, requests=Rate(1, SECOND), pulls=Rate(9, MINUTE))
    quota.begin(QUAY)
    assert pulls(quota, QUAY) == 9
    clock.advance(days=-1)
    assert quota.ready_at(QUAY) <= clock() + MINUTE
    assert quota.held_until(QUAY, "", is_pull=True) <= clock() + HOUR


def test_another_pace_counts_at_once(quota, rules, clock):
    rules.set(QUAY, requests=Rate(1, HOUR))
    quota.begin(QUAY)
    assert quota.ready_at(QUAY) == clock() + HOUR
    rules.set(QUAY, requests=Rate(10, SECOND))
    assert quota.ready_at(QUAY) <= clock() + SECOND
    rules.set(QUAY)
    assert quota.ready_at(QUAY) is None


def test_docker_hub_has_a_pace_of_its_own(quota, clock):
    for _ in range(40):
        assert quota.ready_at(HUB) is None
        quota.begin(HUB)
    assert quota.ready_at(HUB) == clock() + SECOND / 10


# --- pulls ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fingerprint", "allowed", "wait"), [("", 100, 216), (ALICE, 200, 108)])
def test_docker_hubs_limit_is_known_before_it_says_so(quota, clock, fingerprint, allowed, wait):
    assert pulls(quota, HUB, fingerprint) == allowed
    with pytest.raises(Exhausted) as caught:
        quota.check(HUB, fingerprint, is_pull=True)
    assert caught.value.until == clock() + timedelta(seconds=wait)
    clock.advance(seconds=wait)
    assert pulls(quota, HUB, fingerprint) == 1


def test_a_head_is_no_pull(quota):
    assert pulls(quota) == 100
    assert all(head(quota) for _ in range(1000))


@pytest.mark.parametrize("other", [(HUB, ALICE), (QUAY, ""), ("registry.example", ALICE)])
def test_what_one_has_used_up_is_nobody_elses(quota, rules, other):
    assert pulls(quota, HUB, "") == 100
    rules.set(QUAY, pulls=Rate(5, HOUR))
    assert pulls(quota, *other) > 0


def test_what_the_registry_says_is_left_counts(quota, clock, told):
    pull(quota, **left(76))
    assert told == [(HUB, "anonymous", 76)]
    assert pulls(quota) == 76


def test_a_head_tells_what_is_left(quota, clock):
    learn(quota, HUB, ALICE, is_pull=False, **left(0, 200))
    with pytest.raises(Exhausted, match=r"^docker\.io allows no more pulls to this login for now$") as caught:
        quota.check(HUB, ALICE, is_pull=True)
    assert caught.value.until == clock() + timedelta(seconds=108)
    assert (caught.value.fingerprint, caught.value.retryable) == (ALICE, True)
    assert head(quota, HUB, ALICE)
    learn(quota, HUB, ALICE, is_pull=False, **left(3, 200))
    assert pulls(quota, HUB, ALICE) == 3


def test_a_larger_limit_is_believed(quota):
    pull(quota, HUB, ALICE, **left(4999, 5000))
    assert pulls(quota, HUB, ALICE) == 1000


def test_what_is_under_way_is_not_yet_counted_by_the_registry(quota, clock):
    for _ in range(8):
        quota.check(HUB, "", is_pull=True)
    learn(quota, **left(9))  # the first of eight: the other seven are still to come
    assert pulls(quota) == 2


def test_what_is_under_way_counts_also_where_nothing_was_known(quota):
    for _ in range(8):
        quota.check(QUAY, "", is_pull=True)
    learn(quota, QUAY, **left(9))
    assert pulls(quota, QUAY) == 2


def test_an_answer_that_never_came_is_not_waited_for(quota, clock):
    for _ in range(8):
        quota.check(HUB, "", is_pull=True)
    clock.advance(minutes=3)
    pull(quota, **left(9))
    assert pulls(quota) == 9


def test_a_challenge_is_no_pull(quota):
    for _ in range(300):
        pull(quota, status=401)
    assert pulls(quota) == 100


def test_a_login_that_has_no_limit_is_not_limited(quota, clock):
    pull(quota, HUB, ALICE)  # without a word of a limit
    assert pulls(quota, HUB, ALICE) == 1000
    assert pulls(quota, HUB, BOB) == 200
    clock.advance(minutes=3)
    learn(quota, HUB, ALICE, **left(7, 200))  # the plan has ended
    assert pulls(quota, HUB, ALICE) == 7


@pytest.mark.parametrize(
    ("fingerprint", "is_pull", "status"),
    [
        pytest.param("", True, 200, id="without a login"),
        pytest.param(ALICE, False, 200, id="a HEAD"),
        pytest.param(ALICE, True, 404, id="nothing there"),
        pytest.param(ALICE, True, 0, id="no answer"),
    ],
)
def test_silence_on_a_limit_means_something_only_for_a_login_that_read(quota, fingerprint, is_pull, status):
    learn(quota, HUB, fingerprint, is_pull=is_pull, status=status)
    assert pulls(quota, HUB, fingerprint) <= 200


def test_an_administrators_word_is_not_lifted(quota, rules):
    rules.set(HUB, pulls=Rate(10, HOUR))
    pull(quota, HUB, ALICE)
    assert pulls(quota, HUB, ALICE) == 9


def test_an_administrators_word_and_the_registrys_hold_both(quota, rules):
    rules.set(HUB, pulls=Rate(10, HOUR))
    pull(quota, **left(80))
    assert pulls(quota) == 9
    pull_again = Quota(lambda: NOW, rules)
    pull(pull_again, **left(4))
    assert pulls(pull_again) == 4


def test_pulls_of_any_host_may_be_limited(quota, rules, clock):
    rules.set(QUAY, pulls=Rate(3, HOUR), pulls_with_login=Rate(5, HOUR))
    assert (pulls(quota, QUAY), pulls(quota, QUAY, ALICE)) == (3, 5)
    rules.set(QUAY, pulls=Rate(10, MINUTE))
    assert (pulls(quota, QUAY), pulls(quota, QUAY, ALICE)) == (0, 0)  # what is used up is used up
    clock.advance(minutes=1)
    assert (pulls(quota, QUAY), pulls(quota, QUAY, ALICE)) == (10, 10)
    rules.set(QUAY)
    assert pulls(quota, QUAY) == 1000


def test_a_registry_of_which_nothing_is_known_may_say_its_limit(quota, clock):
    learn(quota, "mirror.example", **left(2))
    assert pulls(quota, "mirror.example") == 2


@pytest.mark.parametrize("limit", ["1;w=86400", "1;w=999999999999", "999999999999;w=1"])
def test_no_registry_puts_a_pull_off_for_more_than_an_hour(quota, clock, limit):
    learn(quota, "evil.example", RateLimit_Limit=limit, RateLimit_Remaining="0;w=1")
    assert quota.held_until("evil.example", "", is_pull=True) <= clock() + HOUR


# --- what was denied --------------------------------------------------------------------------------------------------


def test_a_pull_that_was_denied_closes_pulls_for_longer_each_time(quota, clock):
    waits = []
    for _ in range(8):
        pull(quota, status=429)
        waits.append((quota.held_until(HUB, "", is_pull=True) - clock()).total_seconds() / 60)
        assert head(quota)
        clock.advance(minutes=waits[-1])
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    pull(quota)
    pull(quota, status=429)
    assert quota.held_until(HUB, "", is_pull=True) == clock() + MINUTE


def test_pulls_that_were_denied_together_are_one_denial(quota, clock):
    for _ in range(8):
        quota.check(HUB, "", is_pull=True)
    for _ in range(8):
        learn(quota, status=429)
    assert quota.held_until(HUB, "", is_pull=True) == clock() + MINUTE


@pytest.mark.parametrize(
    ("is_pull", "status", "headers", "is_head_good"),
    [
        pytest.param(True, 429, {"Retry_After": "30", **left(0)}, True, id="pulls are used up"),
        pytest.param(True, 429, {"Retry_After": "30"}, False, id="a limit on everything"),
        pytest.param(False, 429, {"Retry_After": "30"}, False, id="a HEAD"),
        pytest.param(False, 503, {"Retry_After": "30"}, False, id="closed for a while"),
        pytest.param(False, 429, {}, True, id="no word on when: the lanes decide"),
        pytest.param(False, 500, {"Retry_After": "30"}, True, id="another error"),
    ],
)
def test_a_retry_after_closes_what_it_is_said_of(quota, clock, is_pull, status, headers, is_head_good):  # noqa: PLR0917
    learn(quota, HUB, ALICE, is_pull=is_pull, status=status, **headers)
    assert head(quota, HUB, ALICE) is is_head_good
    assert head(quota, HUB, BOB)
    clock.advance(seconds=30)
    assert head(quota, HUB, ALICE)


# --- all requests -----------------------------------------------------------------------------------------------------


def test_a_registry_may_say_what_is_left_of_all_requests(quota, clock, told):
    learn(quota, QUAY, ALICE, is_pull=False, RateLimit_Remaining="2", RateLimit_Reset="30")
    assert [head(quota, QUAY, ALICE) for _ in range(3)] == [True, True, False]
    with pytest.raises(Exhausted, match=r"^quay\.io allows no more requests to this login for now$") as caught:
        quota.check(QUAY, ALICE, is_pull=True)
    assert caught.value.until == clock() + 30 * SECOND
    assert head(quota, QUAY, BOB)
    assert head(quota, HUB, ALICE)
    clock.advance(seconds=30)
    assert all(head(quota, QUAY, ALICE) for _ in range(100))
    assert told == [(QUAY, "authenticated", 2)]


def test_answers_that_cross_do_not_give_back_what_is_used(quota):
    learn(quota, QUAY, RateLimit_Remaining="5", RateLimit_Reset="30")
    for _ in range(5):
        quota.check(QUAY, "", is_pull=False)
    learn(quota, QUAY, is_pull=False, RateLimit_Remaining="4", RateLimit_Reset="30")
    assert not head(quota, QUAY)


def test_nothing_left_without_a_word_on_when_holds_nothing(quota):
    learn(quota, QUAY, RateLimit_Remaining="0")
    assert head(quota, QUAY)


# --- memory and hostility ---------------------------------------------------------------------------------------------


def test_what_is_kept_is_bounded(quota, rules):
    for number in range(6000):
        rules_of = f"h{number}.example"
        learn(quota, rules_of, f"{number}", **left(1))
        quota.check(HUB, f"{number}", is_pull=True)
    assert len(quota._accounts) <= module._MAX_ACCOUNTS
    for number in range(100):
        quota.check(HUB, "", is_pull=True)
        learn(quota, HUB, f"{number}", is_pull=False)
    assert len(quota._accounts._entries[HUB, ""][0].pending) <= module._MAX_PENDING


def test_what_is_used_is_not_forgotten_for_what_is_not(quota):
    learn(quota, **left(0))
    for number in range(10_000):
        learn(quota, f"h{number}.example", **left(1))
        assert quota.held_until(HUB, "", is_pull=True) is not None


header = st.one_of(st.text(max_size=30), st.from_regex(r"[0-9]{0,13}(;w=[0-9]{0,13})?", fullmatch=True))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([HUB, QUAY]),
            st.sampled_from(["", ALICE]),
            st.booleans(),
            st.sampled_from([0, 200, 401, 404, 429, 503]),
            st.dictionaries(
                st.sampled_from(
                    ["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "RateLimit", "Retry-After"]
                ),
                header,
            ),
            st.floats(-10_000, 10_000),
        ),
        max_size=30,
    )
)
def test_whatever_is_told_nothing_is_held_for_more_than_some_hours(steps):
    now = NOW
    quota = Quota(lambda: now, Rules(**{QUAY: HostRule(requests=Rate(5, SECOND))}))
    for host, fingerprint, is_pull, status, headers, seconds in steps:
        now += timedelta(seconds=seconds)
        with contextlib.suppress(Exhausted):
            quota.check(host, fingerprint, is_pull=is_pull)
        quota.learn(host, fingerprint, is_pull=is_pull, status=status, headers=CIMultiDict(headers))
        until = quota.held_until(host, fingerprint, is_pull=True)
        # An hour from when it was said; the clock may have been set back since.
        assert until is None or timedelta() < until - now <= HOUR + timedelta(seconds=30 * 10_000)


# --- two names of one host --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listed", [QUAY, f"{QUAY}:443"])
def test_the_port_that_https_has_anyway_is_no_other_host(quota, rules, listed):
    rules.set(listed, requests=Rate(2, MINUTE), pulls=Rate(2, HOUR))
    for host in (QUAY, f"{QUAY}:443"):
        quota.begin(host)
        pull(quota, host)
    for host in (QUAY, f"{QUAY}:443"):
        assert quota.ready_at(host) is not None
        assert quota.held_until(host, "", is_pull=True) is not None
        with pytest.raises(Exhausted, match=f"^{host} allows"):
            quota.check(host, "", is_pull=True)
    assert quota.held_until(f"{QUAY}:8443", "", is_pull=True) is None


def test_what_a_host_says_it_has_left_counts_under_both_names(quota, told):
    learn(quota, f"{QUAY}:443", is_pull=False, RateLimit_Remaining="0", RateLimit_Reset="60")
    assert quota.held_until(QUAY, "", is_pull=False) is not None
    assert told == [(f"{QUAY}:443", "anonymous", 0)]
