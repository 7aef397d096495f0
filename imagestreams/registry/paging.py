"""The pages of a repository's tags: no network and no memory of more tags than are wanted.

How many tags there are is the registry's affair; what is kept are the best of them. A page, and the link to the next
one, are a registry's word, so they are read as hostile.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-tags
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

import msgspec
from yarl import URL

from imagestreams.core.reference import is_tag
from imagestreams.core.selection import best
from imagestreams.registry.errors import InvalidAnswer, TooLarge

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE_CAP: Final = 4 << 20
PAGE_SIZE: Final = 1000  # tags that are asked for at a time; registries may give fewer, or all
MAX_PAGES: Final = 200
MAX_NAMES: Final = 200_000

_MAX_LINK: Final = 4096
_SPARE: Final = 5000  # names that are collected, beside the best so far, before the best are picked again

_LINK = re.compile(r"<([^<>]*)>((?:[^,<>\"]|\"[^\"]*\")*)")
_RELATION = re.compile(r";[ \t]*rel[ \t]*=[ \t]*(?:\"([^\"]*)\"|([^ \t;,\"]+))", re.IGNORECASE)


class _Page(msgspec.Struct, gc=False):
    tags: list[str | None] | None  # null where there is none


_PAGES = msgspec.json.Decoder(_Page)


class Tally:
    """What was read of a repository so far.

    Args:
        repository: for messages.
        limit: how many tags are wanted.

    Attributes:
        found: how many tags the registry has named.
        pages: how many pages were read.
    """

    def __init__(self, repository: str, limit: int) -> None:
        self.found = 0
        self.pages = 0
        self._repository = repository
        self._limit = limit
        self._kept: list[str] = []
        self._last = ""
        self._seen: set[bytes] = set()
        self._is_cut = False
        self._is_repeated = False

    @property
    def is_full(self) -> bool:
        """No more is read, whatever is left."""
        return self._is_cut or self.pages >= MAX_PAGES or self.found >= MAX_NAMES

    @property
    def is_cut(self) -> bool:
        """Something of what was read was left out."""
        return self._is_cut

    def add(self, body: bytes) -> None:
        """Read a page. Names that are no tags are passed over.

        Raises:
            InvalidAnswer: it is none.
            TooLarge: it names more than is read of any repository.
        """
        # Counted before they are made: a name of one character takes sixty bytes once it is an object.
        if body.count(b",") > MAX_NAMES:
            raise TooLarge(f"a page of the tags of {self._repository} names more than {MAX_NAMES}")
        try:
            names = _PAGES.decode(body).tags or []
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise InvalidAnswer(f"the registry's answer for {self._repository} is no list of tags") from None
        tags = list(dict.fromkeys(name for name in names if name and is_tag(name)))
        self.pages += 1
        content = hashlib.sha256("\n".join(tags).encode()).digest()
        self._is_repeated = content in self._seen
        if self._is_repeated:
            return
        self._seen.add(content)
        if tags and tags[0] == self._last:  # some begin a page with the last tag of the one before
            del tags[0]
        if self.found + len(tags) > MAX_NAMES:
            self._is_cut = True
            del tags[MAX_NAMES - self.found :]
        self.found += len(tags)
        self._last = tags[-1] if tags else self._last
        self._kept += tags
        if len(self._kept) > 2 * self._limit + _SPARE:
            self._kept = best(self._kept, self._limit)

    def next_page(self, asked: URL, links: Sequence[str]) -> URL | None:
        """Where the next page is, by the Link headers of the page that was added last; None if it was the last.

        Args:
            asked: the URL of that page, as we asked for it.
            links: all Link headers. Only the query of what they name is used.

        Raises:
            InvalidAnswer: they lead elsewhere than to more of this list, or round in circles.
        """
        link = _next_link(links)
        if link is None:
            return None
        query = _query_of(link, asked, self._repository)
        if query in {"", asked.raw_query_string} or self._is_repeated or self._is_old(query):
            raise InvalidAnswer(f"the list of the tags of {self._repository} loops")
        return URL(f"{asked.origin()}{asked.raw_path}?{query}", encoded=True)

    def best(self) -> list[str]:
        """The best tags, best first."""
        return best(self._kept, self._limit)

    def _is_old(self, query: str) -> bool:
        mark = hashlib.sha256(b"?" + query.encode()).digest()
        is_old = mark in self._seen
        self._seen.add(mark)
        return is_old


def _next_link(links: Sequence[str]) -> str | None:
    if sum(map(len, links)) > 2 * _MAX_LINK:
        raise InvalidAnswer("the registry's Link to the next page of tags has no end")
    for link in links:
        for target, parameters in _LINK.findall(link):
            # The first relation counts, and may be several words. https://www.rfc-editor.org/rfc/rfc8288#section-3.3
            relation = _RELATION.search(parameters)
            if relation and "next" in (relation[1] or relation[2] or "").lower().split():
                return str(target)
    return None


def _query_of(link: str, asked: URL, repository: str) -> str:
    """The query of a link to another page of the list that was asked for."""
    wrong = InvalidAnswer(f"the next page of the tags of {repository} is said to be at no usable URL")
    if len(link) > _MAX_LINK or any(not "!" <= character <= "~" for character in link):
        raise wrong
    try:
        url = asked.join(URL(link, encoded=True))
        host, port, path, is_default = url.host, url.port, url.path, url.is_default_port()
    except ValueError:
        raise wrong from None
    # Behind a proxy that ends TLS some registries write http:// into their links: where it leads decides, and we go
    # there as we came.
    is_same_port = port == asked.port or (is_default and asked.is_default_port())
    if url.scheme not in {"http", "https"} or url.user is not None or url.password is not None:
        raise wrong
    if host != asked.host or not is_same_port:
        raise InvalidAnswer(f"the next page of the tags of {repository} is said to be at another host")
    if path != asked.path:
        raise InvalidAnswer(f"the next page of the tags of {repository} is said to be something else")
    return url.raw_query_string
