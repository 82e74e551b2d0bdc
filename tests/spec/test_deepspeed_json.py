"""DeepSpeed configuration files on top of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dlhpc.errors import ConfigError, NotFoundError
from dlhpc.spec.deepspeed_json import merge_deepspeed
from dlhpc.spec.gradients import GlobalNormClipping, NoClipping
from dlhpc.spec.load import RUN, trace
from dlhpc.spec.optimizer import LionSpec
from dlhpc.spec.run import RunSpec

TORCH = "model: {name: TorchDeepSpeedMLP}\n"


def merged(
    content: dict[str, Any], yaml: str = TORCH, *, world_size: int = 1, overrides: tuple[str, ...] = ()
) -> RunSpec:
    Path("run.yaml").write_text(yaml)
    Path("ds.json").write_text(json.dumps(content, indent=2))
    loaded = trace(RUN, Path("run.yaml"), overrides=overrides, environ={})
    return merge_deepspeed(Path("ds.json"), loaded, world_size)


def problems(*arguments: Any, **options: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        merged(*arguments, **options)
    return caught.value.problems


def test_every_key_reaches_the_run() -> None:
    run = merged(
        {
            "train_batch_size": 48,
            "train_micro_batch_size_per_gpu": 8,
            "gradient_accumulation_steps": 3,
            "steps_per_print": 7,
            "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 10},
            "bf16": {"enabled": True},
            "optimizer": {
                "params": {"lr": 3e-4, "betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0.5},
                "type": "AdamW",
            },
        },
        world_size=2,
    )
    training, optimizer = run.training, run.optimizer
    assert (training.batch_size, training.gradient_accumulation, training.log_every) == (48, 3, 7)
    assert (training.learning_rate, training.precision) == (3e-4, "bfloat16")
    assert (run.distributed.zero_stage, run.distributed.persistence_threshold) == (3, 10)
    assert optimizer.model_dump(exclude={"groups"}) == {
        "name": "adamw", "b1": 0.8, "b2": 0.9, "eps": 1e-6, "weight_decay": 0.5,
    }  # fmt: skip


def test_the_optimizer_may_be_lion() -> None:
    run = merged({"optimizer": {"params": {"weight_decay": 0.25}, "type": "Lion"}})
    assert run.optimizer == LionSpec(weight_decay=0.25)
    texts = problems({"optimizer": {"params": {"eps": 1e-6}, "type": "Lion"}})
    assert "eps" in texts[0]


def test_clipping_is_by_the_global_norm() -> None:
    assert merged({"gradient_clipping": 0.5}).training.clipping == GlobalNormClipping(max_norm=0.5)
    assert merged({"gradient_clipping": 0}).training.clipping == NoClipping()
    adaptive = TORCH + "training: {clipping: {name: adaptive}}\n"
    (problem,) = problems({"gradient_clipping": 0}, adaptive)
    assert "'none' came, but run.yaml:2:29 says training.clipping.name: 'adaptive'" in problem


def test_auto_and_what_changes_nothing_are_taken() -> None:
    content = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        "gradient_clipping": 0.0,
        "wall_clock_breakdown": False,
        "zero_allow_untested_optimizer": True,
    }
    yaml = TORCH + "training: {batch_size: 16, learning_rate: 0.5}\n"
    run = merged(content, yaml)
    assert (run.training.batch_size, run.training.learning_rate) == (16, 0.5)
    assert run.training.precision == "float32"


def test_a_contradiction_names_both_places() -> None:
    yaml = TORCH + "training:\n  batch_size: 16\n  learning_rate: 0.5\n  precision: bfloat16\n"
    content = {"train_batch_size": 16, "optimizer": {"params": {"lr": 0.25}}, "bf16": {"enabled": False}}
    first, second = problems(content, yaml)
    assert first.startswith("ds.json:5:7: optimizer.params.lr: 0.25 came, but run.yaml:4:18 says "), first
    assert "training.learning_rate: 0.5" in first
    assert '"auto"' in first
    assert second.startswith("ds.json:9:5: bf16.enabled: 'float32' came, but run.yaml:5:14"), second


def test_equal_values_are_no_contradiction() -> None:
    assert merged({"train_batch_size": 16}, TORCH + "training: {batch_size: 16}\n").training.batch_size == 16


def test_set_stands_above_both_files() -> None:
    run = merged({"train_batch_size": 32}, overrides=("training.batch_size=8",))
    assert run.training.batch_size == 8
    run = merged({"train_batch_size": 32}, TORCH + "training: {batch_size: 32}\n", overrides=("training.batch_size=8",))
    assert run.training.batch_size == 8


@pytest.mark.parametrize(("world_size", "fits"), [(1, False), (2, True), (4, False)])
def test_the_batch_is_micro_times_accumulation_times_processes(world_size: int, fits: bool) -> None:
    content = {"train_batch_size": 32, "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 2}
    if fits:
        assert merged(content, world_size=world_size).training.batch_size == 32
        return
    (text,) = problems(content, world_size=world_size)
    assert text.startswith("ds.json:3:37: train_micro_batch_size_per_gpu: 8 came")
    assert f"{world_size} process" in text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"fp16": {"enabled": True}}, "no fp16 on CPU"),
        ({"fp16": {"loss_scale": 0}}, "no fp16 on CPU"),
        ({"optimizer": {"type": "OneBitAdam"}}, "1-bit optimizers left DeepSpeed"),
        ({"optimizer": {"type": "Adam"}}, "AdamW or Lion"),
        ({"scheduler": {"type": "WarmupLR"}}, "training.schedule"),
        ({"gradient_clipping": -1.0}, "a number above 0, or 0"),
        ({"gradient_clipping": "1"}, "a number above 0, or 0"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "nothing is offloaded"),
        ({"zero_optimization": {"reduce_bucket_size": 5}}, "set by dlhpc itself"),
        ({"train_batch_sise": 3}, "did you mean 'train_batch_size'?"),
        ({"zzz": 3}, "leave it out"),
        ({"optimizer": {"params": {"betas": 3}}}, "optimizer.params.betas: 3 came"),
        ({"train_batch_size": "many"}, "train_batch_size"),
        ({"train_batch_size": -4}, "-4"),
        ({"zero_optimization": {"stage": 7}}, "stage"),
    ],
)
def test_what_is_not_offered_is_refused_with_its_reason(content: dict[str, Any], reason: str) -> None:
    (text,) = problems(content)
    assert text.startswith("ds.json:")
    assert reason in text


def test_all_problems_at_once() -> None:
    assert len(problems({"fp16": {"enabled": True}, "scheduler": {"type": "WarmupLR"}, "zzz": 1})) == 3


def test_a_flax_run_takes_no_zero() -> None:
    (text,) = problems({"zero_optimization": {"stage": 1}}, "model: {name: FlaxMLP}\n")
    assert "FlaxMLP" in text


def test_no_file() -> None:
    loaded = trace(RUN, None, environ={})
    with pytest.raises(NotFoundError):
        merge_deepspeed(Path("nowhere.json"), loaded, 1)


def test_the_shipped_file_fits_the_shipped_run(checkout: Path) -> None:
    loaded = trace(RUN, checkout / "config/torch_deepspeed_mlp.yaml", environ={})
    for world_size in (1, 2):
        run = merge_deepspeed(checkout / "config/deepspeed_config.json", loaded, world_size)
        assert run.backend == "torch"
