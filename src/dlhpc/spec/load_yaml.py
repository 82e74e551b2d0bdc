"""YAML text -> nodes with places. YAML 1.2 scalars, no tags, bounded aliases; every problem with line and column.

Built on the parser's events rather than on composed nodes: they come one by one, so depth and size are bounded
before anything is built, and an alias keeps the place where it was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from dlhpc.errors import NotFoundError
from dlhpc.spec.tree import REFUSED, Entry, Node, Place, Problems

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 32
MAX_NODES: Final = 20_000
MAX_DIGITS: Final = 300

_INTEGER = re.compile(r"[-+]?[0-9]+\Z")
_BASED = re.compile(r"0(?:o[0-7]+|x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_SPECIAL: Final[dict[str, Any]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


def read_text(path: Path) -> str:
    """The file's text. NotFoundError when there is none, ConfigError when it is too large or not UTF-8."""
    problems = Problems()
    if path.is_dir():
        problems.add(Place(str(path)), "", "is a folder, expected a configuration file")
        problems.raise_any()
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        hint = f"; 'dlhpc config init {path}' writes one" if path.suffix in {".yaml", ".yml"} else ""
        raise NotFoundError(f"{path}: no such file{hint}") from None
    except OSError as error:
        problems.add(Place(str(path)), "", f"cannot be read: {error.strerror or error}")
        problems.raise_any()
    if len(content) > MAX_BYTES:
        problems.add(Place(str(path)), "", f"is larger than {MAX_BYTES // 1024} KiB: that is no configuration")
        problems.raise_any()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - (content.rfind(b"\n", 0, error.start) + 1) + 1
        text = f"byte 0x{content[error.start]:02x} is not UTF-8: save the file as UTF-8"
        problems.add(Place(str(path), line, column), "", text)
        problems.raise_any()
        raise AssertionError("unreachable") from error


def parse(text: str, place: Place, problems: Problems) -> Node | None:
    """The one document in `text`; None (with the reason among the problems) when it cannot be read at all.

    `place` names the file; a place without a line (--set, environment) is kept for every value as it is.
    """
    builder = _Builder(text, place, problems)
    try:
        return builder.document()
    except _Unreadable:
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        builder.report(mark, _syntax(error))
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1
        builder.report_at(line, column, f"character U+{_code(error.character):04X} is not allowed in YAML")
    except (ValueError, OverflowError):
        # PyYAML hands escapes and directives to chr() and int() unchecked.
        problems.add(place, "", "an escape or directive in this text has an impossible number")
    return None


class _Unreadable(Exception):  # noqa: N818 - never leaves this file
    """The document cannot be read; the problem has been noted."""


def _syntax(error: yaml.MarkedYAMLError) -> str:
    text = error.problem or "not YAML"
    if error.context:
        text = f"{text} ({error.context})"
    if "'\\t'" in text:
        return f"{text}: indent with spaces, not with tabs"
    if "cannot start any token" in text:
        return f"{text}: put the value in quotes"
    if "mapping values are not allowed here" in text:
        return f"{text}: check the indentation, or put the value in quotes"
    return f"{text}: the file is not valid YAML"


def resolve_scalar(text: str) -> Any:
    """A plain scalar's value by the YAML 1.2 core schema: `1e-3` is a number; `no`, `on`, `1_000` are texts.

    Raises ValueError for a number of more than 300 digits.
    """
    if text in _SPECIAL:
        return _SPECIAL[text]
    is_number = _INTEGER.match(text) or _BASED.match(text) or _FLOAT.match(text)
    if is_number and len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    if _INTEGER.match(text):
        return int(text)
    if _BASED.match(text):
        return int(text, 0)
    return float(text) if is_number else text


class _Builder:
    """Turns the parser's events into nodes."""

    def __init__(self, text: str, place: Place, problems: Problems) -> None:
        self._lines = text.splitlines()
        self._place = place
        self._problems = problems
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._anchors: dict[str, tuple[Node, int] | None] = {}
        self._nodes = 0

    def document(self) -> Node | None:
        root: Node | None = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.report(event.start_mark, "a second document starts here, expected one document in the file")
                    raise _Unreadable
                root = self._node(next(self._events), ())
        return root

    def report(self, mark: Any, text: str, key: str = "") -> None:
        self._problems.add(self._at(mark), key, text)

    def report_at(self, line: int, column: int, text: str) -> None:
        self._problems.add(self._position(line, column), "", text)

    def _at(self, mark: Any) -> Place:
        return self._place if mark is None else self._position(mark.line + 1, mark.column + 1)

    def _position(self, line: int, column: int) -> Place:
        if self._place.source:  # a --set or an environment variable: its origin already shows the whole text
            return Place(self._place.origin, layer=self._place.layer)
        source = self._lines[line - 1] if line <= len(self._lines) else ""
        return Place(self._place.origin, line, column, source, self._place.layer)

    def _stop(self, mark: Any, text: str) -> _Unreadable:
        self.report(mark, text)
        return _Unreadable()

    def _node(self, event: Any, path: tuple[str, ...]) -> Node:
        if len(path) > MAX_DEPTH:
            raise self._stop(event.start_mark, f"nested deeper than {MAX_DEPTH} levels: that is no configuration")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        anchor = event.anchor
        before = self._nodes
        self._count(1, event)
        if anchor is not None:
            self._anchors[anchor] = None
        node = self._content(event, path)
        if event.tag is not None:
            self.report(event.start_mark, f"tag '{_tag(event.tag)}' came, expected a value without a tag")
            node = Node(REFUSED, node.place)
        if anchor is not None:
            self._anchors[anchor] = (node, self._nodes - before)
        return node

    def _count(self, more: int, event: Any) -> None:
        self._nodes += more
        if self._nodes > MAX_NODES:
            text = f"expands to more than {MAX_NODES} values: that is no configuration"
            raise self._stop(event.start_mark, text)

    def _alias(self, event: Any) -> Node:
        place = self._at(event.start_mark)
        if event.anchor not in self._anchors:
            self.report(event.start_mark, f"alias '*{event.anchor}' has no anchor '&{event.anchor}' before it")
            return Node(REFUSED, place)
        target = self._anchors[event.anchor]
        if target is None:
            self.report(event.start_mark, f"alias '*{event.anchor}' stands inside what it names")
            return Node(REFUSED, place)
        node, size = target
        self._count(size, event)
        return Node(node.value, place)

    def _content(self, event: Any, path: tuple[str, ...]) -> Node:
        place = self._at(event.start_mark)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(following := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(following, (*path, str(len(items)))))
            return Node(items, place)
        if isinstance(event, yaml.MappingStartEvent):
            return Node(self._entries(path), place)
        return Node(self._scalar(event), place)

    def _entries(self, path: tuple[str, ...]) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        while not isinstance(key := next(self._events), yaml.MappingEndEvent):
            place = self._at(key.start_mark)
            is_text = isinstance(key, yaml.ScalarEvent) and key.tag is None
            name = _characters(key.value) if is_text else None
            if name is None:
                if not is_text:
                    self._node(key, (*path, ""))
                text = "a list, mapping, alias, tag or unprintable text came as a key, expected a name"
                self._problems.add(place, "", text)
            value = self._node(next(self._events), (*path, name or ""))
            if name is None:
                continue
            dotted = ".".join((*path, name))
            if name == "<<":
                self._problems.add(place, dotted, "merge keys are not supported; use 'extends' for shared settings")
            elif name in entries:
                first = entries[name].place
                where = f"line {first.line}" if first.line else "earlier in the same text"
                self._problems.add(place, dotted, f"duplicate key, first given on {where}; keep one")
            else:
                entries[name] = Entry(place, value)
        return entries

    def _scalar(self, event: Any) -> Any:
        text = _characters(event.value)
        if text is None:
            return self._refuse(event, "a text with NUL or half a character came, expected printable text")
        if not event.implicit[0]:
            return text
        try:
            return resolve_scalar(event.value)
        except ValueError as error:
            return self._refuse(event, f"{error} came, expected at most {MAX_DIGITS}")

    def _refuse(self, event: Any, text: str) -> Any:
        self.report(event.start_mark, text)
        return REFUSED


def _code(character: Any) -> int:
    # PyYAML gives the number, its type stubs promise the text.
    return character if isinstance(character, int) else ord(character)


def _characters(text: str) -> str | None:
    """The text with characters that JSON writes as two escapes joined; None when it holds NUL or half of one."""
    try:
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return None
    return None if "\0" in joined else joined


def _tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!", 1)


def load_mapping(path: Path, *, layer: int = 0) -> Node:
    """A YAML or JSON file's top mapping, with places. Raises NotFoundError, or ConfigError with every problem.

    `node.entries[key].place.problem(key, text)` words a contradiction found later, with line and caret.
    """
    problems = Problems()
    node = read_mapping(path, problems, layer=layer)
    problems.raise_any()
    if node is None:
        raise AssertionError("a file without problems has a mapping")
    return node


def read_mapping(path: Path, problems: Problems, *, layer: int = 0) -> Node | None:
    """As load_mapping, but notes the problems inside the text; None when there is no mapping to go on with."""
    text = read_text(path)
    if path.suffix == ".json":
        text = text.replace("\t", " ")  # JSON may be indented by tabs, YAML may not; columns stay as they are
    place = Place(str(path), layer=layer)
    before = len(problems)
    node = parse(text, place, problems)
    if node is None or node.value is None:
        if len(problems) == before:
            problems.add(place, "", "the file is empty, expected settings; 'dlhpc config init' writes a commented file")
        return None
    if node.value is REFUSED:
        return None
    if not isinstance(node.value, dict):
        problems.add(node.place, "", "the file holds no mapping, expected sections such as 'model:' and 'training:'")
        return None
    return node
