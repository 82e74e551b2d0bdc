"""Checkpoints: folders that are whole or absent, and verified when read.

    checkpoints/step-00000039/{state.safetensors, manifest.json}    everything needed to go on, in either framework
    checkpoints/best-00000026/{model.safetensors, manifest.json}    the weights that did best on the held-out part
    checkpoints/last, checkpoints/best                              links to the newest of each, for people

The manifest holds the sha256 of the arrays' file, and its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from dlhpc.errors import IntegrityError, NotFoundError
from dlhpc.files import fsync_folder, write_atomic
from dlhpc.optimizers.plateau import Plateau
from dlhpc.ports import NamedArrays
from dlhpc.spec.base import Spec, canonical_json
from dlhpc.spec.run import RunSpec
from dlhpc.weights.file import from_bytes, to_bytes

Kind = Literal["training", "model"]
_PREFIX: dict[Kind, str] = {"training": "step-", "model": "best-"}
_FILE: dict[Kind, str] = {"training": "state.safetensors", "model": "model.safetensors"}
_LINK: dict[Kind, str] = {"training": "last", "model": "best"}
MANIFEST = "manifest.json"


class Score(Spec):
    """How the best weights so far did on the held-out part."""

    step: int
    epoch: float
    accuracy: float
    loss: float
    examples: int

    def beats(self, other: Score | None) -> bool:
        """Whether the accuracy is higher, or equal with a lower loss."""
        return other is None or (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


class Manifest(Spec):
    """What a checkpoint says about itself."""

    format: Literal[1] = 1
    kind: Kind
    step: int
    """Steps done."""
    seconds: float
    """Time spent on the run so far."""
    best: Score | None
    """The best evaluation up to here."""
    plateau: Plateau | None = None
    """Where reduce_on_plateau stands; None with any other schedule."""
    run: RunSpec
    """The resolved spec."""
    data_fingerprint: str
    world_size: int
    environment: dict[str, str]
    """Versions, machine, threads: with equal ones, going on is exact to the bit."""
    sha256: str
    """Of the file of arrays beside this one."""


@dataclass(frozen=True)
class Moment:
    """Where the run stands when something is saved."""

    step: int
    seconds: float
    best: Score | None
    plateau: Plateau | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    path: Path
    manifest: Manifest
    arrays: NamedArrays


class CheckpointStore:
    """The checkpoints of one run: writes them, and keeps the newest and the best."""

    def __init__(
        self, folder: Path, run: RunSpec, *, data_fingerprint: str, world_size: int, environment: dict[str, str]
    ) -> None:
        self._folder = folder
        self._run = run
        self._facts = {"data_fingerprint": data_fingerprint, "world_size": world_size, "environment": environment}
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):
            _remove(leftover)

    def write(self, kind: Kind, moment: Moment, arrays: NamedArrays) -> Path:
        """Save, then drop what is no longer kept. Returns the checkpoint's folder."""
        content = to_bytes(dict(arrays))
        manifest = Manifest(
            kind=kind,
            step=moment.step,
            seconds=moment.seconds,
            best=moment.best,
            plateau=moment.plateau,
            run=self._run,
            sha256=hashlib.sha256(content).hexdigest(),
            **self._facts,
        )
        path = self._folder / f"{_PREFIX[kind]}{moment.step:08d}"
        aside = self._folder / f".{path.name}.{secrets.token_hex(4)}.tmp"
        try:
            write_atomic(aside / _FILE[kind], content)
            write_atomic(aside / MANIFEST, _sealed(manifest))
            fsync_folder(aside)
            _swap_in(aside, path)
        finally:
            _remove(aside)
        _point(self._folder / _LINK[kind], path.name)
        self._drop_old(moment.best)
        return path

    def forget_after(self, step: int) -> None:
        """Drop the checkpoints of later steps: the run goes on from `step` as if they had never been."""
        for kind in _PREFIX:
            for path in _listed(self._folder, kind):
                if _step_of(path) > step:
                    _remove(path)
            self._point_to_newest(kind)

    def _point_to_newest(self, kind: Kind) -> None:
        paths = _listed(self._folder, kind)
        link = self._folder / _LINK[kind]
        if paths:
            _point(link, paths[-1].name)
        else:
            link.unlink(missing_ok=True)

    def _drop_old(self, best: Score | None) -> None:
        """Keep the last resume points, the best weights, and every `best` that a resume point names as its own."""
        states = _listed(self._folder, "training")
        keep = self._run.training.keep_checkpoints + 1
        for path in states[:-keep]:
            _remove(path)
        scores = [best, *(_best_of(path) for path in states[-keep:])]
        named = {score.step for score in scores if score is not None}
        for path in _listed(self._folder, "model"):
            if _step_of(path) not in named:
                _remove(path)


def find_last(folder: Path) -> Path:
    """The newest training checkpoint in a `checkpoints` folder. Raises NotFoundError when there is none."""
    states = _listed(folder, "training")
    if not states:
        raise NotFoundError(f"{folder}: no checkpoint to go on from; start the run again")
    return states[-1]


def best_beside(checkpoint: Checkpoint) -> Checkpoint | None:
    """The best weights up to a training checkpoint, verified; None when nothing had been evaluated yet."""
    best = checkpoint.manifest.best
    if best is None:
        return None
    return read_checkpoint(checkpoint.path.with_name(f"{_PREFIX['model']}{best.step:08d}"))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify. IntegrityError names the damaged file, and the checkpoint before it when there is one."""
    manifest = read_manifest(path)
    file = path / _FILE[manifest.kind]
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise IntegrityError(f"{file}: missing; {_way_out(path)}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.sha256:
        raise IntegrityError(
            f"{file}: sha256 is {digest}, the manifest says {manifest.sha256}: damaged; {_way_out(path)}"
        )
    return Checkpoint(path, manifest, from_bytes(content, str(file)))


def read_manifest(path: Path) -> Manifest:
    """Read and verify a checkpoint's manifest."""
    file = path / MANIFEST
    try:
        sealed = json.loads(file.read_bytes())
        body = sealed["manifest"]
        intact = hashlib.sha256(canonical_json(body)).hexdigest() == sealed["sha256"]
        manifest = Manifest.model_validate_json(canonical_json(body)) if intact else None
    except FileNotFoundError:
        if path.is_dir():
            raise IntegrityError(f"{file}: missing; {_way_out(path)}") from None
        raise NotFoundError(f"{path}: no such checkpoint") from None
    except (ValueError, KeyError, TypeError) as error:
        cause = "written by another version of dlhpc" if isinstance(error, ValidationError) else "not a manifest"
        raise IntegrityError(f"{file}: {cause}: {error}; {_way_out(path)}") from None
    if manifest is None:
        raise IntegrityError(f"{file}: its sha256 is not the one it names: damaged; {_way_out(path)}")
    return manifest


def _best_of(path: Path) -> Score | None:
    """The best evaluation that a resume point names; none when it is damaged: nobody can go on from it."""
    try:
        return read_manifest(path).best
    except IntegrityError:
        return None


def _way_out(path: Path) -> str:
    earlier = [other for other in _listed(path.parent, "training") if _step_of(other) < _step_of(path)]
    if not earlier:
        return "there is no earlier checkpoint: start the run again"
    return f"the checkpoint before it is {earlier[-1]}: dlhpc train --resume {earlier[-1]}"


def _sealed(manifest: Manifest) -> bytes:
    body: dict[str, Any] = manifest.canonical()
    seal = hashlib.sha256(canonical_json(body)).hexdigest()
    return json.dumps({"manifest": body, "sha256": seal}, indent=1, sort_keys=True, ensure_ascii=False).encode()


def _listed(folder: Path, kind: Kind) -> list[Path]:
    return sorted(path for path in folder.glob(f"{_PREFIX[kind]}*") if path.is_dir())


def _step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _swap_in(aside: Path, path: Path) -> None:
    """Rename `aside` to `path`; an older folder there is moved out of the way first, since rename wants it empty."""
    if path.exists():
        path.rename(path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp"))
    aside.rename(path)
    fsync_folder(path.parent)


def _point(link: Path, target: str) -> None:
    aside = link.with_name(f".{link.name}.{secrets.token_hex(4)}.tmp")
    aside.symlink_to(target)
    os.replace(aside, link)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
