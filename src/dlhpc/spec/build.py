"""Nodes -> specs: every value checked strictly where it stands, every problem noted with its place."""

from __future__ import annotations

import re
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import to_json

from dlhpc.spec.base import NAME_PATTERN, Spec
from dlhpc.spec.kinds import Choice, Items, Kind, Leaf, Named, Section, describe, fields, show
from dlhpc.spec.suggest import Words, closest, key_hint, value_hint
from dlhpc.spec.tree import REFUSED, Entry, Node, Place, Problems

BAD: Final = object()
"""Stands for a value that could not be built."""


class Builder:
    """Builds one spec. `bad` collects the dotted keys whose values were not usable."""

    def __init__(self, root: type[Spec], problems: Problems, words: Words) -> None:
        self._root = Section(root)
        self._problems = problems
        self._words = words
        self.bad: set[str] = set()
        self.places: dict[str, Place] = {}

    def build(self, node: Node) -> Any:
        """The spec, made of what was usable, or BAD."""
        return self._mapping(self._root, node, (), node.place)

    def _note(self, place: Place, path: tuple[str, ...], text: str) -> object:
        key = ".".join(path)
        self.bad.add(key)
        self._problems.add(place, key, text)
        return BAD

    def _any(self, kind: Kind, entry: Entry, path: tuple[str, ...]) -> Any:
        self.places[".".join(path)] = entry.node.place
        if entry.node.value is REFUSED:
            self.bad.add(".".join(path))
            return BAD
        match kind:
            case Section() | Choice():
                return self._mapping(kind, entry.node, path, entry.place)
            case Items():
                return self._items(kind, entry.node, path)
            case Named():
                return self._named(kind, entry.node, path)
            case Leaf():
                return self._leaf(kind, entry.node, path)

    def _mapping(self, kind: Section | Choice, node: Node, path: tuple[str, ...], key_place: Place) -> Any:
        if node.value is None:
            if kind.optional:
                return None
            node = Node({}, node.place)
        if not isinstance(node.value, dict):
            keys = ", ".join(fields(next(iter(kind.options.values())) if isinstance(kind, Choice) else kind.spec))
            return self._note(node.place, path, f"{_came(node.value)}, expected a mapping with keys such as {keys}")
        spec = kind.spec if isinstance(kind, Section) else self._chosen(kind, node, path, key_place)
        values: dict[str, Any] = {}
        if spec is None:
            return BAD
        for key, entry in node.entries.items():
            inner = fields(spec).get(key)
            if inner is None:
                hint = key_hint(self._root, path, key, (kind, spec), self._words)
                self._note(entry.place, (*path, key), f"unknown key; {hint}")
                continue
            value = self._any(inner, entry, (*path, key))
            if value is not BAD:
                values[key] = value
        return self._finish(spec, values, path, key_place, node)

    def _chosen(self, kind: Choice, node: Node, path: tuple[str, ...], key_place: Place) -> type[Spec] | None:
        entry = node.entries.get(kind.tag)
        choices = ", ".join(map(repr, kind.options))
        if entry is None:
            if kind.default is None:
                self._note(key_place, (*path, kind.tag), f"missing, expected one of {choices}")
                return None
            return kind.options[kind.default]
        tag = entry.node.value
        if isinstance(tag, str) and tag in kind.options:
            return kind.options[tag]
        near = closest(tag, kind.options) if isinstance(tag, str) else None
        if tag is not REFUSED:
            hint = f"; did you mean {near!r}?" if near else ""
            self._note(entry.node.place, (*path, kind.tag), f"{_came(tag)}, expected one of {choices}{hint}")
        self.bad.add(".".join(path))
        if near is not None:  # the rest is checked against what was probably meant
            rest = {key: e for key, e in node.entries.items() if key != kind.tag}
            self._mapping(Section(kind.options[near]), Node(rest, node.place), path, key_place)
        return None

    def _finish(
        self, spec: type[Spec], values: dict[str, Any], path: tuple[str, ...], key_place: Place, node: Node
    ) -> Any:
        missing = False
        for name, info in spec.model_fields.items():
            if not info.is_required() or name in values:
                continue
            missing = True
            if name not in node.entries:
                inner = fields(spec)[name]
                wanted = describe(inner.schema()) if isinstance(inner, Leaf) else "a value"
                about = f" ({info.description.rstrip('.')})" if info.description else ""
                self._note(key_place, (*path, name), f"missing, expected {wanted}{about}")
        if missing:
            return BAD
        try:
            return spec.model_validate(values)
        except ValidationError as error:
            if any(key.startswith(".".join((*path, ""))) for key in self.bad):
                return BAD  # the rule that failed may have read a default in place of a refused value
            for detail in error.errors(include_url=False):
                inside = (*path, *(str(part) for part in detail["loc"]))
                text = detail["msg"].removeprefix("Value error, ")
                self._note(self.places.get(".".join(inside), key_place), inside, text)
            return BAD

    def _items(self, kind: Items, node: Node, path: tuple[str, ...]) -> Any:
        if not isinstance(node.value, list):
            return self._note(node.place, path, f"{_came(node.value)}, expected a list of mappings")
        built = [
            self._any(kind.item, Entry(item.place, item), (*path[:-1], f"{path[-1]}[{index}]"))
            for index, item in enumerate(node.value)
        ]
        return BAD if any(item is BAD for item in built) else tuple(built)

    def _named(self, kind: Named, node: Node, path: tuple[str, ...]) -> Any:
        if node.value is None:
            return {}
        if not isinstance(node.value, dict):
            return self._note(node.place, path, f"{_came(node.value)}, expected a mapping from names to mappings")
        for name, entry in node.entries.items():
            if not re.fullmatch(NAME_PATTERN, name):
                self._note(entry.place, (*path, name), f"{name!r} came, expected {describe({'pattern': NAME_PATTERN})}")
        built = {name: self._any(kind.item, entry, (*path, name)) for name, entry in node.entries.items()}
        return BAD if ".".join(path) in self.bad or any(item is BAD for item in built.values()) else built

    def _leaf(self, kind: Leaf, node: Node, path: tuple[str, ...]) -> Any:
        if node.refused_inside():
            self.bad.add(".".join(path))
            return BAD
        try:
            return kind.adapter.validate_json(to_json(node.plain(), inf_nan_mode="constants"), strict=True)
        except ValidationError as error:
            self._explain(kind.schema(), node, path, error)
            return BAD

    def _explain(self, schema: dict[str, Any], node: Node, path: tuple[str, ...], error: ValidationError) -> None:
        self.bad.add(".".join(path))
        fixed = _array(schema).get("prefixItems")
        whole = not isinstance(node.value, list) or (fixed is not None and len(node.value) != len(fixed))
        told: set[int] = set()
        for detail in error.errors(include_url=False, include_input=False, include_context=False):
            index = next((part for part in detail["loc"] if isinstance(part, int)), None)
            if whole or index is None or index >= len(node.value):
                self._wrong(schema, node, path)
                return
            if index not in told:
                told.add(index)
                item = _item_schema(schema, index)
                self._wrong(item, node.value[index], (*path[:-1], f"{path[-1]}[{index}]"))

    def _wrong(self, schema: dict[str, Any], node: Node, path: tuple[str, ...]) -> None:
        hint = value_hint(node.value, schema)
        text = f"{_came(node.value)}, expected {describe(schema)}"
        self._note(node.place, path, f"{text}; {hint}" if hint else text)


def _array(schema: dict[str, Any]) -> dict[str, Any]:
    return next((dict(o) for o in schema.get("anyOf", [schema]) if o.get("type") == "array"), {})


def _item_schema(schema: dict[str, Any], index: int) -> dict[str, Any]:
    listed = _array(schema)
    return dict(listed["prefixItems"][index] if "prefixItems" in listed else listed["items"])


def _came(value: Any) -> str:
    plain = Node(value, Place("")).plain()
    match plain:
        case dict():
            return "a mapping came"
        case list():
            return f"{show(plain)} came" if plain else "an empty list came"
        case str():
            return f"text {show(plain)} came"
        case None:
            return "nothing (null) came"
    return f"{show(plain)} came"
