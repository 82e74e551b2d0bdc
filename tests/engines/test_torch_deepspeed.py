"""DeepSpeed engines: what ZeRO partitions is trained as if it were whole, and DeepSpeed keeps to itself."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dlhpc.engines import torch_deepspeed
from dlhpc.engines.torch_deepspeed import DeepSpeedEngine, configuration
from dlhpc.engines.torch_engine import PlainEngine
from dlhpc.engines.torch_learner import TorchLearner
from dlhpc.errors import ConfigError, MissingExtraError, TrainingError
from dlhpc.ports import NamedArrays
from dlhpc.spec.run import RunSpec
from tests.engines import torch_rank

TOLERANCE = 2e-5
"""Of the greatest absolute value of each array, float32, after 8 steps of AdamW."""
STATE = ("param/", "slot/", "counter/")


def run_spec(stage: int, **training: Any) -> RunSpec:
    """Everything on; sizes that no number of processes divides; parameters really cut under ZeRO-3."""
    return RunSpec.model_validate(
        {
            "backend": "torch",
            "model": {
                "architecture": "cnn",
                "num_classes": 5,
                "input_shape": (6, 5, 1),
                "channels": (3, 5),
                "strides": (2,),
                "hidden_sizes": (7,),
                "normalization": "layer",
                "dropout_rate": 0.3,
            },
            "optimizer": {"name": "adamw", "groups": [{"match": "head/*", "learning_rate_scale": 0.5}]},
            "training": {
                "batch_size": 16,
                "gradient_accumulation": 2,
                "label_smoothing": 0.1,
                "learning_rate": 0.01,
                **training,
            },
            "distributed": {"zero_stage": stage, "persistence_threshold": 0},
        }
    )


def assert_close(a: NamedArrays, b: NamedArrays, what: str = "") -> None:
    assert a.keys() == b.keys()
    for name, array in a.items():
        scale = max(1e-9, float(np.abs(b[name]).max(initial=0.0)))
        np.testing.assert_allclose(array, b[name], rtol=0, atol=TOLERANCE * scale, err_msg=f"{what} {name}")


@pytest.fixture(scope="module")
def reference() -> dict[str, tuple[NamedArrays, NamedArrays]]:
    """The plain engine, in one process: the state and what was seen at both moments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_deepspeed, "available", lambda: False)
        half = torch_rank.follow(run_spec(0), None, torch_rank.HALF)
        return {"half": half, "end": torch_rank.follow(run_spec(0), half[0], torch_rank.END)}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_each_stage_alone_follows_the_plain_engine(stage: int, reference: Any) -> None:
    half = torch_rank.follow(run_spec(stage), None, torch_rank.HALF)
    assert_close(half[0], reference["half"][0])
    assert_close(half[1], reference["half"][1])
    end = torch_rank.follow(run_spec((stage + 2) % 4), half[0], torch_rank.END)
    assert_close(end[0], reference["end"][0])


def test_two_processes_follow_one_on_every_stage(tmp_path: Path, checkout: Path, reference: Any) -> None:
    """Each stage from the seed to step 4 and, in another stage, on to step 8; then one process takes it up."""
    plans = {str(stage): torch_rank.Plan(run_spec(stage), run_spec((stage + 1) % 4)) for stage in range(4)}
    results = torch_rank.in_two_processes(plans, tmp_path, checkout)
    for stage, moments in results.items():
        for moment, (state, seen) in reference.items():
            assert float(moments[moment]["agreed"][0]) == 11
            assert_close(moments[moment], {**state, **seen, "agreed": np.array([11.0])}, f"stage {stage} {moment}")
    taken_up = {name: array for name, array in results["3"]["half"].items() if name.startswith(STATE)}
    assert_close(torch_rank.follow(run_spec(0), taken_up, torch_rank.END)[0], reference["end"][0])


def test_stage_3_really_cuts_the_parameters() -> None:
    learner = TorchLearner(run_spec(3))
    engine = learner.init(0).engine
    assert isinstance(engine, DeepSpeedEngine)
    assert all(parameter.numel() == 0 for parameter in engine._parameters.values())
    learner.close()


def test_float64_stays_float64() -> None:
    """DeepSpeed would send gradients as float32."""
    wide = torch_rank.follow(run_spec(0, precision="float64"), None, 4)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_deepspeed, "available", lambda: False)
        plain = torch_rank.follow(run_spec(0, precision="float64"), None, 4)[0]
    for name, array in wide.items():
        np.testing.assert_allclose(array, plain[name], rtol=0, atol=1e-12)


def test_what_zero_cannot_do_is_refused() -> None:
    with pytest.raises(ConfigError, match="keep float32"):
        TorchLearner(run_spec(1, precision="float64"))


def test_without_deepspeed_one_process_trains_plainly_and_more_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch_deepspeed, "available", lambda: False)
    learner = TorchLearner(run_spec(0))
    assert isinstance(learner.init(0).engine, PlainEngine)
    assert "DeepSpeed is not installed" in caplog.text
    learner.close()
    with pytest.raises(MissingExtraError, match="deepspeed"):
        TorchLearner(run_spec(1))
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(MissingExtraError, match="in 2 process"):
        TorchLearner(run_spec(0))


def test_the_configuration_is_the_runs() -> None:
    config = configuration(run_spec(3), world_size=2, elements=1000)
    assert config["train_batch_size"] == 16
    assert config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"] * 2 == 16
    assert config["zero_optimization"]["stage"] == 3
    assert config["zero_optimization"]["stage3_param_persistence_threshold"] == 0
    assert config["zero_optimization"]["reduce_bucket_size"] == 1000
    assert configuration(run_spec(3), 2, 10**9)["zero_optimization"]["reduce_bucket_size"] < 10**8
    assert config["gradient_clipping"] == 0.0


def test_deepspeed_writes_nothing_builds_nothing_and_leaves_no_trace(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """stdout is for results; an extension built at the first start would take half a minute."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    torch_rank.follow(run_spec(2), None, 2)
    assert capfd.readouterr().out == ""
    assert not (tmp_path / "extensions").exists()
    assert "LOCAL_RANK" not in os.environ
    assert not torch.distributed.is_initialized()


def test_deepspeeds_warnings_go_where_others_go(caplog: pytest.LogCaptureFixture) -> None:
    torch_deepspeed.prepare()
    logging.getLogger("DeepSpeed").warning("a warning worth reading")
    logging.getLogger("DeepSpeed").warning("You are using ZeRO with an untested optimizer")
    assert [record.message for record in caplog.records] == ["a warning worth reading"]


def test_a_tensor_that_deepspeed_does_not_give_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import deepspeed.utils

    learner = TorchLearner(run_spec(3))
    state = learner.init(0)
    monkeypatch.setattr(deepspeed.utils, "safe_get_full_fp32_param", lambda parameter: None)
    with pytest.raises(TrainingError, match="ZeRO-3"):
        learner.snapshot(state, "model")
    learner.close()
