"""Objects as kubectl prints them with -o: yaml, json, name, jsonpath=TEMPLATE and jsonpath-as-json=TEMPLATE."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

from imagestreams.cli.options import Failure, Misuse, read_bytes
from imagestreams.cli.table import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagestreams.cli.jsonpath import Template

Object = dict[str, Any]

_MAX_TEMPLATE: Final = 1 << 20  # bytes
_TEXT: Final = "tag:yaml.org,2002:str"
_WIDE: Final = 1 << 20  # characters: no line is folded


def show(objects: Sequence[Object], form: str, *, many: bool | None = None) -> None:
    """Print objects, which have their apiVersion and kind. `form` is from `options.output_option`.

    Args:
        objects: as the server gave them; managedFields are not shown.
        form: "name", "json", "yaml", "jsonpath=..." or "jsonpath-as-json=...".
        many: whether it is a list, also of one or none; by default more or less than one.
    """
    text = rendered(objects, form, many=many)
    if form.startswith("jsonpath") and sys.stdout.isatty():
        # For programs it is to the byte what the objects hold; what strangers wrote into them steers no terminal.
        text = "".join(character if character in "\n\t" else printable(character) for character in text)
    sys.stdout.write(text)  # click.echo takes escape sequences out where there is no terminal


def rendered(objects: Sequence[Object], form: str, *, many: bool | None = None) -> str:
    """What `show` prints, with the line's end where kubectl has one.

    Raises:
        Misuse: a template that cannot be read.
        Failure: one that does not fit the objects.
    """
    kind, _, template = form.partition("=")
    if kind == "name":
        return "".join(f"{name_of(value)}\n" for value in objects)
    shown = [_without_managers(value) for value in objects]
    whole = as_list(shown) if (len(shown) != 1 if many is None else many) else shown[0]
    match kind:
        case "jsonpath-as-json":
            return _templated(whole, template, as_values=True)
        case "json":
            return as_json(whole) + "\n"
        case "yaml":
            return as_yaml(whole)
        case _:
            return _templated(whole, template)


def name_of(value: Object) -> str:
    """As `-o name`: imagestream.image.openshift.io/web."""
    group, slash, _ = str(value.get("apiVersion", "")).partition("/")
    kind = str(value.get("kind", "")).lower()
    return f"{kind}.{group}/{value['metadata']['name']}" if slash else f"{kind}/{value['metadata']['name']}"


def as_list(objects: Sequence[Object]) -> Object:
    """Many objects as one, of any kinds."""
    return {"apiVersion": "v1", "items": list(objects), "kind": "List", "metadata": {"resourceVersion": ""}}


def as_json(value: object) -> str:
    """JSON as kubectl writes it: keys sorted, four spaces, and what HTML would take amiss escaped. It holds no line end
    at its end. Escaped is also what could steer a terminal.
    """
    text = json.dumps(value, indent=4, ensure_ascii=False, sort_keys=True)
    return "".join(character if _is_plain(character) else _escaped(character) for character in text)


def _is_plain(character: str) -> bool:
    return character == "\n" or (character.isprintable() and character not in "<>&")


def _escaped(character: str) -> str:
    """In JSON, a character that is no ASCII is one or two units of UTF-16."""
    return json.dumps(character)[1:-1] if ord(character) > 0x7E else f"\\u{ord(character):04x}"


def as_yaml(value: object) -> str:
    """YAML with sorted keys; texts of several lines stay readable, and what could be read as another type is quoted."""
    import yaml  # noqa: PLC0415  # 10 ms

    class Dumper(yaml.CSafeDumper):
        pass

    def text(dumper: Any, value: str) -> Any:
        is_plain = dumper.resolve(yaml.ScalarNode, value, (True, False)) == _TEXT
        style = None if is_plain and value.isprintable() else '"'
        if "\n" in value and all(map(_is_fit, value.split("\n"))):
            style = "|"
        return dumper.represent_scalar(_TEXT, value, style=style)

    def _is_fit(line: str) -> bool:
        return line.isprintable() and line == line.rstrip()

    Dumper.add_representer(str, text)
    # A value that occurs twice is written twice.
    Dumper.ignore_aliases = lambda *_: True  # type: ignore[method-assign]
    written: str = yaml.dump(value, Dumper=Dumper, default_flow_style=False, allow_unicode=True, width=_WIDE)
    # What is left of these stands in double quotes.
    return "".join(each if each == "\n" or each.isprintable() else f"\\U{ord(each):08x}" for each in written)


def _without_managers(value: Object) -> Object:
    metadata = value.get("metadata") or {}
    if "managedFields" not in metadata:
        return value
    return {**value, "metadata": {name: part for name, part in metadata.items() if name != "managedFields"}}


def with_template(form: str) -> str:
    """A jsonpath form whose template can be read, "jsonpath-file=FILE" with what the file holds. Whether the template
    fits is seen only at the objects. Raises Misuse.
    """
    kind, _, template = form.partition("=")
    if kind == "jsonpath-file":
        kind, template = "jsonpath", _content(template)
    _parsed(template)
    return f"{kind}={template}"


def _content(name: str) -> str:
    try:
        return read_bytes(name, _MAX_TEMPLATE).decode()
    except OSError as error:
        raise Misuse(f"error: error reading --template {name}, {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Misuse(f"error: the template {name} is no UTF-8 text") from error


def _parsed(template: str) -> Template:
    from imagestreams.cli import jsonpath  # noqa: PLC0415

    try:
        return jsonpath.parse(template)
    except jsonpath.InvalidTemplate as error:
        raise Misuse(f"error: error parsing jsonpath {template}, {error}") from error


def _templated(whole: Object, template: str, *, as_values: bool = False) -> str:
    from imagestreams.cli import jsonpath  # noqa: PLC0415

    parsed = _parsed(template)
    try:
        if as_values:
            return "".join(f"{as_json(found)}\n" for found in jsonpath.find(parsed, whole))
        return jsonpath.evaluate(parsed, whole)
    except jsonpath.DoesNotFit as error:
        words = f"error: error executing jsonpath {json.dumps(template)}: Error executing template: {error}."
        raise Failure(words) from error
