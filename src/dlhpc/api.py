"""The Python face: what a user imports from `dlhpc`, and what the verbs call."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from dlhpc.backends import load_backend
from dlhpc.data.batch import HostBatch
from dlhpc.data.dataset import Dataset, Part
from dlhpc.data.pipeline import TrainingBatches, evaluation_batches
from dlhpc.data.plan import Plan
from dlhpc.data.sources import open_dataset
from dlhpc.errors import Interrupted, NotFoundError, UsageError
from dlhpc.ports import Learner
from dlhpc.publication import import_weights, keep, publish_folder, read_card, resolve
from dlhpc.registry import derived as derived_files
from dlhpc.registry import exchange, promotion, store
from dlhpc.registry.artifact import Artifact, new_artifact
from dlhpc.registry.benchmark import BenchmarkPlan
from dlhpc.registry.benchmark import Progress as Steps
from dlhpc.registry.benchmark_record import BenchmarkRecord
from dlhpc.registry.comparison import Comparison
from dlhpc.registry.derivation import derive
from dlhpc.registry.derived_record import DerivedFormat, DerivedRecord
from dlhpc.registry.diff import Difference, diff
from dlhpc.registry.events import Event, events
from dlhpc.registry.gates import parse_gate
from dlhpc.registry.gc import Swept, sweep
from dlhpc.registry.lineage import Lineage, lineage
from dlhpc.registry.model_folder import export_model, import_folder
from dlhpc.registry.places import Place
from dlhpc.registry.promotion import Promotion
from dlhpc.registry.reader import Version
from dlhpc.registry.search import Match, search
from dlhpc.registry.signing import read_private_key
from dlhpc.spec.data import DataSpec
from dlhpc.spec.load import load_run
from dlhpc.spec.run import RunSpec
from dlhpc.training.callbacks import stop_on_nan
from dlhpc.training.checkpoint import Checkpoint, CheckpointStore, read_checkpoint
from dlhpc.training.environment import differences, environment
from dlhpc.training.evaluation import EvaluationReport, report
from dlhpc.training.evaluation_data import Progress, answers, check_fits
from dlhpc.training.events import Callback
from dlhpc.training.history import History
from dlhpc.training.interruption import stop_on_signals
from dlhpc.training.loop import Fitted, HeldOut, fit
from dlhpc.training.resume import refuse_another_run
from dlhpc.training.run_folder import (
    CHECKPOINTS,
    find_checkpoint,
    locked,
    new_run_folder,
    read_result,
    run_of,
    write_result,
    write_run,
)

__all__ = ["Registry", "Trained", "evaluate", "load_run", "open_store", "resolve", "train", "train_run"]

LOG = logging.getLogger(__name__)


def _unseen(done: int, total: int) -> None:
    """Progress that nobody looks at."""


class Registry(store.Registry):
    """The registry in a folder or at a URL, whose artifacts predict with the frameworks that are installed."""

    def __init__(self, path: Place | str = "registry") -> None:
        super().__init__(path, load_backend)

    def events(self, ref: str) -> tuple[Event, ...]:
        """All that happened to a name, or to one version: publications, aliases, tags, notes; oldest first."""
        return events(self, ref)

    def search(self, *conditions: str) -> tuple[Match, ...]:
        """The versions that fulfil every condition, such as "accuracy>=0.98" or "tag.stage=gold"; oldest first."""
        return search(self, conditions)

    def diff(self, a: str, b: str, *, weights: bool = True) -> Difference:
        """How two versions differ."""
        return diff(self, a, b, weights=weights)

    def derive(
        self, ref: str, form: DerivedFormat, *, backend: str | None = None, tolerance: float | None = None
    ) -> DerivedRecord:
        """A version as a file in another format, checked against its golden examples; the record that says so."""
        return derive(self, ref, form, backend=backend, tolerance=tolerance)

    def derived(self, ref: str) -> tuple[DerivedRecord, ...]:
        """What was derived from a version, oldest first."""
        return derived_files.derived(self, ref)

    def derived_file(self, ref: str, form: DerivedFormat, *, backend: str | None = None) -> bytes:
        """The verified bytes of the newest derived file of a format."""
        return derived_files.read(self, derived_files.find(self, ref, form, backend))

    def quantised(self, ref: str) -> Artifact:
        """The artifact of a version with the weights of its int8 file."""
        return derived_files.quantised(self, ref)

    def lineage(self, ref: str) -> Lineage:
        """Where a version comes from: run, data, code, parents."""
        return lineage(self, ref)

    def export(self, ref: str, folder: Path | str) -> str:
        """Write a version as a folder of the kind that model hubs keep; its digest."""
        return export_model(self, ref, Path(folder))

    def import_folder(self, folder: Path | str, name: str, *, alias: str | None = None, note: str = "") -> Version:
        """Publish an exported folder: the same version, or IntegrityError."""
        return import_folder(self, Path(folder), name, alias=alias, note=note)

    def publish_folder(self, source: Path | str, name: str, *, alias: str | None = None, note: str = "") -> Version:
        """Publish the model of a finished run's folder, or an exported folder."""
        return publish_folder(self, Path(source), name, alias=alias, note=note)

    def import_weights(self, file: Path | str, run: RunSpec, name: str, **options: Any) -> Version:
        """Publish a safetensors state_dict that fits a run's model; options as in publication.import_weights."""
        return import_weights(self, Path(file), run, name, **options)

    def benchmark(
        self, *refs: str, plan: BenchmarkPlan | None = None, progress: Steps = _unseen
    ) -> tuple[BenchmarkRecord, ...]:
        """Measure versions in turns, in one session, and add the figures to each."""
        return promotion.benchmark(self, refs, plan or BenchmarkPlan(), progress=progress)

    def compare(
        self,
        a: str,
        b: str,
        *,
        fail_if: Sequence[str] = (),
        measure: bool | None = None,
        plan: BenchmarkPlan | None = None,
        progress: Steps = _unseen,
    ) -> Comparison:
        """Two versions side by side, and what gates such as "p99>+10%" say of the second.

        `measure` says whether to measure both now; None: where a gate asks for what was not measured in one session.
        """
        gates = [parse_gate(text) for text in fail_if]
        return promotion.compare_versions(self, a, b, gates, plan=plan, fresh=measure, progress=progress)

    def promote(
        self,
        ref: str,
        alias: str,
        *,
        fail_if: Sequence[str] | None = None,
        override: bool = False,
        note: str = "",
        measure: bool | None = True,
        plan: BenchmarkPlan | None = None,
        progress: Steps = _unseen,
    ) -> Promotion:
        """Let an alias of the reference's name stand for it, when it is verified and passes the gates.

        Raises PromotionRefusedError when it does not; `override`, with a note that says why, moves it all the same.
        """
        gates = None if fail_if is None else [parse_gate(text) for text in fail_if]
        return promotion.promote(
            self, ref, alias, gates, override=override, note=note, plan=plan, fresh=measure, progress=progress
        )

    def gc(self, *, grace_s: float | None = None, dry_run: bool = False) -> Swept:
        """Remove what interrupted publications left and is older than `grace_s` seconds: an hour, or a day
        in an object store, which is also the least there."""
        return sweep(self, grace_s=grace_s, dry_run=dry_run)


def open_store(location: Place | str) -> exchange.Store:
    """What keeps versions at a location, to copy them from and to (dlhpc.registry.exchange)."""
    return exchange.open_store(location, load_backend)


@dataclass(frozen=True)
class Trained:
    """What a training run gave."""

    artifact: Artifact
    folder: Path | None
    """The run's folder; None on ranks other than 0."""
    result: dict[str, Any]
    """What the folder's result.json says."""


def train(run: RunSpec, *, callbacks: Sequence[Callback] = (), resume: Path | None = None) -> Artifact:
    """Train, publish where `run.registry` says so, and give the weights that did best on the validation part.

    `resume` is a run folder or one of its checkpoints. Ctrl-C and SIGTERM write a checkpoint and raise Interrupted,
    which says how to go on. The test part is never read.
    """
    return train_run(run, callbacks=callbacks, resume=resume).artifact


def train_run(run: RunSpec, *, callbacks: Sequence[Callback] = (), resume: Path | None = None) -> Trained:
    """As `train`, with the run's folder and result."""
    checkpoint = None if resume is None else _checkpoint(resume)
    dataset = open_dataset(run.data, run.model)
    run = resolve(run, dataset)
    if checkpoint is not None:
        refuse_another_run(checkpoint, run, dataset.info.fingerprint)
    if run.registry.publish:
        with suppress(
            NotFoundError
        ):  # it is made when there is none; a damaged one shows now, not after the last epoch
            Registry(run.registry.path).check_format()
        if run.registry.sign_with is not None:
            read_private_key(run.registry.sign_with)
    card = read_card(run)
    learner = load_backend(run.backend).learner(run)
    with ExitStack() as stack:
        stack.callback(learner.close)
        folder = None
        if learner.rank == 0:
            folder = new_run_folder(run) if checkpoint is None else run_of(checkpoint.path)
            stack.enter_context(locked(folder))
            write_run(folder, run)
        fitted = _fit(run, dataset, learner, folder=folder, callbacks=callbacks, resume=checkpoint)
        if fitted.stop is not None and fitted.stop.interrupted:
            raise Interrupted(_how_to_go_on(fitted, learner, folder))
        return _finish(run, dataset, fitted, folder, card)


def evaluate(
    ref: str,
    *,
    registry: Place | str = "registry",
    data: DataSpec | None = None,
    part: Part | Literal["all"] = "test",
    backend: str | None = None,
    batch_size: int = 256,
    progress: Progress = lambda done, total: None,
    require_signature: Sequence[Path | str] = (),
) -> EvaluationReport:
    """Measure a published version on the test part of the data it was trained on, or of other `data`.

    The artifact is verified (`require_signature`: see Registry.get) and predicts in the framework that trained it, or
    in `backend`. Nothing else in dlhpc
    reads the test part. Raises DataError when the data's images or classes are not the model's.
    """
    artifact = Registry(registry).get(ref, require_signature=require_signature)
    run = artifact.manifest.run
    dataset = open_dataset(data or run.data, run.model)
    shape = run.model.input_shape
    assert shape is not None, "an artifact's run is resolved"
    check_fits(dataset, artifact.classes, shape)
    same = dataset.info.fingerprint == artifact.manifest.data_fingerprint
    if part == "all" and (same or data is None):
        raise UsageError(
            f"all parts together hold what {ref} has learnt from: choose the test part, or give other data"
        )
    if data is None and not same:
        LOG.warning("the data has changed since %s was trained: its training examples may be in the %s part", ref, part)
    probabilities, labels = answers(artifact.predictor(backend), dataset, part, batch_size, progress)
    return report(probabilities, labels, artifact.classes)


def _checkpoint(resume: Path) -> Checkpoint:
    path = find_checkpoint(resume)
    folder = run_of(path)
    if read_result(folder) is not None:
        raise UsageError(f"{folder}: this run has finished: there is nothing to go on with; start a new one")
    checkpoint = read_checkpoint(path)
    if checkpoint.manifest.kind != "training":
        raise UsageError(f"{path}: holds weights alone, not what going on needs; use {folder}")
    return checkpoint


def _fit(
    run: RunSpec,
    dataset: Dataset,
    learner: Learner[Any],
    *,
    folder: Path | None,
    callbacks: Sequence[Callback],
    resume: Checkpoint | None,
) -> Fitted:
    here = {"rank": learner.rank, "world_size": learner.world_size}
    plan = Plan(dataset.info.sizes["train"], run.training.batch_size, run.seed)
    steps = run.training.steps_per_dispatch
    batches = TrainingBatches(dataset, run.data, plan, seed=run.seed, steps_per_dispatch=steps, **here)
    now = environment(run.backend)
    if resume is not None and learner.rank == 0:
        _say_how_exact(resume, now, learner.world_size)
    with ExitStack() as stack:
        listening: list[Callback] = []
        store = None
        if folder is not None:
            history = History(folder)
            stack.callback(history.close)
            listening.append(history)
            store = CheckpointStore(
                folder / CHECKPOINTS,
                run,
                data_fingerprint=dataset.info.fingerprint,
                world_size=learner.world_size,
                environment=now,
            )
            store.forget_after(0 if resume is None else resume.manifest.step)
        listening += callbacks
        listening.append(stop_on_nan(run.training.learning_rate, None if resume is None else resume.path))
        listening.append(stack.enter_context(stop_on_signals()))
        held_out = _held_out(run, dataset, learner)
        return fit(learner, run, batches, held_out=held_out, callbacks=listening, store=store, resume=resume)


def _held_out(run: RunSpec, dataset: Dataset, learner: Learner[Any]) -> HeldOut | None:
    """Passes over the validation part; None when it is empty."""
    if dataset.info.sizes["validation"] == 0:
        return None

    def batches() -> Iterator[HostBatch]:
        size, rank, world_size = run.training.batch_size, learner.rank, learner.world_size
        return evaluation_batches(dataset, "validation", size, rank=rank, world_size=world_size)

    return batches


def _say_how_exact(resume: Checkpoint, now: dict[str, str], world_size: int) -> None:
    then = resume.manifest
    changed = differences(
        {**then.environment, "processes": str(then.world_size)}, {**now, "processes": str(world_size)}
    )
    if changed:
        LOG.warning(
            "going on from %s: exact order of examples, but numbers equal up to rounding only, since this changed: %s",
            resume.path,
            "; ".join(changed),
        )


def _how_to_go_on(fitted: Fitted, learner: Learner[Any], folder: Path | None) -> str:
    stopped = f"interrupted after step {fitted.step}"
    if folder is None:
        return f"{stopped}, as process {learner.rank} of {learner.world_size}"
    if learner.world_size > 1:
        return f"{stopped}; go on with the same command and --resume {folder}, or alone: dlhpc train --resume {folder}"
    return f"{stopped}; go on with: dlhpc train --resume {folder}"


def _finish(run: RunSpec, dataset: Dataset, fitted: Fitted, folder: Path | None, card: str | None) -> Trained:
    """Make the artifact; on rank 0 publish it and write result.json."""
    best = fitted.best
    artifact = new_artifact(
        run,
        dict(fitted.weights),
        classes=dataset.info.classes,
        metrics={} if best is None else {"accuracy": best.accuracy, "loss": best.loss},
        data_fingerprint=dataset.info.fingerprint,
        load_backend=load_backend,
        card=card,
    )
    result: dict[str, Any] = {
        "name": run.resolved_name,
        "model": run.model_name,
        "backend": run.backend,
        "data": run.data.source,
        "steps": fitted.step,
        "epochs": run.training.num_epochs,
        "seconds": round(fitted.seconds, 3),
        "examples_per_second": round(fitted.examples_per_second, 1),
        "validation": None if best is None else best.canonical(),
        "stopped": None if fitted.stop is None else fitted.stop.reason,
        "digest": artifact.digest,
        "reference": None,
        "registry": None,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if folder is not None:
        result |= keep(run, artifact, folder)
        write_result(folder, result)
    return Trained(artifact, folder, result)
