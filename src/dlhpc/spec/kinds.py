"""What a spec class says about its fields: the map by which files are read, checked, explained and written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dlhpc.spec.base import LICENCE_PATTERN, MAX_INT, NAME_PATTERN, NETWORK_FORMAT, Spec
from dlhpc.spec.location import LOCATION_FORMAT


@dataclass(frozen=True)
class Leaf:
    """A scalar, or a list of scalars."""

    adapter: TypeAdapter[Any]

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the value."""
        return self.adapter.json_schema()


@dataclass(frozen=True)
class Section:
    """A mapping with the fields of one spec class."""

    spec: type[Spec]
    optional: bool = False
    """Whether null stands for None, instead of for nothing said."""


@dataclass(frozen=True)
class Choice:
    """A mapping whose `tag` key chooses the spec class."""

    tag: str
    options: Mapping[str, type[Spec]]
    default: str | None
    """The choice when the tag is absent."""
    optional: bool = False

    def common(self) -> frozenset[str]:
        """Keys that every choice inherits from one base: they outlive a switch from one choice to another."""
        classes = list(self.options.values())
        bases = [
            base
            for base in classes[0].__mro__[1:]
            if issubclass(base, Spec) and base is not Spec and all(issubclass(c, base) for c in classes)
        ]
        return frozenset(bases[0].model_fields) if bases else frozenset()


@dataclass(frozen=True)
class Items:
    """A list of mappings."""

    item: Section | Choice


@dataclass(frozen=True)
class Named:
    """A mapping from names of the user's choosing to mappings of one spec class."""

    item: Section


Kind = Leaf | Section | Choice | Items | Named


@cache
def fields(spec: type[Spec]) -> Mapping[str, Kind]:
    """The kind of every field of a spec class, in the order of their declaration."""
    return {name: _kind(_annotation(info), _default(info)) for name, info in spec.model_fields.items()}


def options(kind: Section | Choice) -> Iterator[tuple[str | None, type[Spec]]]:
    """The classes a mapping may have: (tag value or None, class)."""
    if isinstance(kind, Section):
        yield None, kind.spec
    else:
        yield from kind.options.items()


def child(kind: Section | Choice, key: str) -> Kind | None:
    """The kind of a key in any of the classes a mapping may have; None when no class has it."""
    for _, spec in options(kind):
        if key in fields(spec):
            return fields(spec)[key]
    return None


def _annotation(info: FieldInfo) -> Any:
    annotation: Any = info.annotation
    if info.discriminator is not None:
        return Annotated[annotation, FieldInfo(discriminator=info.discriminator)]
    for constraint in info.metadata:
        annotation = Annotated[annotation, constraint]
    return annotation


def _default(info: FieldInfo) -> Any:
    default = info.get_default(call_default_factory=True, validated_data={})
    return None if default is PydanticUndefined else default


def _kind(annotation: Any, default: Any) -> Kind:
    is_annotated = get_origin(annotation) is Annotated
    base, *metadata = get_args(annotation) if is_annotated else (annotation,)
    if isinstance(base, type) and issubclass(base, Spec):
        return Section(base)
    arguments = get_args(base)
    tags = [m.discriminator for m in metadata if isinstance(m, FieldInfo) and isinstance(m.discriminator, str)]
    if tags:
        return _choice(tags[0], arguments, default)
    if NoneType in arguments and len(arguments) == 2:
        inner = _kind(next(a for a in arguments if a is not NoneType), default)
        if isinstance(inner, Section | Choice):
            return replace(inner, optional=True)
    if get_origin(base) is dict:
        named = _kind(arguments[1], None)
        if isinstance(named, Section):
            return Named(named)
    if get_origin(base) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        item = _kind(arguments[0], None)
        if isinstance(item, Section | Choice):
            return Items(item)
    return Leaf(TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False)))


def _choice(tag: str, classes: tuple[Any, ...], default: Any) -> Choice:
    by_tag = {get_args(spec.model_fields[tag].annotation)[0]: spec for spec in classes}
    return Choice(tag, by_tag, getattr(default, tag, None))


def describe(schema: Mapping[str, Any], *, plural: bool = False) -> str:
    """A JSON Schema of a leaf in words: `an integer >= 1`, `a list of 2 integers >= 1`, `one of 'a', 'b'`."""
    if "anyOf" in schema:
        return " or ".join(describe(option, plural=plural) for option in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ("one of " if len(values) > 1 else "") + ", ".join(map(show, values))
    match schema.get("type"):
        case "array":
            return _describe_list(schema, plural=plural)
        case "integer" | "number" as kind:
            noun = (
                ("integers" if plural else "an integer") if kind == "integer" else "numbers" if plural else "a number"
            )
            return f"{noun}{_range(schema)}"
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case "object":
            inner = schema.get("additionalProperties")
            return f"a mapping of {describe(inner, plural=True)}" if isinstance(inner, Mapping) else "a mapping"
    if schema.get("format") == "path":
        return "paths" if plural else "a path"
    if schema.get("format") == LOCATION_FORMAT:
        return "folders or URLs" if plural else "a folder, or a URL such as s3://bucket/prefix"
    if schema.get("format") == NETWORK_FORMAT:
        return "networks or addresses" if plural else "a network such as 10.0.0.0/8, or an address"
    if schema.get("pattern") == NAME_PATTERN:
        return "a name of lower-case letters, digits, '.', '_' and '-'"
    if schema.get("pattern") == LICENCE_PATTERN:
        return "licences" if plural else "an SPDX licence expression, such as MIT"
    noun = "texts" if plural else "a text"
    return f"{noun} matching {schema['pattern']}" if "pattern" in schema else noun


def _describe_list(schema: Mapping[str, Any], *, plural: bool) -> str:
    noun = "lists of" if plural else "a list of"
    if "prefixItems" in schema:
        return f"{noun} {len(schema['prefixItems'])} {describe(schema['prefixItems'][0], plural=True)}"
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    if most is not None:
        count = f"{least} to {most} " if least else f"up to {most} "
    else:
        count = f"{least} or more " if least else ""
    return f"{noun} {count}{describe(schema['items'], plural=True)}"


def _range(schema: Mapping[str, Any]) -> str:
    bounds = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
    parts = [f"{sign} {_number(schema[key])}" for key, sign in bounds if schema.get(key, MAX_INT) != MAX_INT]
    return " " + " and ".join(parts) if parts else ""


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def show(value: Any) -> str:
    """A value as a message shows it, shortened."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list():
            inner = ", ".join(show(item) for item in value)
            return f"[{inner}]" if len(inner) <= 60 else f"a list of {len(value)}"
        case str():
            return repr(value if len(value) <= 60 else value[:57] + "...")
        case float() if not math.isfinite(value):
            return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}[str(value)]
        case other:
            return str(other)
