"""Where a registry lies: a folder, or a URL of an object store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, WithJsonSchema

OBJECT_SCHEMES: Final = ("s3", "gs", "az", "memory")
"""Schemes of object stores. `memory` is one within a process, for trying things."""
LOCATION_FORMAT: Final = "location"

_SAME = {"gcs": "gs", "abfs": "az"}
_EXPECTED = "a folder, or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix"


def check_location(value: Any) -> str:
    """A location in one spelling; ValueError, with what was expected, where it is none."""
    text = str(value) if isinstance(value, Path) else value
    if not isinstance(text, str) or not text:
        raise ValueError(f"expected {_EXPECTED}")
    scheme, mark, rest = text.partition(":/")
    if not mark or "/" in scheme:
        return str(Path(text))
    scheme = _SAME.get(scheme, scheme)
    if scheme.startswith("mlflow+"):
        raise ValueError(f"{text!r}: versions come from MLflow by `dlhpc registry pull`, and get there by `push`")
    if scheme not in OBJECT_SCHEMES:
        raise ValueError(f"{text!r}: unknown scheme {scheme!r}; expected {_EXPECTED}")
    if not rest.startswith("/") or not rest.strip("/"):
        raise ValueError(f"{text!r}: expected {scheme}://bucket/prefix")
    return f"{scheme}://{rest.strip('/')}"


Location = Annotated[
    str, BeforeValidator(check_location), WithJsonSchema({"type": "string", "format": LOCATION_FORMAT})
]


def absolute(location: str) -> str:
    """The location as other processes find it, whatever folder they work in."""
    return location if "://" in location else str(Path(location).resolve())
