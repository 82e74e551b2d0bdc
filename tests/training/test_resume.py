"""Which runs may go on from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dlhpc.errors import ConfigError, DataError
from dlhpc.spec.run import RunSpec
from dlhpc.spec.schedule import ReduceOnPlateauSchedule
from dlhpc.training.checkpoint import Checkpoint, Moment, read_checkpoint
from dlhpc.training.resume import refuse_another_run
from tests.training.softmax import make_run, make_store

FINGERPRINT = "f" * 64


def saved(folder: Path, run: RunSpec) -> Checkpoint:
    return read_checkpoint(make_store(folder, run).write("training", Moment(7, 1.0, None), {}))


def test_the_same_run_goes_on(tmp_path: Path) -> None:
    refuse_another_run(saved(tmp_path, make_run()), make_run(), FINGERPRINT)


@pytest.mark.parametrize(
    "change",
    [
        {"backend": "torch"},
        {"name": "other"},
        {"runs_dir": Path("elsewhere")},
        {"training": make_run(log_every=7, evaluate_every=2, checkpoint_every=2, keep_checkpoints=3).training},
    ],
)
def test_the_other_framework_places_and_pauses_are_free(tmp_path: Path, change: dict[str, Any]) -> None:
    refuse_another_run(saved(tmp_path, make_run()), make_run().model_copy(update=change), FINGERPRINT)


def test_evaluations_that_steer_the_learning_rate_are_not_free(tmp_path: Path) -> None:
    steered = {"schedule": ReduceOnPlateauSchedule()}
    refuse_another_run(saved(tmp_path, make_run(**steered)), make_run(**steered, log_every=7), FINGERPRINT)
    with pytest.raises(ConfigError) as caught:
        refuse_another_run(saved(tmp_path, make_run(**steered)), make_run(**steered, evaluate_every=2), FINGERPRINT)
    (problem,) = caught.value.problems
    assert problem.startswith("training.evaluate_every: 2 came")


def test_every_other_difference_is_named(tmp_path: Path) -> None:
    other = make_run(learning_rate=0.5, batch_size=8).model_copy(update={"seed": 3})
    with pytest.raises(ConfigError) as caught:
        refuse_another_run(saved(tmp_path, make_run()), other, FINGERPRINT)
    problems = caught.value.problems
    assert [problem.partition(":")[0] for problem in problems] == [
        "seed",
        "training.batch_size",
        "training.learning_rate",
    ]
    assert "8 came" in problems[1]
    assert "begun with 16" in problems[1]


def test_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not what the run"):
        refuse_another_run(saved(tmp_path, make_run()), make_run(), "e" * 64)
