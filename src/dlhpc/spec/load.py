"""Configuration files, environment and --set -> specs, or every problem at once; and specs -> the file's form.

A file writes `model.name: FlaxMLP` where a spec has `backend: flax` and `model.architecture: mlp`; that translation
lives here, in both directions. Files in the spec's form (a run folder's run.json) are read too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from dlhpc.spec.base import Spec
from dlhpc.spec.build import BAD, Builder
from dlhpc.spec.kinds import Choice, Section, fields, show
from dlhpc.spec.layers import Form, layers, overlay
from dlhpc.spec.load_yaml import load_mapping, read_mapping
from dlhpc.spec.run import MODEL_NAMES, RunSpec
from dlhpc.spec.serving import ServingSpec
from dlhpc.spec.suggest import Words, closest
from dlhpc.spec.support import conflicts
from dlhpc.spec.tree import REFUSED, Entry, Node, Place, Problems, nest, node_of

__all__ = [
    "RUN",
    "SERVING",
    "Loaded",
    "file_form",
    "load_mapping",
    "load_run",
    "load_serving",
    "merge",
    "trace",
]


@dataclass(frozen=True)
class Loaded:
    """A spec with the places of what the user said; a dotted key that is absent has its default."""

    spec: Any
    places: Mapping[str, Place]


def load_run(
    path: Path | str | None, *, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> RunSpec:
    """The run that a file, the environment and `KEY=VALUE` overrides describe; the default run for None.

    Raises NotFoundError without the file, ConfigError with every problem otherwise.
    """
    run: RunSpec = trace(RUN, path, overrides=overrides, environ=environ).spec
    return run


def load_serving(
    path: Path | str | None, *, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> ServingSpec:
    """As load_run, for a server; its environment variables begin with DLHPC_SERVING__."""
    serving: ServingSpec = trace(SERVING, path, overrides=overrides, environ=environ).spec
    return serving


def trace(
    form: Form,
    path: Path | str | None,
    *,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """As load_run, for any form, with the place of every value that was given."""
    problems = Problems()
    node = layers(
        form,
        None if path is None else Path(path),
        overrides,
        os.environ if environ is None else environ,
        problems,
    )
    if node is None:
        problems.raise_any()
        raise AssertionError("an unreadable file has a problem")
    return _build(form, node, problems)


def guess_form(path: Path) -> Form:
    """Whether a file describes a run or a server, by its keys; a run when they do not tell."""
    problems = Problems()
    node = read_mapping(path, problems)
    keys = set(node.entries) if node else set()
    return SERVING if len(keys & set(fields(ServingSpec))) > len(keys & set(fields(RunSpec))) else RUN


def merge(run: RunSpec, values: Mapping[str, Any], origin: str) -> RunSpec:
    """The run with values on top, checked again as a whole.

    `values` has dotted keys or nested mappings, in the file's or the spec's form; nodes of `load_mapping` among
    them keep their places, the others are told as coming from `origin` (`--data DIR`, a file's name ...).
    """
    problems = Problems()
    place = Place(origin, layer=1)
    node = node_of(explicit(run), Place("the run"))
    for key, value in values.items():
        said = nest(key.split("."), node_of(value, place), place)
        node = overlay(node, RUN.to_spec(said, problems), Section(RunSpec))
    merged: RunSpec = _build(RUN, node, problems).spec
    return merged


def explicit(spec: Spec) -> dict[str, Any]:
    """What was said of a spec: its given values, without the defaults, but with every choice's tag."""
    said: dict[str, Any] = {}
    for name, kind in fields(type(spec)).items():
        value = getattr(spec, name)
        if name not in spec.model_fields_set:
            continue
        if isinstance(value, Spec):
            said[name] = explicit(value) | ({kind.tag: getattr(value, kind.tag)} if isinstance(kind, Choice) else {})
        elif isinstance(value, tuple):
            said[name] = [explicit(item) if isinstance(item, Spec) else item for item in value]
        else:
            said[name] = value
    return said


def file_form(spec: Spec) -> dict[str, Any]:
    """The spec as a file writes it, every default written out, as JSON values; what chooses the rest comes first."""
    written = _tags_first(spec, spec.canonical())
    if not isinstance(spec, RunSpec):
        return written
    del written["backend"]
    del written["model"]["architecture"]
    return written | {"model": {"name": spec.model_name} | written["model"]}


def _tags_first(spec: Spec, canonical: dict[str, Any]) -> dict[str, Any]:
    ordered = canonical
    for name, kind in fields(type(spec)).items():
        value = getattr(spec, name)
        if isinstance(value, Spec):
            inner = _tags_first(value, canonical[name])
            ordered[name] = {kind.tag: inner[kind.tag]} | inner if isinstance(kind, Choice) else inner
    return ordered


def _build(form: Form, node: Node, problems: Problems) -> Loaded:
    builder = Builder(form.root, problems, form.words)
    spec = builder.build(node)
    if spec is not BAD:
        for keys, text in form.conflicts(spec):
            if not any(_touches(bad, key) for bad in builder.bad for key in keys):
                # Told where the user spoke last; in one file, at the first of the rule's keys.
                said = [key for key in keys if key in builder.places]
                key = max(said, key=lambda key: builder.places[key].layer, default=keys[0])
                problems.add(builder.places.get(key, node.place), key, text)
    problems.raise_any()
    return Loaded(spec, builder.places)


def _touches(bad: str, key: str) -> bool:
    """Whether the value of `key` may be other than the user meant because `bad` was refused."""
    return bad == key or key.startswith(f"{bad}.") or bad.startswith((f"{key}.", f"{key}["))


def _run_to_spec(node: Node, problems: Problems) -> Node:
    """Rewrite `model.name` to `model.architecture` and `backend`."""
    model = node.entries.get("model")
    name = model.node.entries.get("name") if model else None
    if model is None or name is None:
        return node
    inner = {key: entry for key, entry in model.node.entries.items() if key != "name"}
    outer = dict(node.entries)
    pair: Sequence[Any] = (REFUSED, REFUSED)
    if isinstance(name.node.value, str) and name.node.value in MODEL_NAMES:
        pair = MODEL_NAMES[name.node.value]
    elif name.node.value is not REFUSED:
        near = closest(name.node.value, MODEL_NAMES) if isinstance(name.node.value, str) else None
        pair = MODEL_NAMES[near] if near else pair  # the rest is checked against what was probably meant
        hint = f"; did you mean {near!r}?" if near else ""
        choices = ", ".join(map(repr, MODEL_NAMES))
        problems.add(name.node.place, "model.name", f"{show(name.node.plain())} came, expected one of {choices}{hint}")
    for where, key, value in ((inner, "architecture", pair[0]), (outer, "backend", pair[1])):
        other = where.get(key)
        if other is not None and value is not REFUSED and other.node.value != value:
            came = show(other.node.plain())
            text = f"{came} came, but model.name {name.node.value} says {value!r}; keep one of the two"
            problems.add(other.node.place, f"model.{key}" if key == "architecture" else key, text)
        place = replace(name.node.place, written="model.name")
        where[key] = Entry(place, Node(value, place))
    outer["model"] = Entry(model.place, Node(inner, model.node.place))
    return Node(outer, node.place)


_FILE_NAMES: Final = {
    architecture: tuple(name for name, pair in MODEL_NAMES.items() if pair[0] == architecture)
    for architecture, _ in MODEL_NAMES.values()
}

RUN: Final = Form(
    root=RunSpec,
    prefix="DLHPC_",
    foreign=("DLHPC_SERVING__",),
    words=Words({"": ("extends",), "model": ("name",)}, {"model.architecture": ("model.name", _FILE_NAMES)}),
    to_spec=_run_to_spec,
    conflicts=conflicts,
)
"""How a training run is written."""

SERVING: Final = Form(
    root=ServingSpec,
    prefix="DLHPC_SERVING__",
    foreign=(),
    words=Words({"": ("extends",)}, {}),
    to_spec=lambda node, _: node,
    conflicts=lambda _: (),
)
"""How a server is written."""
