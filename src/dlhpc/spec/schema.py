"""JSON Schema of a file, closed at every level, so that an editor completes and checks keys while they are typed."""

from __future__ import annotations

import inspect
from typing import Any, Final

from pydantic_core import PydanticUndefined, to_jsonable_python

from dlhpc.spec.base import NAME_PATTERN, Spec
from dlhpc.spec.kinds import Choice, Items, Kind, Leaf, Named, Section, fields
from dlhpc.spec.layers import Form
from dlhpc.spec.run import MODEL_NAMES, RunSpec

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
NAME_HELP: Final = "Architecture, and the framework that trains it."
EXTENDS: Final = {
    "description": "Files whose settings this file starts from, relative to it; later ones win over earlier ones.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}


def file_schema(form: Form) -> dict[str, Any]:
    """The schema of a form's files.

    A file that extends others may leave out what they say, so it is checked key by key; any other file is checked
    as a whole: the keys of the choices it makes, and nothing missing.
    """
    return {
        "$schema": DIALECT,
        "title": f"dlhpc {form.root.__name__.removesuffix('Spec').lower()}",
        "if": {"required": ["extends"]},
        "then": _Schema(whole=False).root(form),
        "else": _Schema(whole=True).root(form),
    }


class _Schema:
    def __init__(self, *, whole: bool) -> None:
        self._whole = whole

    def root(self, form: Form) -> dict[str, Any]:
        schema = self._section(form.root)
        schema["type"] = "object"
        schema["properties"] = {"extends": EXTENDS} | schema["properties"]
        if form.root is RunSpec:
            schema["properties"]["model"] = self._model(schema["properties"]["model"])
        return schema

    def _kind(self, kind: Kind) -> dict[str, Any]:
        match kind:
            case Leaf():
                return {key: value for key, value in kind.schema().items() if key != "format"}
            case Section(spec=spec):
                section = self._section(spec)
                return section | {"type": ["object", "null"]} if kind.optional else section
            case Choice():
                return self._choice(kind)
            case Items(item=item):
                return {"type": "array", "items": self._kind(item)}
            case Named(item=item):
                return {
                    "type": ["object", "null"],
                    "propertyNames": {"pattern": NAME_PATTERN},
                    "additionalProperties": self._kind(item),
                }

    def _section(self, spec: type[Spec], tag: str | None = None) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        for name, kind in fields(spec).items():
            info = spec.model_fields[name]
            inner = self._kind(kind)
            if info.description:
                inner["description"] = info.description
            if isinstance(kind, Leaf) and info.default is not PydanticUndefined:
                inner["default"] = to_jsonable_python(info.default)
            properties[name] = inner
        required = [name for name, info in spec.model_fields.items() if info.is_required()]
        if tag is not None:
            required.append(tag)
        return {
            "description": inspect.getdoc(spec) or "",
            # A section with nothing below its name says nothing; where something is required, that will not do.
            "type": "object" if required and self._whole else ["object", "null"],
            "properties": properties,
            "additionalProperties": False,
            **({"required": required} if required and self._whole else {}),
        }

    def _choice(self, kind: Choice) -> dict[str, Any]:
        if self._whole:
            options = [
                self._section(spec, None if name == kind.default else kind.tag) for name, spec in kind.options.items()
            ]
            return {"oneOf": options}
        sections = [self._section(spec) for spec in kind.options.values()]
        properties: dict[str, list[Any]] = {}
        for section in sections:
            for name, schema in section["properties"].items():
                if schema not in properties.setdefault(name, []):
                    properties[name].append(schema)
        joined = {name: found[0] if len(found) == 1 else {"anyOf": found} for name, found in properties.items()}
        return {"type": ["object", "null"], "properties": joined, "additionalProperties": False}

    def _model(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Let every option be chosen by `name`, which stands for the architecture and the backend."""
        names: dict[str | None, list[str]] = {None: list(MODEL_NAMES)}
        for model_name, (tag, _) in MODEL_NAMES.items():
            names.setdefault(tag, []).append(model_name)
        for option in schema.get("oneOf", [schema]):
            architecture = option["properties"]["architecture"].get("const")
            name = {
                "enum": names[architecture],
                "description": "Architecture, and the framework that trains it.",
            }
            option["properties"] = {"name": name} | option["properties"]
            if "architecture" in option.get("required", ()):
                option["required"].remove("architecture")
                option["anyOf"] = [{"required": ["name"]}, {"required": ["architecture"]}]
        return schema
