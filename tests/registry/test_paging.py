"""Pages of tags and the links between them, without a socket: what is kept, and what hostile ones lead to."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from imagestreams.core.selection import best
from imagestreams.registry.errors import InvalidAnswer, TooLarge
from imagestreams.registry.paging import MAX_NAMES, MAX_PAGES, Tally

LIST = "https://registry.example/v2/acme/web/tags/list"
FIRST = URL(f"{LIST}?n=1000")
NEXT = "/v2/acme/web/tags/list?last=b&n=1000"


def tally(limit=100):
    return Tally("registry.example/acme/web", limit)


def page(*tags):
    return json.dumps({"tags": tags}).encode()


def read(*pages, limit=100):
    made = tally(limit)
    for each in pages:
        made.add(page(*each))
    return made


@pytest.mark.parametrize(
    ("header", "url"),
    [
        pytest.param(f'<{NEXT}>; rel="next"', f"{LIST}?last=b&n=1000", id="as distribution writes it"),
        pytest.param(f"<{NEXT}>; rel=next", f"{LIST}?last=b&n=1000", id="without quotes"),
        pytest.param(f'<{NEXT}>;rel="NEXT"', f"{LIST}?last=b&n=1000", id="in capitals"),
        pytest.param(f'<{NEXT}>; title="a, b; <c>"; rel="last next"', f"{LIST}?last=b&n=1000", id="more parameters"),
        pytest.param(f'</first>; rel="first", <{NEXT}>; rel="next"', f"{LIST}?last=b&n=1000", id="several links"),
        pytest.param(f'<{LIST}?last=b>; rel="next"', f"{LIST}?last=b", id="a whole URL"),
        pytest.param('<https://registry.example:443/v2/acme/web/tags/list?x>; rel="next"', f"{LIST}?x", id="its port"),
        pytest.param('<http://registry.example/v2/acme/web/tags/list?x>; rel="next"', f"{LIST}?x", id="its scheme"),
        pytest.param('<?next_page=a%2Fb%2B>; rel="next"', f"{LIST}?next_page=a%2Fb%2B", id="only a query"),
        pytest.param('<list?last=b>; rel="next"', f"{LIST}?last=b", id="beside"),
        pytest.param('<?last=b>; rel="next"; rel="prev"', f"{LIST}?last=b", id="the first relation"),
        pytest.param(f'<{NEXT}>; rel="prev"', None, id="another relation"),
        pytest.param(f'<{NEXT}>; rel="nextish"', None, id="a longer relation"),
        pytest.param(f"<{NEXT}>", None, id="no relation"),
        pytest.param(f'{NEXT}; rel="next"', None, id="no brackets"),
        pytest.param("", None, id="nothing"),
        pytest.param(',;<>"=', None, id="rubbish"),
    ],
)
def test_a_link_is_read(header, url):
    assert read(["a"]).next_page(FIRST, [header] if header else []) == (URL(url, encoded=True) if url else None)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("https://evil.example/v2/acme/web/tags/list?last=b", "at another host"),
        ("//evil.example/v2/acme/web/tags/list?last=b", "at another host"),
        ("https://registry.example:8443/v2/acme/web/tags/list?last=b", "at another host"),
        ("https://registry.example.evil.example/v2/acme/web/tags/list?last=b", "at another host"),
        ("https://user:pw@registry.example/v2/acme/web/tags/list?last=b", "no usable URL"),
        ("ftp://registry.example/v2/acme/web/tags/list?last=b", "no usable URL"),
        ("javascript:alert(1)", "no usable URL"),
        ("https://[::1/?x", "no usable URL"),
        ("?last=\r\nX: y", "no usable URL"),
        ("?last=\u00e9", "no usable URL"),
        ("?" + "x" * 4096, "no usable URL"),
        ("/v2/other/web/tags/list?last=b", "something else"),
        ("/v2/acme/web/tags/list/?last=b", "something else"),
        ("/?last=b", "something else"),
        ("/v2/acme/web/tags/list", "loops"),
        ("?", "loops"),
    ],
)
def test_a_link_to_elsewhere_is_refused(target, says):
    with pytest.raises(InvalidAnswer, match=says):
        read(["a"]).next_page(FIRST, [f'<{target}>; rel="next"'])


def test_links_without_end_are_refused():
    with pytest.raises(InvalidAnswer, match="no end"):
        read(["a"]).next_page(FIRST, ["<?a>; rel=prev"] * 1000)


@pytest.mark.parametrize(
    ("pages", "found"),
    [
        pytest.param([["a", "b"], ["c"]], 3, id="one after the other"),
        pytest.param([["a", "b"], ["b", "c"]], 3, id="the last is the next page's first"),
        pytest.param([["a", "a"], ["b"]], 2, id="twice in a page"),
        pytest.param([["a", "b"], ["a", "b"]], 2, id="a page again"),
        pytest.param([[], ["a"]], 1, id="an empty one"),
    ],
)
def test_a_tag_is_counted_once(pages, found):
    made = read(*pages)
    assert (made.found, len(made.best())) == (found, found)


def test_a_page_that_comes_again_ends_the_list():
    made = read(["a", "b"])
    again = made.next_page(FIRST, ['<?page=2>; rel="next"'])
    made.add(page("a", "b"))
    assert made.next_page(again, []) is None
    with pytest.raises(InvalidAnswer, match="loops"):
        made.next_page(again, ['<?page=3>; rel="next"'])


def test_a_link_that_comes_again_ends_the_list():
    made = read(["a"])
    url = made.next_page(FIRST, ['<?page=2>; rel="next"'])
    made.add(page("b"))
    with pytest.raises(InvalidAnswer, match="loops"):
        made.next_page(url, ['<?page=2>; rel="next"'])


def test_a_list_is_full_after_so_many_pages():
    made = read(*([f"v{number}"] for number in range(MAX_PAGES - 1)))
    assert not made.is_full
    made.add(page("x"))
    assert (made.is_full, made.is_cut) == (True, False)


def test_a_list_is_cut_at_so_many_names():
    made = tally(limit=10)
    half = MAX_NAMES // 2
    for begin in (0, half, MAX_NAMES):
        made.add(json.dumps({"tags": [f"t{begin + number}" for number in range(half)]}).encode())
    assert (made.found, made.is_full, made.is_cut) == (MAX_NAMES, True, True)


def test_a_page_of_more_names_is_not_decoded():
    with pytest.raises(TooLarge):
        tally().add(b'{"tags":[' + b'"",' * (MAX_NAMES + 1) + b'""]}')


def test_no_more_is_kept_than_is_wanted():
    made = tally(limit=10)
    for number in range(40):
        made.add(page(*(f"1.{number}.{patch}" for patch in range(1000))))
        assert len(made._kept) < 6100
    assert made.best() == best((f"1.39.{patch}" for patch in range(1000)), 10)


@given(
    st.lists(st.lists(st.from_regex(r"[a-c0-9][0-9.]{0,3}", fullmatch=True), max_size=8), max_size=6), st.integers(1, 5)
)
def test_pages_make_no_difference(pages, limit):
    made = read(*pages, limit=limit)
    assert made.best() == best((tag for each in pages for tag in each), limit)


@given(
    st.binary(max_size=100)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["tags", "name"]), inner),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_page_is_read_or_refused(body):
    made = tally()
    try:
        made.add(body)
    except InvalidAnswer:
        assert made.found == 0
    assert all(tag.isprintable() and tag for tag in made.best())


@given(
    st.lists(st.text(alphabet=st.sampled_from('<>;,="/?:@#\\%.reltnxhtpsa \t\r\n\x00é[]1'), max_size=80), max_size=3)
)
def test_any_link_leads_to_the_list_or_nowhere(links):
    try:
        url = read(["a"]).next_page(FIRST, links)
    except InvalidAnswer:
        return
    assert url is None or str(url).startswith(f"{LIST}?")
