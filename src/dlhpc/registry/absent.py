"""What to say when something is not there: what is, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from dlhpc.errors import NotFoundError, UsageError
from dlhpc.registry.places import Place

_DEFAULT = Path("registry")


def only_digest(prefix: str, found: Sequence[str], root: Place) -> str:
    """The one digest found; NotFoundError for none, UsageError for several."""
    if not found:
        raise NotFoundError(f"no version sha256:{prefix} in {root}; see: dlhpc registry list{_option(root)}")
    if len(found) > 1:
        raise UsageError(
            f"sha256:{prefix} is the beginning of {len(found)} versions: {', '.join(found)}; give more digits"
        )
    return found[0]


def empty(root: Place) -> NotFoundError:
    """There is no registry, or nothing in it."""
    setting = "" if root == _DEFAULT else f" --set registry.path={root}"
    return NotFoundError(
        f"no model is published in {root}; train one, which publishes it: dlhpc train config/flax_config.yaml{setting}"
    )


def no_name(root: Place, name: str, names: Sequence[str]) -> NotFoundError:
    """No version was ever published under this name."""
    if not names:
        return empty(root)
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are: {_some(names)}."
    return NotFoundError(f"no model {name!r} in {root}; {hint} See: dlhpc registry list{_option(root)}")


def no_number(root: Place, name: str, number: int, newest: int) -> NotFoundError:
    """The name has no such label."""
    there = "only version 1" if newest == 1 else f"versions 1 to {newest}"
    return NotFoundError(f"{name} has {there}, not {number}. See: dlhpc registry list {name}{_option(root)}")


def no_alias(root: Place, name: str, alias: str, aliases: Sequence[str], newest: int) -> NotFoundError:
    """The name has no such alias."""
    there = f"it has: {_some(aliases)}" if aliases else "it has none"
    command = f"dlhpc registry alias {name} {alias} {name}:{newest}{_option(root)}"
    return NotFoundError(f"{name} has no alias {alias!r} ({there}). To set it: {command}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _option(root: Place) -> str:
    return "" if root == _DEFAULT else f" --registry {root}"
