"""A DeepSpeed configuration file on top of a run: what we offer is merged, all else is refused with a reason.

The `deepspeed` launcher's habit is a JSON beside the training script. Its settings are the run's settings under other
names, so a value that contradicts what the run's own file says is an error that names both places; "auto" takes the
run's value. Environment and --set stand above both files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from dlhpc.spec.layers import ENVIRONMENT_LAYER
from dlhpc.spec.load import Loaded, load_mapping, merge
from dlhpc.spec.run import RunSpec
from dlhpc.spec.suggest import closest
from dlhpc.spec.tree import Entry, Node, Problems

AUTO: Final = "auto"
MICRO: Final = "train_micro_batch_size_per_gpu"

RENAMED: Final = {
    "train_batch_size": "training.batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation",
    "steps_per_print": "training.log_every",
    "zero_optimization.stage": "distributed.zero_stage",
    "zero_optimization.stage3_param_persistence_threshold": "distributed.persistence_threshold",
    "optimizer.params.lr": "training.learning_rate",
    "optimizer.params.eps": "optimizer.eps",
    "optimizer.params.weight_decay": "optimizer.weight_decay",
}
"""DeepSpeed's key -> ours, where the value means the same."""

TRANSLATED: Final = ("bf16.enabled", "gradient_clipping", "optimizer.type", "optimizer.params.betas")
"""Keys whose value means the same in other words."""

OPTIMIZERS: Final = {"AdamW": "adamw", "Lion": "lion"}

HARMLESS: Final[dict[str, Any]] = {
    "fp16.enabled": False,
    "prescale_gradients": False,
    "wall_clock_breakdown": False,
    "memory_breakdown": False,
    "dump_state": False,
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
    "zero_optimization.overlap_comm": False,
}
"""Keys that may stand there with the one value that changes nothing here."""

REASONS: Final = {
    "fp16": "training.precision is float32, bfloat16 or float64; DeepSpeed has no fp16 on CPU: use bf16.enabled",
    "gradient_clipping": "it is the largest joint norm: a number above 0, or 0 for none",
    "scheduler": "the learning rate's course is training.schedule in the run's file: leave it out",
    "optimizer.type": "it may be AdamW or Lion; others are optimizer.name in the run's file (1-bit optimizers left "
    "DeepSpeed with 0.18)",
    "zero_optimization.offload_optimizer": "nothing is offloaded here: leave it out",
    "zero_optimization.offload_param": "nothing is offloaded here: leave it out",
    "zero_optimization": "this part of ZeRO is set by dlhpc itself: leave it out",
    "activation_checkpointing": "activations are kept here: leave it out",
    "bf16": "only bf16.enabled is known",
    "zero_allow_untested_optimizer": "dlhpc brings its own, tested optimizers: true, or leave it out",
    "zero_force_ds_cpu_optimizer": "dlhpc brings its own optimizers: false, or leave it out",
}
"""Why a key, or everything below it, is refused; the longest one that fits counts."""


def merge_deepspeed(path: Path, loaded: Loaded, world_size: int) -> RunSpec:
    """The run with a DeepSpeed file's settings.

    Raises ConfigError with every setting that is refused or contradicts the run, NotFoundError without the file.
    """
    problems = Problems()
    root = load_mapping(path)
    values: dict[str, Node] = {}
    for keys, entry in _leaves(root):
        if entry.node.value == AUTO:
            continue
        key = ".".join(keys)
        for ours, node in _translated(key, entry, loaded.spec, problems):
            stated = loaded.places.get(ours)
            if stated is None:
                values[ours] = node
            elif stated.layer < ENVIRONMENT_LAYER and _value(loaded.spec, ours) != node.plain():
                problems.add(
                    entry.place,
                    key,
                    f"{node.plain()!r} came, but {stated} says {ours}: {_value(loaded.spec, ours)!r}; "
                    f'make them equal, or write "{AUTO}" here',
                )
    problems.raise_any()
    # The optimizer's name first: its constants mean nothing under another name.
    ordered = dict(sorted(values.items(), key=lambda item: item[0] != "optimizer.name"))
    run = merge(loaded.spec, ordered, str(path))
    micro = root.get(MICRO)
    if micro is not None and micro.value != AUTO:
        _check_micro_batch(run, micro, world_size, problems)
    problems.raise_any()
    return run


def _leaves(node: Node, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Entry]]:
    """Every entry below a mapping that is no mapping itself, with its path."""
    for key, entry in node.entries.items():
        if entry.node.entries:
            yield from _leaves(entry.node, (*path, key))
        else:
            yield (*path, key), entry


def _translated(key: str, entry: Entry, run: RunSpec, problems: Problems) -> Iterator[tuple[str, Node]]:
    """Our keys with their values; nothing, and a problem, for what cannot be translated."""
    node = entry.node
    if key in RENAMED:
        yield RENAMED[key], node
    elif key == MICRO or (key in HARMLESS and node.plain() == HARMLESS[key]):
        return
    elif key == "bf16.enabled" and isinstance(node.value, bool):
        if node.value or run.training.precision == "bfloat16":
            yield "training.precision", Node("bfloat16" if node.value else "float32", node.place)
    elif key == "gradient_clipping" and isinstance(node.value, int | float) and node.value >= 0:
        yield "training.clipping.name", Node("global_norm" if node.value else "none", node.place)
        if node.value:
            yield "training.clipping.max_norm", node
    elif key == "optimizer.type" and node.value in OPTIMIZERS:
        yield "optimizer.name", Node(OPTIMIZERS[node.value], node.place)
    elif key == "optimizer.params.betas" and isinstance(node.value, list) and len(node.value) == 2:
        yield "optimizer.b1", node.value[0]
        yield "optimizer.b2", node.value[1]
    else:
        problems.add(entry.place, key, f"{node.plain()!r} came: {_reason(key)}")


def _reason(key: str) -> str:
    parents = [key.rsplit(".", count)[0] for count in range(key.count(".") + 1)]
    for parent in parents:
        if parent in REASONS:
            return REASONS[parent]
    near = closest(key, (*RENAMED, *HARMLESS, MICRO, *TRANSLATED))
    return "dlhpc does not take this key" + (f"; did you mean {near!r}?" if near else ": leave it out")


def _check_micro_batch(run: RunSpec, micro: Node, world_size: int, problems: Problems) -> None:
    batch, parts = run.training.batch_size, run.training.gradient_accumulation
    if not isinstance(micro.value, int) or micro.value * parts * world_size != batch:
        problems.add(
            micro.place,
            MICRO,
            f"{micro.value!r} came; times gradient_accumulation_steps {parts} and {world_size} process(es) it must be "
            f"train_batch_size (training.batch_size) {batch}",
        )


def _value(spec: Any, key: str) -> Any:
    for part in key.split("."):
        spec = getattr(spec, part, None)
    return spec
