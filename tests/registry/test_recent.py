"""A memory that cannot grow."""

from datetime import timedelta

from imagestreams.registry.recent import Recent


def test_what_was_not_used_for_longest_makes_room(clock):
    recent = Recent(2, clock=clock)
    recent.put("a", 1)
    recent.put("b", 2)
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert [recent.get(key) for key in "abc"] == [1, None, 3]
    assert len(recent) == 2


def test_what_has_expired_is_gone(clock):
    recent = Recent(9, clock=clock, life=timedelta(seconds=10))
    recent.put("a", 1)
    recent.put("b", 2, life=timedelta(seconds=20))
    clock.advance(seconds=10)
    assert [recent.get("a"), recent.get("b")] == [None, 2]
    assert len(recent) == 1


def test_what_is_put_again_lives_again(clock):
    recent = Recent(9, clock=clock, life=timedelta(seconds=10))
    recent.put("a", 1)
    clock.advance(seconds=9)
    recent.put("a", 2)
    clock.advance(seconds=9)
    assert recent.get("a") == 2
    recent.forget("a")
    recent.forget("a")
    assert recent.get("a") is None


def test_what_weighs_too_much_makes_room(clock):
    recent = Recent(9, clock=clock, weight=len, capacity=5)
    recent.put("a", "11")
    recent.put("b", "22")
    recent.put("a", "1")
    recent.put("c", "33")
    assert [recent.get(key) for key in "abc"] == ["1", "22", "33"]
    recent.put("d", "44")
    assert [recent.get(key) for key in "abcd"] == [None, None, "33", "44"], "by weight, and the oldest first"
    recent.put("e", "666666")
    assert [recent.get(key) for key in "cde"] == [None, None, None]
    recent.put("f", "55555")
    assert recent.get("f") == "55555", "nothing that is gone weighs"


def test_what_has_expired_weighs_nothing(clock):
    recent = Recent(9, clock=clock, life=timedelta(seconds=10), weight=len, capacity=4)
    recent.put("a", "11")
    clock.advance(seconds=10)
    assert recent.get("a") is None
    recent.put("b", "2222")
    assert recent.get("b") == "2222"
