"""The layers of a configuration: files that extend files, environment, --set; later ones lie over earlier ones."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dlhpc.errors import NotFoundError
from dlhpc.spec.base import Spec
from dlhpc.spec.kinds import Choice, Kind, Named, Section, child, fields
from dlhpc.spec.load_yaml import parse, read_mapping
from dlhpc.spec.suggest import Words
from dlhpc.spec.tree import REFUSED, Entry, Node, Place, Problems, nest

MAX_FILES: Final = 64
ENVIRONMENT_LAYER: Final = 1000
OVERRIDE_LAYER: Final = 2000


@dataclass(frozen=True)
class Form:
    """How one kind of spec is written in files."""

    root: type[Spec]
    prefix: str
    """Of environment variables: `DLHPC_TRAINING__LEARNING_RATE` is `training.learning_rate`."""
    foreign: tuple[str, ...]
    """Prefixes of variables that belong to other forms; a form without any owns all variables of its prefix."""
    words: Words
    """What files say otherwise than specs."""
    to_spec: Callable[[Node, Problems], Node]
    """Rewrites one layer from the file's form to the spec's."""
    conflicts: Callable[[Any], Iterable[tuple[tuple[str, ...], str]]]
    """Settings of a whole spec that do not go together: (dotted keys concerned, what is wrong)."""


def overlay(base: Node, over: Node, kind: Kind | None) -> Node:
    """`over` on top of `base`: mappings are joined key by key, anything else is replaced.

    Where `over` makes another choice than `base` (another model, data source, optimizer), only the keys that all
    choices share are inherited: the others would mean something else, or nothing.
    """
    if over.value is None and (isinstance(kind, Named) or (isinstance(kind, Section | Choice) and not kind.optional)):
        return base  # `training:` with nothing below says nothing
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    entries = dict(base.entries)
    if isinstance(kind, Choice) and _switches(base, over, kind):
        shared = kind.common() - {kind.tag}
        entries = {key: entry for key, entry in entries.items() if key in shared}
    for key, entry in over.entries.items():
        below = entries.get(key)
        inner = (
            child(kind, key) if isinstance(kind, Section | Choice) else kind.item if isinstance(kind, Named) else None
        )
        entries[key] = Entry(entry.place, overlay(below.node, entry.node, inner)) if below else entry
    return Node(entries, over.place)


def _switches(base: Node, over: Node, kind: Choice) -> bool:
    chosen = over.get(kind.tag)
    before = base.get(kind.tag)
    return (
        chosen is not None
        and isinstance(chosen.value, str)
        and chosen.value in kind.options
        and (before.value if before else kind.default) != chosen.value
    )


def layers(
    form: Form, path: Path | None, overrides: Sequence[str], environ: Mapping[str, str], problems: Problems
) -> Node | None:
    """Everything the user said, joined; None when a file could not be read, so that nothing can be concluded."""
    root = Section(form.root)
    joined: Node | None = Node({}, Place("defaults"))
    if path is not None:
        joined = _Files(form, problems).read(path)
    for node in (*_environment(form, environ, problems), *_overrides(overrides, problems)):
        rewritten = form.to_spec(node, problems)
        joined = overlay(joined, rewritten, root) if joined is not None else None
    return joined


class _Files:
    """Reads a file and what it extends, each file once."""

    def __init__(self, form: Form, problems: Problems) -> None:
        self._form = form
        self._problems = problems
        self._read: dict[Path, Node | None] = {}

    def read(self, path: Path, chain: tuple[Path, ...] = ()) -> Node | None:
        real = path.resolve()
        if real in self._read:
            return self._read[real]
        node = read_mapping(path, self._problems, layer=-len(self._read))
        self._read[real] = None
        if node is None:
            return None
        bases = self._bases(node, path, (*chain, real))
        own = Node({key: entry for key, entry in node.entries.items() if key != "extends"}, node.place)
        joined = self._form.to_spec(own, self._problems)
        kind = Section(self._form.root)
        if bases is not None and bases:
            below = bases[0]
            for other in bases[1:]:
                below = overlay(below, other, kind)
            joined = overlay(below, joined, kind)
        self._read[real] = None if bases is None else joined
        return self._read[real]

    def _bases(self, node: Node, path: Path, chain: tuple[Path, ...]) -> list[Node] | None:
        entry = node.entries.get("extends")
        if entry is None:
            return []
        names = entry.node.value if isinstance(entry.node.value, list) else [entry.node]
        bases: list[Node | None] = []
        for name in names:
            if name.value is REFUSED:
                bases.append(None)
            elif not isinstance(name.value, str) or not name.value:
                self._problems.add(name.place, "extends", "expected a path relative to this file, or a list of paths")
                bases.append(None)
            else:
                bases.append(self._base(name, path.parent / name.value, chain))
        readable = [base for base in bases if base is not None]
        return readable if len(readable) == len(bases) else None

    def _base(self, name: Node, base: Path, chain: tuple[Path, ...]) -> Node | None:
        real = base.resolve()
        if real in chain:
            circle = " -> ".join(str(link.name) for link in (*chain[chain.index(real) :], real))
            self._problems.add(name.place, "extends", f"files extend each other in a circle: {circle}")
            return None
        if len(self._read) >= MAX_FILES:
            self._problems.add(name.place, "extends", f"more than {MAX_FILES} files extend each other")
            return None
        try:
            return self.read(base, chain)
        except NotFoundError:
            self._problems.add(name.place, "extends", f"no such file: {base}")
            return None


def _environment(form: Form, environ: Mapping[str, str], problems: Problems) -> Iterator[Node]:
    for name in sorted(environ):
        if not name.startswith(form.prefix) or any(name.startswith(other) for other in form.foreign):
            continue
        path = name.removeprefix(form.prefix).lower().split("__")
        place = Place(f"environment {name}", source=environ[name] or " ", layer=ENVIRONMENT_LAYER)
        if form.foreign and len(path) == 1 and path[0] not in fields(form.root):
            near = difflib.get_close_matches(path[0], fields(form.root), n=1, cutoff=0.8)
            if near:
                problems.add(place, "", f"unknown variable; did you mean {form.prefix}{near[0].upper()}?")
            continue  # other DLHPC_ names without '__' belong to other parts of dlhpc
        yield _value(environ[name], path, place, problems)


def _overrides(overrides: Sequence[str], problems: Problems) -> Iterator[Node]:
    for index, text in enumerate(overrides):
        key, equals, value = text.partition("=")
        # An argument may hold bytes that are no text.
        words = text.encode("utf-8", "backslashreplace").decode().split()
        place = Place(f"--set {_shortened(' '.join(words))}", source=text or " ", layer=OVERRIDE_LAYER + index)
        path = key.strip().split(".")
        if not equals or not all(path):
            problems.add(place, "", "expected KEY=VALUE, such as training.batch_size=32")
            continue
        yield _value(value, path, place, problems)


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _value(text: str, path: Sequence[str], place: Place, problems: Problems) -> Node:
    before = len(problems)
    node = parse(text, place, problems) or Node(None, place)
    if len(problems) > before:
        node = Node(REFUSED, place)
    return nest(path, Node(node.value, place), place)
