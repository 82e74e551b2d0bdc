"""How the verbs of `dlhpc registry` tell of derived files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlhpc.cli.output import bytes_text

if TYPE_CHECKING:
    from dlhpc.registry.derived_record import DerivedRecord


def derived_json(record: DerivedRecord) -> dict[str, Any]:
    """A record as JSON values, with the change of accuracy."""
    values = record.canonical()
    if record.accuracy is not None:
        values["accuracy"]["change"] = record.accuracy.change
    return values


def derived_text(record: DerivedRecord) -> str:
    """A record in a line."""
    parity = record.parity
    text = (
        f"{record.derivation} by {record.backend}, {bytes_text(record.file.size)}: answers within "
        f"{parity.max_relative:.2g} (tolerance {parity.tolerance:g}) on {parity.examples} golden inputs"
    )
    return text + (f", accuracy {accuracy_text(record)}" if record.derivation == "int8" else "")


def accuracy_text(record: DerivedRecord) -> str:
    """Accuracy before and after, or why it is not known."""
    found = record.accuracy
    if found is None:
        return f"not measured: {record.accuracy_unknown}" if record.accuracy_unknown else ""
    points = 100 * found.change
    return f"{found.before:.4f} -> {found.after:.4f} ({points:+.2f} points, {found.examples} validation images)"
