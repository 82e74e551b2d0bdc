"""Search: the versions that fulfil conditions (conditions.py). A plain scan: what is found is what the files say.

A key is looked for in this order:

    name number digest alias published_at published_by published_from   of the label; published_from is the run's folder
    model backend data_fingerprint commit parent                        of the version: model is FlaxMLP and the like
    tag.KEY  metric.KEY  environment.KEY  run.KEY                       said in full
    a metric, such as accuracy                                          of the manifest
    a setting of the run, such as optimizer.name                        of the manifest
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from dlhpc.registry import blobs, tagging
from dlhpc.registry.conditions import Condition, mistake, parse_condition
from dlhpc.registry.diff import flatten
from dlhpc.registry.manifest import Manifest
from dlhpc.registry.reader import Reader, Version

_NOTHING: Final = object()
_OF_LABEL = frozenset({"name", "number", "digest", "alias", "published_at", "published_by", "published_from"})
_OF_VERSION = ("model", "backend", "data_fingerprint", "commit", "parent")


@dataclass(frozen=True)
class Match:
    """A version that fulfils all conditions."""

    version: Version
    manifest: Manifest
    tags: dict[str, str]


def search(registry: Reader, conditions: Sequence[str]) -> tuple[Match, ...]:
    """The versions of all names that fulfil every condition, oldest first.

    Raises UsageError, with the place, for a malformed condition and for a key that no version has; IntegrityError when
    a manifest that has to be read is damaged.
    """
    wanted = [parse_condition(text) for text in conditions]
    early = [each for each in wanted if each.key in _OF_LABEL]
    late = [each for each in wanted if each.key not in _OF_LABEL]
    annotated = frozenset(blobs.digests(registry.annotations))
    missing = {each.key for each in late if not each.key.startswith("tag.")}
    judged: dict[str, tuple[Manifest, dict[str, str]] | None] = {}
    last: Manifest | None = None
    matches: list[Match] = []
    for version in (version for name in registry.names() for version in registry.list(name)):
        label = _label_facts(version) if early else {}
        if not all(each.holds(label[each.key]) for each in early):
            continue
        if version.digest not in judged:
            last = registry.manifest_of(version.digest)
            tags = tagging.tags(registry.annotations, version.digest) if version.digest in annotated else {}
            found = [_find(each.key, last, tags) for each in late]
            missing -= {each.key for each, value in zip(late, found, strict=True) if value is not _NOTHING}
            holds = all(_holds(each, value) for each, value in zip(late, found, strict=True))
            judged[version.digest] = (last, tags) if holds else None
        fulfils = judged[version.digest]
        if fulfils is not None:
            matches.append(Match(version, *fulfils))
    if last is not None:
        _refuse_unknown(missing, late, last)
    return tuple(sorted(matches, key=lambda match: (match.version.sequence, match.version.name)))


def _holds(condition: Condition, found: Any) -> bool:
    return condition.operator == "!=" if found is _NOTHING else condition.holds(found)


def _label_facts(version: Version) -> dict[str, Any]:
    return {
        "name": version.name,
        "number": version.number,
        "digest": version.digest,
        "alias": version.aliases,
        "published_at": version.published_at,
        "published_by": version.published_by,
        "published_from": version.run or "",
    }


def _find(key: str, manifest: Manifest, tags: Mapping[str, str]) -> Any:
    """What a version has under a key, or _NOTHING."""
    scope, _, rest = key.partition(".")
    match key, scope:
        case "model", _:
            return manifest.run.model_name
        case "backend", _:
            return manifest.run.backend
        case "data_fingerprint", _:
            return manifest.data_fingerprint
        case "commit", _:
            return None if manifest.code is None else manifest.code.commit
        case "parent", _:
            return manifest.parents
        case _, "tag":
            return tags.get(rest, _NOTHING)
        case _, "metric":
            return manifest.metrics.get(rest, _NOTHING)
        case _, "environment":
            return manifest.environment.get(rest, _NOTHING)
        case _, "run":
            return _setting(rest, manifest)
    return manifest.metrics[key] if key in manifest.metrics else _setting(key, manifest)


def _setting(key: str, manifest: Manifest) -> Any:
    found: Any = manifest.run.canonical()
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            return _NOTHING
        found = found[part]
    return found


def _refuse_unknown(missing: set[str], conditions: Sequence[Condition], manifest: Manifest) -> None:
    there = [*_OF_LABEL, *_OF_VERSION, *manifest.metrics, *flatten(manifest.run.canonical())]
    there += [f"environment.{key}" for key in manifest.environment]
    for condition in conditions:
        if condition.key in missing:
            near = get_close_matches(condition.key, there, n=3, cutoff=0.6)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            start = len(condition.text) - len(condition.text.lstrip())
            raise mistake(condition.text, start, f"no version has {condition.key!r}{hint}")
