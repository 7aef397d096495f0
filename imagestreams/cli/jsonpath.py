r"""Kubectl's template language (`-o jsonpath=...`): the same template on the same object gives the same bytes.

    {range .items[*]}{.metadata.name}{"\t"}{.spec.tags[?(@.name=="latest")].from.name}{"\n"}{end}

https://kubernetes.io/docs/reference/kubectl/jsonpath/ describes it; what it does beyond that is followed, too, oddities
included (client-go, util/jsonpath; a test compares with kubectl). A key that is missing gives nothing, as for `kubectl
get`. Where Go's order of a map's values is random, here it is that of the keys.
"""

from __future__ import annotations

import json
import operator
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class InvalidTemplate(ValueError):
    """It cannot be read; the text is kubectl's."""


class DoesNotFit(ValueError):
    """The template asks of the object what it is not; the text is kubectl's.

    `results` is what was there so far: an "exists" filter goes by that.
    """

    def __init__(self, message: str, results: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.results = results


# --- the template -----------------------------------------------------------------------------------------------------


class Text(NamedTuple):
    text: str


class Constant(NamedTuple):
    value: bool | int | float


class Identifier(NamedTuple):
    """`range` and `end`; any other word is an error when it is come to."""

    name: str


class Field(NamedTuple):
    name: str


class Wildcard(NamedTuple):
    pass


class Recursive(NamedTuple):
    pass


class Slice(NamedTuple):
    """`[start:end:step]`; None is what was left out. `is_index`: written as `[start]`."""

    start: int | None
    end: int | None
    step: int | None
    is_index: bool


class Union(NamedTuple):
    branches: tuple[Action, ...]


class Filter(NamedTuple):
    left: Action
    operator: str  # "exists" where there is none
    right: Action


Node: TypeAlias = "Text | Constant | Identifier | Field | Wildcard | Recursive | Slice | Union | Filter"


class Action(NamedTuple):
    """What is between braces: each node goes on from what the last one found."""

    nodes: tuple[Node, ...]


Template: TypeAlias = "tuple[Text | Action, ...]"

_DICT_KEY: Final = re.compile(r"'([^']*)'")
_SLICE: Final = re.compile(r"(-?[0-9]*)(:-?[0-9]*)?(:-?[0-9]*)?")
_COMPARISON: Final = re.compile(r"([^!<>=]+)([!<>=]+)(.+)")
_NUMBER: Final = re.compile(r"[+-]?[0-9.]*")
_TERMINATORS: Final = frozenset(" \t\r\n.,[]$@{}")
_MOST_NESTED: Final = 100  # filters within filters


def parse(template: str) -> Template:
    """Read a template; raises `InvalidTemplate`."""
    return tuple(_Parser(template, 0).parts())


class _Parser:
    """A text, and how far it is read. `depth` is how many filters and unions it is inside of."""

    def __init__(self, text: str, depth: int) -> None:
        self._text, self._depth = text, depth
        self._at = 0
        if depth > _MOST_NESTED:
            raise InvalidTemplate("nested too deeply")

    def parts(self) -> Iterator[Text | Action]:
        while self._at < len(self._text):
            brace = self._text.find("{", self._at)
            end = len(self._text) if brace < 0 else brace
            if end > self._at:
                yield Text(self._text[self._at : end])
            self._at = end
            if brace >= 0:
                self._at += 1
                yield Action(tuple(self._nodes()))

    def _nodes(self) -> list[Node]:
        """Up to and with the closing brace."""
        found: list[Node] = []
        while not self._follows("}"):
            if self._follows("[?("):
                found.append(self._filter())
            elif self._follows(".."):
                if found and isinstance(found[-1], Recursive):
                    raise InvalidTemplate("invalid multiple recursive descent")
                found.append(Recursive())
                if _is_alphanumeric(self._peek()):
                    found.append(self._field())
            else:
                found += self._node(self._next())
        return found

    def _node(self, character: str) -> tuple[Node, ...]:
        match character:
            case "" | "\r" | "\n":
                raise InvalidTemplate("unclosed action")
            case " " | "@" | "$":
                return ()
            case "[":
                return self._bracket()
            case '"' | "'":
                return (Text(self._quoted(character)),)
            case ".":
                return (self._field(),)
            case _:
                self._at -= 1
                if character in "+-" or character.isdecimal():
                    return (self._number(),)
                if _is_alphanumeric(character):
                    return (self._word(),)
                raise InvalidTemplate(f"unrecognized character in action: U+{ord(character):04X} {_go_char(character)}")

    def _follows(self, text: str) -> bool:
        is_there = self._text.startswith(text, self._at)
        if is_there:
            self._at += len(text)
        return is_there

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        character = self._peek()
        self._at += len(character)
        return character

    def _field(self) -> Field | Wildcard:
        """A name up to the next terminator; a backslash takes a terminator's meaning away."""
        begin = self._at
        while (character := self._peek()) and character not in _TERMINATORS:
            self._at += 2 if character == "\\" else 1
        self._at = min(self._at, len(self._text))
        name = self._text[begin : self._at]
        return Wildcard() if name == "*" else Field(name.replace("\\", ""))

    def _word(self) -> Constant | Identifier:
        begin = self._at
        while (character := self._peek()) and character not in _TERMINATORS:
            self._at += 1
        name = self._text[begin : self._at]
        return Constant(name == "true") if name in {"true", "false"} else Identifier(name)

    def _number(self) -> Constant:
        found = _NUMBER.match(self._text, self._at)
        text = found[0] if found else ""
        self._at += len(text)
        try:
            is_whole = "." not in text and len(text) < 20 and abs(int(text)) < 1 << 63
            return Constant(int(text) if is_whole else float(text))
        except ValueError:
            raise InvalidTemplate(f"cannot parse number {text}") from None

    def _quoted(self, quote: str) -> str:
        begin = self._at
        while character := self._next():
            if character == "\n":
                break
            if character == quote and self._text[self._at - 2] != "\\":
                inner = self._text[begin : self._at - 1]
                try:
                    return _unquoted(inner, quote)
                except ValueError:
                    words = f"unquote string {self._text[begin - 1 : self._at]} error invalid syntax"
                    raise InvalidTemplate(words) from None
        raise InvalidTemplate("unterminated quoted string")

    def _bracket(self) -> tuple[Node, ...]:
        """What follows `[`: an index, a slice, a key, or several of them."""
        end = self._text.find("]", self._at)
        text = self._text[self._at : max(end, self._at)]
        if end < 0 or "\n" in text:
            raise InvalidTemplate("unterminated array")
        self._at = end + 1
        if text == "*":
            text = ":"
        branches = text.split(",")
        if len(branches) > 1:
            return (Union(tuple(self._inner(f"[{branch.strip(' ')}]") for branch in branches)),)
        if key := _DICT_KEY.fullmatch(text):
            return self._inner(f".{key[1]}").nodes
        found = _SLICE.fullmatch(text)
        if found is None:
            raise InvalidTemplate(f"invalid array index {text}")
        start, stop, step = (_index((part or "").removeprefix(":")) for part in found.groups())
        return (Slice(start, stop, step, is_index=found[2] is None),)

    def _filter(self) -> Filter:
        """What follows `[?(`: a comparison, or a path that is to be there."""
        begin, quote, is_closed = self._at, "", False
        while (character := self._next()) != ")" or bool(quote) != is_closed:
            if character in {"", "\n"}:
                raise InvalidTemplate("unterminated filter")
            if character in "\"'":
                if not quote:
                    quote = character
                elif character == quote and self._text[self._at - 2] != "\\":
                    is_closed = True
        text = self._text[begin : self._at - 1]
        if self._next() != "]":
            raise InvalidTemplate("unclosed array expect ]")
        found = _COMPARISON.fullmatch(text)
        if found is None:
            return Filter(self._inner(text), "exists", Action(()))
        return Filter(self._inner(found[1]), found[2], self._inner(found[3]))

    def _inner(self, text: str) -> Action:
        """An expression within one: what stands in its first braces."""
        first = next(_Parser(f"{{{text}}}", self._depth + 1).parts())
        assert isinstance(first, Action)  # noqa: S101  # it begins with a brace
        return first


def _index(text: str) -> int | None:
    if text == "-" or len(text) > 19:
        raise InvalidTemplate(f"array index {text} is not a number")
    return int(text) if text else None


def _is_alphanumeric(character: str) -> bool:
    return character == "_" or character.isalpha() or character.isdecimal()


def _go_char(character: str) -> str:
    return f"'{character}'" if character.isprintable() else ""


_ESCAPES: Final = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92}
_ESCAPE: Final = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|([abfnrtv\\'\"]))|[^\\]", re.DOTALL
)


def _unquoted(text: str, quote: str) -> str:
    """Go's escapes, resolved; raises ValueError. Those of hexadecimal or octal digits make bytes of UTF-8."""
    made = bytearray()
    at = 0
    while at < len(text):
        found = _ESCAPE.match(text, at)
        if found is None or found[0] == quote:
            raise ValueError
        at = found.end()
        byte, short, long, octal, letter = found.groups()
        if byte or octal:
            number = int(byte, 16) if byte else int(octal, 8)
            made += bytes((number,))  # above 255: ValueError, as wanted
        elif short or long:
            made += chr(int(short or long, 16)).encode()  # a surrogate or too much: ValueError
        elif letter:
            if letter in "'\"" and letter != quote:
                raise ValueError
            made += letter.encode() if letter == quote else bytes((_ESCAPES[letter],))
        else:
            made += found[0].encode()
    return made.decode(errors="replace")


# --- the object -------------------------------------------------------------------------------------------------------


class _Nothing:
    """Go's zero Value: what a range without results gives to its body."""


_NOTHING: Final = _Nothing()


def evaluate(template: Template, value: object) -> str:
    """The template's text for an object; raises `DoesNotFit`."""
    return "".join(" ".join(map(_text, found)) for found in find(template, value))


def find(template: Template, value: object) -> list[list[Any]]:
    """What each part of the template finds in an object, in the order of the text; raises `DoesNotFit`."""
    try:
        return _Run(template).from_(0, value)
    except RecursionError as error:
        raise DoesNotFit("the object is nested too deeply") from error


class _Run:
    """Ranges as kubectl counts them: `end` ends the innermost, and what follows goes on with the outer object."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._begun = self._inside = self._ended = 0
        self._last_end = -1

    def from_(self, start: int, value: object) -> list[list[Any]]:
        whole: list[list[Any]] = []
        at = start
        while at < len(self._template):
            part = self._template[at]
            found = [part.text] if isinstance(part, Text) else self._walked([value], part)
            if 0 < self._ended <= self._inside:
                self._ended -= 1
                self._last_end = at
                break
            if self._begun > 0:
                self._begun -= 1
                self._inside += 1
                for each in found:
                    whole += self.from_(at + 1, _NOTHING if each is None else each)
                if not found:
                    self.from_(at + 1, _NOTHING)
                self._inside -= 1
                at = max(at, self._last_end)
            else:
                whole.append(found)
            at += 1
        return whole

    def _walked(self, values: list[Any], action: Action) -> list[Any]:
        for node in action.nodes:
            values = self._step(values, node)
        return values

    def _step(self, values: list[Any], node: Node) -> list[Any]:
        match node:
            case Text(text):
                return [text]
            case Constant(value):
                return [value] * len(values)
            case Identifier(name):
                return self._command(name, values)
            case Field(name):
                return [value[name] for value in values if isinstance(value, dict) and name in value]
            case Wildcard():
                return [inner for value in values for inner in _inside(value)]
            case Recursive():
                return list(_descended(values))
            case Slice():
                return _sliced(values, node)
            case Union(branches):
                try:
                    return [found for branch in branches for found in self._walked(values, branch)]
                except DoesNotFit as error:
                    raise DoesNotFit(str(error), values) from error
            case Filter():
                return self._filtered(values, node)

    def _command(self, name: str, values: list[Any]) -> list[Any]:
        if name == "range":
            self._begun += 1
            return values
        if name != "end":
            raise DoesNotFit(f"unrecognized identifier {name}", values)
        if self._inside == 0:
            raise DoesNotFit("not in range, nothing to end")
        self._ended += 1
        return []

    def _filtered(self, values: list[Any], node: Filter) -> list[Any]:
        found: list[Any] = []
        for value in values:
            if not isinstance(value, list):
                raise DoesNotFit(f"{_shown(value)} is not array or slice and cannot be filtered", values)
            found += [element for element in value if self._passes(element, node, values, found)]
        return found

    def _passes(self, element: object, node: Filter, values: list[Any], found: list[Any]) -> bool:
        try:
            left: Sequence[Any] = self._walked([element], node.left)
        except DoesNotFit as error:
            if node.operator != "exists":
                raise DoesNotFit(str(error), values) from error
            left = error.results
        if node.operator == "exists":
            return bool(left)
        right = self._walked([element], node.right) if len(left) == 1 else [None]
        if len(left) > 1 or len(right) > 1:
            raise DoesNotFit("can only compare one element at a time", values)
        if not left or not right:
            return False
        compare = _OPERATORS.get(node.operator)
        if compare is None:
            raise DoesNotFit(f"unrecognized filter operator {node.operator}", found)
        kinds = {_kind(left[0]), _kind(right[0])}
        if "" in kinds or (kinds == {"bool"} and node.operator not in {"==", "!="}):
            raise DoesNotFit("invalid type for comparison", found)
        if len(kinds) > 1:
            raise DoesNotFit("incompatible types for comparison", found)
        return compare(_comparable(left[0]), _comparable(right[0]))


_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _comparable(value: object) -> object:
    """Go compares texts by their bytes."""
    return value.encode(errors="surrogatepass") if isinstance(value, str) else value


_KINDS: Final[dict[type, str]] = {bool: "bool", int: "int", float: "float", str: "string"}
_TYPES: Final[dict[type, str]] = {
    bool: "bool",
    int: "int64",
    float: "float64",
    str: "string",
    dict: "map[string]interface {}",
    list: "[]interface {}",
}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "")


def _inside(value: object) -> list[Any]:
    """What a `*` finds in it: of a text, its bytes."""
    match value:
        case dict():
            return [value[key] for key in sorted(value)]
        case list():
            return value
        case str():
            return list(value.encode(errors="surrogatepass"))
        case _:
            return []


def _descended(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if inner := _inside(value):
            yield value
            yield from _descended(inner)


def _sliced(values: list[Any], node: Slice) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value is None or value is _NOTHING:
            continue
        if not isinstance(value, list):
            raise DoesNotFit(f"{_TYPES.get(type(value), 'nil')} is not array or slice", values)
        length = len(value)
        start = node.start or 0
        end = (start + 1 if node.is_index else length) if node.end is None else node.end
        is_from_behind = end < 0 or (end == 0 and node.is_index)
        start += length if start < 0 else 0
        end += length if is_from_behind else 0
        if start == end:
            return found
        for index, shown in ((start, start), (end, end - 1)):
            if index < 0 or shown >= length:
                raise DoesNotFit(f"array index out of bounds: index {shown}, length {length}", values)
        if start > end:
            raise DoesNotFit(f"starting index {start} is greater than ending index {end}", values)
        if node.step is not None and node.step <= 0:
            raise DoesNotFit("step must be > 0", values)
        found += value[start : end : node.step or 1]
    return found


# --- the text ---------------------------------------------------------------------------------------------------------


def _text(value: object) -> str:
    """A result as it is printed: texts as they are, lists and maps as JSON."""
    match value:
        case dict() | list():
            return _json(value)
        case _Nothing():
            return "<no value>"
        case None:
            return "null"
        case _:
            return _shown(value)


def _shown(value: object) -> str:
    """As Go's %v."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case float():
            return _float(value)
        case dict():
            return f"map[{' '.join(f'{key}:{_shown(value[key])}' for key in sorted(value))}]"
        case list():
            return f"[{' '.join(map(_shown, value))}]"
        case _Nothing():
            return "<invalid reflect.Value>"
        case _:
            return str(value)


def _float(value: float, least: int = -4, most: int = 5) -> str:
    """The shortest text that means the number: with an exponent where that is below `least` or above `most`."""
    sign = "-" if value < 0 else ""
    digits, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, rest = digits.partition(".")
    rest = rest.rstrip("0") if rest != "0" else ""
    number = (whole + rest).lstrip("0")
    if not number:
        return f"{sign}0"
    power = int(exponent or 0) - len(rest) + len(number) - 1
    number = number.rstrip("0")
    if power < least or power > most:
        return f"{sign}{number[0]}{'.' if number[1:] else ''}{number[1:]}e{power:+03d}"
    if power < 0:
        return f"{sign}0.{'0' * (-power - 1)}{number}"
    padded = number.ljust(power + 1, "0")
    return f"{sign}{padded[: power + 1]}{'.' if padded[power + 1 :] else ''}{padded[power + 1 :]}"


def _json(value: object) -> str:
    """As Go's json.Marshal: no spaces, keys sorted, and what HTML would take amiss escaped."""
    match value:
        case dict():
            return f"{{{','.join(f'{_json(key)}:{_json(value[key])}' for key in sorted(value))}}}"
        case list():
            return f"[{','.join(map(_json, value))}]"
        case float():
            return re.sub(r"e-0([0-9])$", r"e-\1", _float(value, least=-6, most=20))
        case str():
            return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
        case _:
            return json.dumps(value)


_UNSAFE: Final = re.compile("[<>&\u2028\u2029]")
