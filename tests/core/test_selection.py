from __future__ import annotations

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.core.selection import best

tags = st.one_of(
    st.from_regex(r"v?[0-9]{1,2}\.[0-9]{1,2}(\.[0-9]{1,2})?(-[a-z0-9.]{1,4})?", fullmatch=True),
    st.text(alphabet=string.ascii_letters + string.digits + "_.-", min_size=1, max_size=12),
    st.just("latest"),
)


@pytest.mark.parametrize(
    "ordered",
    [
        pytest.param(["latest", "5.6", "v5.6", "5.5", "5.6.7", "5", "mysql"], id="latest, minors, fulls, the rest"),
        pytest.param(["10.0", "9.10", "9.9"], id="by number, not by letter"),
        pytest.param(["2.0", "2.0-rc", "1.9"], id="a release before its candidates"),
        pytest.param(["1.2.3", "v1.2.3", "1.2.3-rc.10", "1.2.3-rc.9", "1.2.3-9", "1.2.2"], id="as semver has it"),
        pytest.param(["3.1-alpine", "3.0", "3.1.2-alpine", "3.1.1", "alpine"], id="a word behind a minor version"),
        pytest.param(["1.0", "01.2", "1.2.03", "8", "v1"], id="leading zeros and bare majors are names"),
        pytest.param(["1.0", "1.0.0", "1.0.0-01", "1.0_1", "1.2.3.4", "9.9-a.b"], id="what is no version is a name"),
        pytest.param(["1.0", "9" * 40 + ".0"], id="a number too long to be one is a name"),
    ],
)
def test_the_order(ordered: list[str]) -> None:
    shuffled = random.Random(1).sample(ordered, len(ordered))
    assert best(shuffled, 100) == ordered


def test_only_so_many() -> None:
    assert best(["a", "latest", "1.0", "b", "latest"], 2) == ["latest", "1.0"]
    assert best(["a"], 0) == []


@given(st.lists(tags, max_size=30), st.lists(tags, max_size=30), st.integers(1, 20))
def test_the_best_of_pages_are_the_best_of_all(one: list[str], other: list[str], limit: int) -> None:
    whole = best([*one, *other], limit)
    assert best([*best(one, limit), *other], limit) == whole
    assert best(reversed([*one, *other]), limit) == whole
