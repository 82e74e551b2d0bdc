"""Checkpoints are whole or absent, verified when read, and dropped when they are no longer needed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlhpc.errors import IntegrityError, NotFoundError
from dlhpc.spec.base import canonical_json
from dlhpc.training import checkpoint
from dlhpc.training.checkpoint import Moment, Score, best_beside, find_last, read_checkpoint, read_manifest
from tests.training.softmax import make_run, make_store

ARRAYS = {"param/w": np.arange(6.0).reshape(2, 3), "counter/consumed": np.array(7)}


def score(step: int, accuracy: float = 0.5, loss: float = 1.0) -> Score:
    return Score(step=step, epoch=step / 7, accuracy=accuracy, loss=loss, examples=10)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    run = make_run()
    path = make_store(tmp_path, run).write("training", Moment(7, 1.5, score(7)), ARRAYS)
    read = read_checkpoint(path)
    assert {name: array.tolist() for name, array in read.arrays.items()} == {
        name: array.tolist() for name, array in ARRAYS.items()
    }
    manifest = read.manifest
    assert (manifest.step, manifest.seconds, manifest.best) == (7, 1.5, score(7))
    assert manifest.run == run
    assert (manifest.world_size, manifest.environment) == (1, {"backend": "numpy"})
    assert find_last(tmp_path) == path
    assert (tmp_path / "last").resolve() == path.resolve()


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["state.safetensors", "manifest.json"])
def test_every_flipped_byte_is_refused_and_the_file_named(tmp_path: Path, name: str) -> None:
    store = make_store(tmp_path, make_run())
    earlier = store.write("training", Moment(7, 1.0, None), ARRAYS)
    path = store.write("training", Moment(14, 2.0, None), ARRAYS)
    file = path / name
    size = file.stat().st_size
    for offset in range(0, size, max(1, size // 40)):
        flip(file, offset)
        with pytest.raises(IntegrityError) as caught:
            read_checkpoint(path)
        assert str(file) in str(caught.value)
        assert f"dlhpc train --resume {earlier}" in str(caught.value)
        flip(file, offset)
    assert read_checkpoint(path).manifest.step == 14


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = make_store(tmp_path, make_run()).write("training", Moment(7, 1.0, None), ARRAYS)
    (path / "state.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"state\.safetensors: missing; there is no earlier checkpoint"):
        read_checkpoint(path)
    (path / "manifest.json").unlink()
    with pytest.raises(IntegrityError, match=r"manifest\.json: missing"):
        read_checkpoint(path)
    with pytest.raises(NotFoundError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "step-1")
    with pytest.raises(NotFoundError, match="no checkpoint to go on from"):
        find_last(tmp_path / "nowhere")


def test_a_manifest_of_another_version_says_so(tmp_path: Path) -> None:
    path = make_store(tmp_path, make_run()).write("training", Moment(7, 1.0, None), ARRAYS)
    sealed = json.loads((path / "manifest.json").read_bytes())
    body = {**sealed["manifest"], "format": 2}
    digest = hashlib.sha256(canonical_json(body)).hexdigest()
    (path / "manifest.json").write_text(json.dumps({"manifest": body, "sha256": digest}))
    with pytest.raises(IntegrityError, match="another version of dlhpc"):
        read_manifest(path)


@pytest.mark.parametrize(("keep", "kept"), [(0, ["28"]), (1, ["21", "28"]), (2, ["14", "21", "28"])])
def test_the_last_are_kept(tmp_path: Path, keep: int, kept: list[str]) -> None:
    store = make_store(tmp_path, make_run(keep_checkpoints=keep))
    for step in (7, 14, 21, 28):
        store.write("training", Moment(step, 1.0, None), ARRAYS)
    assert names(tmp_path) == ["last", *(f"step-000000{step:>02}" for step in kept)]


def test_the_best_that_a_resume_point_names_is_kept(tmp_path: Path) -> None:
    store = make_store(tmp_path, make_run(keep_checkpoints=0))
    store.write("model", Moment(7, 1.0, score(7)), {"w": np.zeros(1)})
    store.write("training", Moment(7, 1.0, score(7)), ARRAYS)
    store.write("model", Moment(14, 2.0, score(14)), {"w": np.ones(1)})
    # A run killed here goes on from step 7, whose best is that of step 7.
    assert names(tmp_path) == ["best", "best-00000007", "best-00000014", "last", "step-00000007"]
    best = best_beside(read_checkpoint(find_last(tmp_path)))
    assert best is not None
    assert best.arrays["w"] == 0
    store.write("training", Moment(14, 2.0, score(14)), ARRAYS)
    assert names(tmp_path) == ["best", "best-00000014", "last", "step-00000014"]
    assert (tmp_path / "best").resolve().name == "best-00000014"


def test_damage_to_an_older_checkpoint_does_not_end_the_run(tmp_path: Path) -> None:
    store = make_store(tmp_path, make_run(keep_checkpoints=1))
    old = store.write("training", Moment(7, 1.0, None), ARRAYS)
    flip(old / "manifest.json", 30)
    store.write("training", Moment(14, 1.0, None), ARRAYS)
    assert read_checkpoint(find_last(tmp_path)).manifest.step == 14


def test_no_best_without_an_evaluation(tmp_path: Path) -> None:
    path = make_store(tmp_path, make_run()).write("training", Moment(7, 1.0, None), ARRAYS)
    assert best_beside(read_checkpoint(path)) is None


def test_going_back_forgets_what_came_after(tmp_path: Path) -> None:
    store = make_store(tmp_path, make_run(keep_checkpoints=5))
    for step in (7, 14):
        store.write("model", Moment(step, 1.0, score(step)), ARRAYS)
        store.write("training", Moment(step, 1.0, score(step)), ARRAYS)
    store.forget_after(7)
    assert names(tmp_path) == ["best", "best-00000007", "last", "step-00000007"]
    assert (tmp_path / "last").resolve().name == "step-00000007"
    store.forget_after(0)
    assert names(tmp_path) == []


def test_the_same_step_may_be_written_again(tmp_path: Path) -> None:
    store = make_store(tmp_path, make_run())
    store.write("training", Moment(7, 1.0, None), ARRAYS)
    path = store.write("training", Moment(7, 9.0, None), ARRAYS)
    assert read_checkpoint(path).manifest.seconds == 9.0
    make_store(tmp_path, make_run())
    assert names(tmp_path) == ["last", "step-00000007"]


@pytest.mark.parametrize("fail_at", ["write_atomic", "_swap_in"])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: str
) -> None:
    store = make_store(tmp_path, make_run())
    store.write("training", Moment(7, 1.0, None), ARRAYS)

    def fail(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, fail_at, fail)
    with pytest.raises(KeyboardInterrupt):
        store.write("training", Moment(14, 1.0, None), ARRAYS)
    assert names(tmp_path) == ["last", "step-00000007"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".step-00000007.abcd.tmp").mkdir()
    (tmp_path / ".step-00000007.abcd.tmp" / "state.safetensors").write_bytes(b"half")
    (tmp_path / ".last.abcd.tmp").symlink_to("nowhere")
    make_store(tmp_path, make_run())
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("one", "other", "beats"),
    [
        (score(2, 0.6), None, True),
        (score(2, 0.6), score(1, 0.5), True),
        (score(2, 0.5), score(1, 0.6), False),
        (score(2, 0.5, 0.9), score(1, 0.5, 1.0), True),
        (score(2, 0.5, 1.0), score(1, 0.5, 1.0), False),
    ],
)
def test_accuracy_counts_first_then_loss(one: Score, other: Score | None, beats: bool) -> None:
    assert one.beats(other) is beats
