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

from dlhpc.errors import UsageError
from dlhpc.registry import blobs, tagging
from dlhpc.registry.conditions import Condition, parse_condition
from dlhpc.registry.diff import flatten
from dlhpc.registry.manifest import Manifest
from dlhpc.registry.reader import Reader, Version

_NOTHING: Final = object()
_OF_LABEL = frozenset({"name", "number", "digest", "alias", "published_at", "published_by", "published_from"})


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
    known: dict[str, tuple[Manifest, dict[str, Any], dict[str, str]]] = {}
    annotated = frozenset(blobs.digests(registry.annotations))
    seen: set[str] = set()
    missing = {each.key for each in late if not each.key.startswith("tag.")}
    matches: list[Match] = []
    for version in (version for name in registry.names() for version in registry.list(name)):
        label = _label_facts(version)
        if not all(each.holds(label[each.key]) for each in early):
            continue
        if version.digest not in known:
            manifest = registry.manifest(f"sha256:{version.digest}")
            tags = tagging.tags(registry.annotations, version.digest) if version.digest in annotated else {}
            known[version.digest] = manifest, _facts(manifest, tags) if late else {}, tags
        manifest, facts, tags = known[version.digest]
        missing -= facts.keys()
        seen |= facts.keys()
        if all(_holds(each, facts) for each in late):
            matches.append(Match(version, manifest, tags))
    if seen:
        _refuse_unknown(missing, late, seen)
    return tuple(sorted(matches, key=lambda match: (match.version.sequence, match.version.name)))


def _holds(condition: Condition, facts: Mapping[str, Any]) -> bool:
    found = facts.get(condition.key, _NOTHING)
    if found is _NOTHING:
        return condition.operator == "!="
    return condition.holds(found)


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


def _facts(manifest: Manifest, tags: Mapping[str, str]) -> dict[str, Any]:
    run = flatten(manifest.run.canonical())
    return {
        **run,
        **manifest.metrics,
        **{f"run.{key}": value for key, value in run.items()},
        **{f"metric.{key}": value for key, value in manifest.metrics.items()},
        **{f"environment.{key}": value for key, value in manifest.environment.items()},
        **{f"tag.{key}": value for key, value in tags.items()},
        "model": manifest.run.model_name,
        "backend": manifest.run.backend,
        "data_fingerprint": manifest.data_fingerprint,
        "commit": None if manifest.code is None else manifest.code.commit,
        "parent": manifest.parents,
    }


def _refuse_unknown(missing: set[str], conditions: Sequence[Condition], seen: set[str]) -> None:
    for condition in conditions:
        if condition.key in missing:
            near = get_close_matches(condition.key, [*seen, *_OF_LABEL], n=3, cutoff=0.6)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            start = len(condition.text) - len(condition.text.lstrip())
            raise UsageError(
                f"search condition, column {start + 1}: no version has {condition.key!r}{hint}\n"
                f"  {condition.text}\n  {' ' * start}^"
            )
