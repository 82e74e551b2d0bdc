"""Every key that a file may have, with what it takes, its default and its help: for `explain`, `init` and the docs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from pydantic_core import PydanticUndefined, to_jsonable_python

from dlhpc.spec.base import Spec
from dlhpc.spec.kinds import Choice, Items, Kind, Leaf, Named, Section, describe, fields
from dlhpc.spec.layers import Form
from dlhpc.spec.run import MODEL_NAMES, RunSpec

REQUIRED: Final = "(required)"
ANY_NAME: Final = "NAME"


@dataclass(frozen=True)
class Key:
    """One key, under one choice of its section."""

    path: str
    """Dotted; `[]` stands for any item of a list, NAME for any name of the user's choosing."""
    kind: Literal["value", "section", "list"]
    expected: str
    default: Any
    """As JSON; REQUIRED when there is none; None for sections."""
    help: str
    choices: Mapping[str, str]
    """What can be chosen -> what it means; empty where anything in range goes."""
    when: tuple[str, ...] = ()
    """Conditions under which the key exists or has this default, such as `data.source: digits`."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    def variable(self, form: Form) -> str:
        """The environment variable that sets the key."""
        return form.prefix + self.path.replace(".", "__").upper()


def catalogue(form: Form) -> tuple[Key, ...]:
    """All keys of a form in the order of their declaration; a key that differs between choices comes once for each."""
    keys = _joined(list(_section(form.root, None, ())))
    return tuple(_in_file_form(keys)) if form.root is RunSpec else tuple(keys)


def _section(spec: type[Spec], instance: Spec | None, path: tuple[str, ...]) -> Iterator[Key]:
    for name, kind in fields(spec).items():
        info = spec.model_fields[name]
        default = getattr(instance, name) if instance is not None else info.get_default(call_default_factory=True)
        yield from _key(kind, default, (*path, name), info.description or "")


def _key(kind: Kind, default: Any, path: tuple[str, ...], text: str) -> Iterator[Key]:
    dotted = ".".join(path)
    match kind:
        case Leaf():
            schema = kind.schema()
            value = REQUIRED if default is PydanticUndefined else to_jsonable_python(default)
            choices = {str(choice): "" for choice in schema.get("enum", ())}
            yield Key(dotted, "value", describe(schema), value, text, choices)
        case Section(spec=spec):
            yield Key(dotted, "section", "a mapping", None, text, {})
            yield from _section(spec, default if isinstance(default, Spec) else None, path)
        case Choice():
            yield Key(dotted, "section", f"a mapping, chosen by its {kind.tag}", None, text, {})
            yield from _choice(kind, default, path)
        case Named():
            yield from _any_name(kind, path, text)
        case Items(item=item):
            yield Key(dotted, "list", "a list of mappings", to_jsonable_python(default), text, {})
            below = (*path[:-1], f"{path[-1]}[]")
            if isinstance(item, Section):
                yield from _section(item.spec, None, below)
            else:
                yield from _choice(item, None, below)


def _any_name(kind: Named, path: tuple[str, ...], text: str) -> Iterator[Key]:
    yield Key(".".join(path), "section", "a mapping from names to mappings", None, text, {})
    yield from _section(kind.item.spec, None, (*path, ANY_NAME))


def _choice(kind: Choice, default: Any, path: tuple[str, ...]) -> Iterator[Key]:
    tag = ".".join((*path, kind.tag))
    choices = {name: inspect.getdoc(spec) or "" for name, spec in kind.options.items()}
    expected = "one of " + ", ".join(map(repr, kind.options))
    yield Key(tag, "value", expected, kind.default or REQUIRED, "Chooses what the other keys are.", choices)
    for name, spec in kind.options.items():
        instance = default if isinstance(default, spec) else None
        for key in _section(spec, instance, path):
            if key.path != tag:
                yield replace(key, when=(f"{tag}: {name}", *key.when))


def _joined(keys: Sequence[Key]) -> list[Key]:
    """Keys that are alike under every choice of their section told once, the others under their choices together."""
    tags = {key.path: len(key.choices) for key in keys}
    alike: dict[Any, list[Key]] = {}
    for key in keys:
        alike.setdefault(repr(replace(key, when=())), []).append(key)
    joined: dict[Any, Key] = {}
    for identity, group in alike.items():
        conditions = tuple(dict.fromkeys(condition for key in group for condition in key.when))
        by_tag: dict[str, list[str]] = {}
        for condition in conditions:
            tag, _, name = condition.partition(": ")
            by_tag.setdefault(tag, []).append(name)
        partial = {tag: names for tag, names in by_tag.items() if len(names) < tags.get(tag, 0)}
        when = tuple(f"{tag}: {' or '.join(names)}" for tag, names in partial.items())
        joined[identity] = replace(group[0], when=when)
    paths = {path: index for index, path in enumerate(dict.fromkeys(key.path for key in keys))}
    return sorted(joined.values(), key=lambda key: paths[key.path])


def _in_file_form(keys: Sequence[Key]) -> Iterator[Key]:
    """`model.name` in place of `backend` and `model.architecture`."""
    for key in keys:
        if key.path == "backend":
            continue
        if key.path == "model.architecture":
            choices = {
                name: f"{key.choices[architecture]} Trained in {'JAX/Flax' if backend == 'flax' else 'PyTorch'}."
                for name, (architecture, backend) in MODEL_NAMES.items()
            }
            expected = "one of " + ", ".join(map(repr, choices))
            text = "Chooses the architecture and the framework that trains it."
            yield replace(key, path="model.name", expected=expected, default="FlaxMLP", help=text, choices=choices)
            continue
        if key.path == "model":
            yield replace(key, expected="a mapping, chosen by its name")
            continue
        when = tuple(
            f"model.name: {' or '.join(_names(condition.removeprefix('model.architecture: ')))}"
            if condition.startswith("model.architecture: ")
            else condition
            for condition in key.when
        )
        yield replace(key, when=when)


def _names(architecture: str) -> list[str]:
    return [name for name, (tag, _) in MODEL_NAMES.items() if tag == architecture]
