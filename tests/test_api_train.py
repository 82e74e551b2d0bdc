"""Training from the Python face, with real data and both frameworks."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dlhpc import api
from dlhpc.data.sources import open_dataset
from dlhpc.errors import ConfigError, IntegrityError, Interrupted, NotFoundError, TrainingError, UsageError
from dlhpc.registry import signing
from dlhpc.spec.run import RunSpec
from dlhpc.training.checkpoint import find_last, read_checkpoint
from dlhpc.training.events import Finished, Stepped, Stop, wants
from dlhpc.training.history import Row, read_history
from dlhpc.training.run_folder import list_paths, read_run

SMALL = (
    "data.source=digits",
    "model.hidden_sizes=[16]",
    "model.dropout_rate=0.1",
    "training.num_epochs=3",
    "training.learning_rate=0.02",
)
MODELS = {"flax": "model.name=FlaxMLP", "torch": "model.name=TorchDeepSpeedMLP"}


def load(backend: str = "flax", *overrides: str) -> RunSpec:
    return api.load_run(None, overrides=[*SMALL, MODELS[backend], *overrides], environ={})


def stop_at(step: int) -> Any:
    @wants(Stepped)
    def callback(event: Stepped) -> Stop | None:
        return Stop("test", interrupted=True) if event.step >= step else None

    return callback


def the_run(folder: Path = Path("runs")) -> Path:
    (path,) = list_paths(folder)
    return path


def end_state(path: Path) -> bytes:
    """The bytes of a run's last state."""
    return (find_last(path / "checkpoints") / "state.safetensors").read_bytes()


def without_times(rows: list[Row]) -> list[Row]:
    return [{key: row[key] for key in row if key not in {"seconds", "examples_per_second"}} for row in rows]


@pytest.fixture(scope="session", params=["flax", "torch"])
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, api.Trained]:
    """A run of three epochs, never interrupted, in each framework."""
    root = tmp_path_factory.mktemp("straight")
    run = load(request.param, f"runs_dir={root / 'runs'}", f"registry.path={root / 'registry'}")
    return request.param, root, api.train_run(run)


def test_a_run_leaves_history_checkpoints_result_and_a_published_model(straight: tuple[str, Path, api.Trained]) -> None:
    backend, root, trained = straight
    path = the_run(root / "runs")
    assert trained.folder == path
    run = read_run(path)
    assert (run.backend, run.model.num_classes, run.model.input_shape) == (backend, 10, (8, 8, 1))
    result = json.loads((path / "result.json").read_text())
    assert result == trained.result
    assert result["steps"] == 39
    assert result["validation"]["accuracy"] > 0.75
    rows = read_history(path)
    assert [row["step"] for row in rows if row["part"] == "validation"] == [13, 26, 39]
    assert max(row["accuracy"] for row in rows if row["part"] == "validation") == result["validation"]["accuracy"]
    registry = api.Registry(root / "registry")
    assert registry.resolve("digits-mlp:1") == result["digest"] == trained.artifact.digest
    assert result["reference"] == "digits-mlp:1"
    assert registry.lineage("digits-mlp").run_folders == (str(path),)
    published = registry.get("digits-mlp")
    assert published.manifest.run == run
    assert published.manifest.metrics["accuracy"] == result["validation"]["accuracy"]
    assert published.manifest.preprocessing.mean == run.data.mean


def test_the_published_model_does_what_was_measured(straight: tuple[str, Path, api.Trained]) -> None:
    backend, _, trained = straight
    run = trained.artifact.manifest.run
    data = open_dataset(run.data, run.model)
    inputs, labels = data.read("validation", np.arange(data.info.sizes["validation"]))
    answers = trained.artifact.predictor(backend)(inputs).argmax(1)
    assert (answers == labels).mean() == pytest.approx(trained.result["validation"]["accuracy"])


KILLED = """
import os, signal, sys
from pathlib import Path
from dlhpc import api
from dlhpc.training.events import Stepped, wants

@wants(Stepped)
def kill(event):
    if event.step == 20:
        os.kill(os.getpid(), signal.SIGKILL)

api.train(api.load_run(None, overrides=sys.argv[1:]), callbacks=[kill])
"""


def test_killed_and_resumed_equals_straight_to_the_bit(straight: tuple[str, Path, api.Trained]) -> None:
    backend, root, trained = straight
    process = subprocess.run([sys.executable, "-c", KILLED, *SMALL, MODELS[backend]], check=False, timeout=240)
    assert process.returncode == -signal.SIGKILL
    path = the_run()
    assert read_checkpoint(find_last(path / "checkpoints")).manifest.step == 13
    again = api.train_run(load(backend), resume=path)
    assert the_run() == path
    assert end_state(path) == end_state(the_run(root / "runs"))
    assert again.artifact.manifest.files == trained.artifact.manifest.files  # sha256 of the weights
    assert again.result["validation"] == trained.result["validation"]
    assert without_times(read_history(path)) == without_times(read_history(the_run(root / "runs")))


def test_interrupted_in_one_framework_and_resumed_in_the_other(straight: tuple[str, Path, api.Trained]) -> None:
    backend, _, trained = straight
    other = "torch" if backend == "flax" else "flax"
    with pytest.raises(Interrupted, match=r"after step 20; go on with: dlhpc train --resume runs/digits-mlp-"):
        api.train(load(other), callbacks=[stop_at(20)])
    path = the_run()
    resumed = api.train_run(load(backend), resume=path)
    assert read_run(path).backend == backend
    for name, array in trained.artifact.weights.items():
        expected, found = (np.asarray(one, np.float64) for one in (array, resumed.artifact.weights[name]))
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)
    assert resumed.artifact.manifest.run.backend == backend


PLATEAU = (
    "training.schedule.name=reduce_on_plateau",
    "training.schedule.patience=0",
    "training.schedule.threshold=0.9",  # nothing after the first epoch makes the loss a tenth: each halves the rate
)


@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_reductions_of_the_rate_go_on_to_the_bit_and_in_the_other_framework(backend: str) -> None:
    other = "torch" if backend == "flax" else "flax"
    straight = api.train_run(load(backend, *PLATEAU, "runs_dir=straight", "training.num_epochs=4"))
    ends = {}
    for place, first in (("same", backend), ("moved", other)):
        with pytest.raises(Interrupted):
            api.train(load(first, *PLATEAU, f"runs_dir={place}", "training.num_epochs=4"), callbacks=[stop_at(41)])
        path = the_run(Path(place))
        api.train_run(load(backend, *PLATEAU, f"runs_dir={place}", "training.num_epochs=4"), resume=path)
        ends[place] = read_checkpoint(find_last(path / "checkpoints"))
    assert straight.folder is not None
    end = read_checkpoint(find_last(straight.folder / "checkpoints"))
    assert end.manifest.plateau is not None
    assert end.manifest.plateau.scale == 0.125
    assert ends["same"].manifest.plateau == end.manifest.plateau
    assert end_state(the_run(Path("same"))) == end_state(straight.folder)
    assert ends["moved"].manifest.plateau is not None
    assert ends["moved"].manifest.plateau.scale == end.manifest.plateau.scale
    rates = [
        {row["step"]: row["learning_rate"] for row in read_history(the_run(Path(place))) if row["part"] == "train"}
        for place in ("straight", "same", "moved")
    ]
    assert {step: rates[0].get(step) for step in (13, 26, 39, 52)} == {13: 0.02, 26: 0.02, 39: 0.01, 52: 0.005}
    assert rates[1] == rates[2] == rates[0] | {41: 0.005}  # a line of its own for the interruption


def test_a_finished_run_cannot_go_on(straight: tuple[str, Path, api.Trained]) -> None:
    backend, root, _ = straight
    for place in (".", "checkpoints/step-00000026", "checkpoints/last"):
        with pytest.raises(UsageError, match="has finished"):
            api.train(load(backend), resume=the_run(root / "runs") / place)


def test_only_the_same_run_goes_on() -> None:
    with pytest.raises(Interrupted):
        api.train(load(), callbacks=[stop_at(1)])
    with pytest.raises(ConfigError) as caught:
        api.train(load("flax", "training.batch_size=32", "model.hidden_sizes=[8]"), resume=the_run())
    assert [text.partition(":")[0] for text in caught.value.problems] == ["model.hidden_sizes", "training.batch_size"]


def test_a_damaged_checkpoint_is_refused_and_the_one_before_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Interrupted):
        api.train(load(), callbacks=[stop_at(20)])
    file = find_last(the_run() / "checkpoints") / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        api.train(load(), resume=the_run())
    assert str(file) in str(caught.value)
    earlier = file.parent.with_name("step-00000013")
    assert str(earlier) in str(caught.value)
    assert api.train_run(load(), resume=earlier).result["steps"] == 39
    assert not caplog.records
    assert [row["step"] for row in read_history(the_run()) if row["part"] == "validation"] == [13, 26, 39]


def test_resuming_on_another_machine_says_what_that_means(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        api.train(load(), callbacks=[stop_at(20)])
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    api.train(load(), resume=the_run())
    assert "equal up to rounding only, since this changed: threads: 1 then, 7 now" in caplog.text


def test_going_on_from_inside_the_folder_and_from_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        api.train(load("flax", f"runs_dir={Path.cwd() / 'runs'}"), callbacks=[stop_at(14)])
    path = the_run().absolute()
    with pytest.raises(UsageError, match="holds weights alone"):
        api.train(load(), resume=path / "checkpoints/best")
    monkeypatch.chdir(path / "checkpoints")
    assert api.train_run(load(), resume=Path("last")).result["steps"] == 39
    assert (path / "result.json").exists()


def test_a_registry_that_cannot_be_used_is_refused_before_training() -> None:
    Path("registry").mkdir()
    Path("registry/registry.json").write_text("{}")
    with pytest.raises(IntegrityError):
        api.train(load())
    assert not Path("runs").exists()


def test_a_failed_publication_can_be_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    @wants(Finished)
    def spoil(event: Finished) -> None:
        Path("registry").mkdir()
        Path("registry/registry.json").write_text("{}")

    with pytest.raises(IntegrityError):
        api.train(load(), callbacks=[spoil])
    assert f"dlhpc train --resume {the_run()}" in caplog.text
    shutil.rmtree("registry")
    assert api.train_run(load(), resume=the_run()).result["reference"] == "digits-mlp:1"


def test_where_nothing_is_to_resume() -> None:
    with pytest.raises(NotFoundError):
        api.train(load(), resume=Path("nowhere"))


def test_a_diverging_run_ends_with_advice() -> None:
    with pytest.raises(TrainingError, match=r"(?s)not finite.*Lower training\.learning_rate \(it is 1e\+30\)"):
        api.train(load("flax", "training.learning_rate=1e30", "training.log_every=1"))
    assert not (the_run() / "result.json").exists()


def test_without_validation_the_last_weights_are_published_unmeasured() -> None:
    trained = api.train_run(load("flax", "data.split.validation=0", "training.num_epochs=1"))
    assert trained.result["validation"] is None
    assert trained.artifact.manifest.metrics == {}


def test_publication_follows_the_registry_section() -> None:
    one_epoch = "training.num_epochs=1"
    Path("about.md").write_text("# Ten digits\n", encoding="utf-8")
    told = ("registry.licence=MIT", "registry.card=about.md")
    kept = api.train_run(load("flax", one_epoch, "registry.publish=false", *told))
    assert kept.result["reference"] is None
    assert not Path("registry").exists()
    assert kept.folder is not None
    later = api.Registry("later").publish_folder(kept.folder, "kept", alias="new")
    assert (later.ref, later.digest, later.run) == ("kept:1", kept.artifact.digest, str(kept.folder))
    published = api.Registry("later").get("kept@new")
    assert (published.manifest.licence, published.card) == ("MIT", "# Ten digits\n")
    done = api.train_run(
        load("flax", one_epoch, "registry.path=models", "registry.name=ten", "registry.alias=production")
    )
    assert done.folder is not None
    assert api.Registry("later").publish_folder(done.folder, "ten").digest == done.artifact.digest
    assert api.Registry("models").resolve("ten@production") == api.Registry("models").resolve("ten:1")


def write_arrays(path: Path, labels: npt.NDArray[np.int64]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 1), dtype=np.uint8)
    np.savez(path, inputs=pixels, labels=labels, ids=np.arange(200), classes=np.array(["a", "b", "c"]))


def test_the_test_labels_have_no_part_in_training() -> None:
    labels = np.random.default_rng(1).integers(0, 3, 200)
    run = load("flax", "data.source=arrays", "data.path=data.npz", "training.num_epochs=1")
    write_arrays(Path("data.npz"), labels)
    data = open_dataset(run.data, run.model)
    before = api.train(run)
    changed = labels.copy()
    changed[data.ids("test")] = (labels[data.ids("test")] + 1) % 3
    assert (changed != labels).sum() == data.info.sizes["test"] > 10
    write_arrays(Path("data.npz"), changed)
    after = api.train(run)
    assert after.manifest.files == before.manifest.files
    assert after.manifest.data_fingerprint == before.manifest.data_fingerprint
    changed[data.ids("train")[0]] += 1
    write_arrays(Path("data.npz"), changed % 3)
    assert api.train(run).manifest.files != before.manifest.files


def test_a_plateau_without_a_validation_part_is_refused_from_python_too() -> None:
    run = load("flax", *PLATEAU)
    split = run.data.split.model_copy(update={"validation": 0.0})
    run = run.model_copy(update={"data": run.data.model_copy(update={"split": split})})
    with pytest.raises(ConfigError, match=r"reduce_on_plateau came with data\.split\.validation 0, expected a valid"):
        api.train(run)
    assert not Path("runs").exists()


def test_data_that_contradicts_the_model_is_refused() -> None:
    write_arrays(Path("data.npz"), np.random.default_rng(1).integers(0, 3, 200))
    run = load("flax", "data.source=arrays", "data.path=data.npz", "model.input_shape=[5, 5, 1]")
    with pytest.raises(ConfigError, match=r"model.input_shape: \(5, 5, 1\) came, but the data has \(4, 4, 1\)"):
        api.train(run)


def test_the_weights_do_not_depend_on_the_folder_they_are_trained_in(
    straight: tuple[str, Path, api.Trained],
) -> None:
    backend, _, trained = straight
    again = api.train(load(backend))
    assert again.manifest.files == trained.artifact.manifest.files
    assert hashlib.sha256(end_state(the_run())).digest() == hashlib.sha256(end_state(trained.folder or Path())).digest()


def test_what_is_published_is_signed_before_its_alias_stands_for_it() -> None:
    private, public = Path("release.pem"), Path("release.pub")
    contents = signing.generate(None)
    private.touch(0o600)
    private.write_bytes(contents[0])
    public.write_bytes(contents[1])
    short = ("training.num_epochs=1", "registry.alias=production", "registry.sign_with=release.pem")
    with pytest.raises(NotFoundError, match="expected a private key"):
        api.train(load("flax", *short, "registry.sign_with=none.pem"))
    assert not Path("runs").exists()  # before a step was made
    trained = api.train(load("flax", *short))
    registry = api.Registry()
    assert registry.get("digits-mlp@production", require_signature=[public]).digest == trained.digest
    assert [event.kind for event in registry.events("digits-mlp")] == ["published", "signature", "alias"]
