"""Did you mean ...? Guesses at what a wrong key or value was meant to be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dlhpc.spec.base import MAX_INT, NAME_PATTERN, Spec
from dlhpc.spec.kinds import Choice, Section, child, fields, options

OTHER_NAMES: Final = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "epochs": "num_epochs",
    "classes": "num_classes",
    "num_labels": "num_classes",
    "layers": "hidden_sizes",
    "filters": "channels",
    "stride": "strides",
    "dropout": "dropout_rate",
    "norm": "normalization",
    "smoothing": "label_smoothing",
    "accumulation_steps": "gradient_accumulation",
    "dtype": "precision",
    "dataset": "data",
    "augmentation": "augment",
    "zero": "zero_stage",
    "beta1": "b1",
    "beta2": "b2",
    "epsilon": "eps",
    "type": "name",
    "random_seed": "seed",
    "lr_scheduler": "schedule",
    "pct_start": "warmup",
    "eta_min": "final_scale",
    "min_lr": "min_scale",
}
"""What other tools call our keys."""

YES_NO: Final = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def closest(text: str, candidates: Iterable[str]) -> str | None:
    """The candidate that looks most like the text, if any does."""
    by_folded = {candidate.lower().replace("-", "_"): candidate for candidate in candidates}
    folded = text.lower().replace("-", "_")
    if OTHER_NAMES.get(folded) in by_folded:
        return by_folded[OTHER_NAMES[folded]]
    found = difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


@dataclass(frozen=True)
class Words:
    """How a file says what the spec says otherwise."""

    keys: Mapping[str, tuple[str, ...]]
    """Dotted section -> keys that a file may have there beside the spec's own."""
    tags: Mapping[str, tuple[str, Mapping[str, tuple[str, ...]]]]
    """Dotted tag -> (the file's key, {choice -> what the file may say for it})."""


def key_hint(
    root: Section, path: tuple[str, ...], key: str, chosen: tuple[Section | Choice, type[Spec]], words: Words
) -> str:
    """What to write instead of an unknown key below `path`, where a kind and the class chosen of it are given."""
    kind, spec = chosen
    if ":" in key:
        return "YAML wants a space after the colon"
    homes = [".".join((*p, key)) for p, _ in places(root, key) if p != path]
    if isinstance(kind, Choice) and any(key in fields(option) for option in kind.options.values()):
        return _owners(path, key, kind, spec, words)
    near = closest(key, (*fields(spec), *words.keys.get(".".join(path), ())))
    if homes and (near is None or _likeness(key, near) < 0.8):
        return f"it belongs to {_or(homes)}"
    elsewhere = closest(key, {name for _, name in places(root, None)})
    if near is not None and (elsewhere is None or _likeness(key, near) > _likeness(key, elsewhere) - 0.2):
        return f"did you mean {near!r}?"
    if elsewhere is not None:
        return f"did you mean {' or '.join(repr('.'.join((*p, elsewhere))) for p, _ in places(root, elsewhere))}?"
    return f"expected one of {', '.join(fields(spec))}"


def _likeness(key: str, candidate: str) -> float:
    return difflib.SequenceMatcher(None, key, candidate).ratio()


def _owners(path: tuple[str, ...], key: str, kind: Choice, spec: type[Spec], words: Words) -> str:
    """Which choices have the key, and which one was made."""
    dotted = ".".join((*path, kind.tag))
    label, texts = words.tags.get(dotted, (dotted, {tag: (tag,) for tag in kind.options}))
    owners = [text for tag, option in kind.options.items() if key in fields(option) for text in texts[tag]]
    here = next(texts[tag] for tag, option in kind.options.items() if option is spec)
    return f"it belongs to {label} {_or(owners)}, not to {_or(here)}"


def _or(texts: Iterable[str]) -> str:
    return " or ".join(map(repr, texts))


def places(
    kind: Section | Choice, key: str | None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path of the section, key) of every key in the tree with this name (all keys for None), each once."""
    seen: set[str] = set()
    for _, spec in options(kind):
        for name in fields(spec):
            if name in seen:
                continue
            seen.add(name)
            if key is None or name == key:
                yield path, name
            inner = child(kind, name)
            if isinstance(inner, Section | Choice):
                yield from places(inner, key, (*path, name))


def value_hint(value: Any, schema: dict[str, Any]) -> str | None:
    """What to write instead of a wrong value, when that can be guessed."""
    alternatives = schema.get("anyOf", [schema])
    types = {option.get("type") for option in alternatives}
    choices = [c for option in alternatives for c in option.get("enum", [option.get("const")])]
    if isinstance(value, str):
        near = closest(value, [c for c in choices if isinstance(c, str)])
        if near is not None:
            return f"did you mean {near!r}?"
        if any(option.get("pattern") == NAME_PATTERN for option in alternatives):
            slug = re.sub(r"[^a-z0-9._-]+", "-", value.lower()).strip("-._")
            return f"did you mean {slug!r}?" if re.fullmatch(NAME_PATTERN, slug) else None
        if "array" in types:
            return f"a list stands in brackets: [{', '.join(value.split(','))}]" if "," in value else None
        if "boolean" in types and value.lower() in YES_NO:
            return f"YAML 1.2 knows only true and false; did you mean {YES_NO[value.lower()]}?"
        if types & {"integer", "number"}:
            return _number_hint(value, whole="number" not in types)
    if isinstance(value, int) and value > MAX_INT and "integer" in types:
        return f"the greatest is {MAX_INT}"
    if isinstance(value, float) and "integer" in types and value.is_integer():
        return f"did you mean {int(value)}?"
    if isinstance(value, int | float) and "array" in types and not isinstance(value, bool):
        return f"did you mean [{value}]?"
    return None


def _number_hint(text: str, *, whole: bool) -> str | None:
    try:
        number = float(text.replace("_", "").replace(",", "."))
    except ValueError:
        return None
    if not abs(number) < 1e15:
        return None
    if number.is_integer():
        return f"did you mean {int(number)}, without quotes?"
    return None if whole else f"did you mean {number}, without quotes?"
