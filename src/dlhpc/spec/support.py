"""Which settings go together. A combination that cannot work is refused when the file is read, with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from dlhpc.spec.data import DigitsSpec, ImageFolderSpec, SyntheticSpec
from dlhpc.spec.distributed import DistributedSpec
from dlhpc.spec.model import CNNSpec, MLPSpec
from dlhpc.spec.optimizer import SophiaSpec
from dlhpc.spec.run import RunSpec
from dlhpc.spec.schedule import ReduceOnPlateauSchedule

DIGITS_SHAPE: Final = (8, 8, 1)
DIGITS_CLASSES: Final = 10
SYNTHETIC_SHAPE: Final = (28, 28, 1)


@dataclass(frozen=True)
class Rule:
    """One combination that is refused."""

    keys: tuple[str, ...]
    """Dotted keys that the rule reads; the problem is told at the first of them that the user set."""
    statement: str
    """The rule in words, for the documentation."""
    broken: Callable[[RunSpec], str | None]
    """What came and what to do, when the rule is broken."""


def _zero_is_torch(run: RunSpec) -> str | None:
    if run.distributed.zero_stage == 0 or run.backend == "torch":
        return None
    return (
        f"ZeRO stage {run.distributed.zero_stage} came with {run.model_name}, expected 0: only PyTorch trains on "
        f"DeepSpeed; set model.name to TorchDeepSpeed{run.model.architecture.upper()}, or leave zero_stage out"
    )


def _zero_keeps_float32(run: RunSpec) -> str | None:
    if run.distributed.zero_stage == 0 or run.training.precision != "float64":
        return None
    return "float64 came with a ZeRO stage, expected float32 or bfloat16: ZeRO keeps its master weights in float32"


def _hutchinson_has_whole_weights(run: RunSpec) -> str | None:
    if not isinstance(run.optimizer, SophiaSpec) or run.optimizer.estimator != "hutchinson":
        return None
    if run.distributed.zero_stage < 3:
        return None
    return (
        "hutchinson came with ZeRO stage 3, expected gnb: it differentiates twice, which cannot be done through "
        "weights that are cut; or use a stage up to 2"
    )


def _threshold_is_stage_3(run: RunSpec) -> str | None:
    threshold, stage = run.distributed.persistence_threshold, run.distributed.zero_stage
    if stage == 3 or threshold == DistributedSpec.model_fields["persistence_threshold"].default:
        return None
    return f"{threshold} came with ZeRO stage {stage}, expected it left out: only stage 3 keeps parameters whole"


def _parts_are_equal(run: RunSpec) -> str | None:
    batch, parts = run.training.batch_size, run.training.gradient_accumulation
    if batch % parts == 0:
        return None
    return f"{parts} parts came for a batch of {batch}, expected a divisor of training.batch_size"


def _one_stride_each(run: RunSpec) -> str | None:
    if not isinstance(run.model, CNNSpec) or len(run.model.strides) in (1, len(run.model.channels)):
        return None
    strides, layers = list(run.model.strides), len(run.model.channels)
    return f"{layers} convolutions (model.channels) came with strides {strides}, expected one stride, or {layers}"


def _constants_fit_channels(run: RunSpec) -> str | None:
    shape = data_shape(run)
    channels = shape[2] if shape else None
    for name, values in (("mean", run.data.mean), ("std", run.data.std)):
        if channels is not None and len(values) not in (1, channels):
            return f"data.{name} has {len(values)} values for images of {channels} channels, expected 1 or {channels}"
    lengths = {len(run.data.mean), len(run.data.std)} - {1}
    if 0 in lengths or len(lengths) > 1:
        return f"data.mean has {len(run.data.mean)} values and data.std {len(run.data.std)}, expected one or one each"
    return None


def _shape_agrees(run: RunSpec) -> str | None:
    shape, wanted = data_shape(run, follow_model=False), run.model.input_shape
    if shape is None or wanted is None or shape == wanted:
        return None
    return f"{list(wanted)} came, but the data gives {list(shape)}: leave it out, or write null"


def _classes_agree(run: RunSpec) -> str | None:
    wanted = run.model.num_classes
    match run.data:
        case DigitsSpec():
            given: int | None = DIGITS_CLASSES
        case SyntheticSpec(num_classes=classes):
            given = classes
        case _:
            given = None
    if given is None or wanted is None or given == wanted:
        return None
    return f"{wanted} classes came, but the data has {given}: leave it out, or write null"


def _dropout_has_layers(run: RunSpec) -> str | None:
    if run.model.dropout_rate == 0.0 or run.model.hidden_sizes:
        return None
    return f"{run.model.dropout_rate} came without hidden dense layers (model.hidden_sizes is []), expected 0.0"


def _norm_has_layers(run: RunSpec) -> str | None:
    if run.model.normalization == "none" or not isinstance(run.model, MLPSpec) or run.model.hidden_sizes:
        return None
    return f"{run.model.normalization!r} came without hidden layers (model.hidden_sizes is []), expected 'none'"


def _plateau_is_evaluated(run: RunSpec) -> str | None:
    if run.data.split.validation > 0.0 or not isinstance(run.training.schedule, ReduceOnPlateauSchedule):
        return None
    return (
        "reduce_on_plateau came with data.split.validation 0, expected a validation part: the schedule reacts to its "
        "evaluations; hold some examples back, or choose another schedule"
    )


def _alias_is_published(run: RunSpec) -> str | None:
    if run.registry.alias is None or run.registry.publish:
        return None
    return f"alias {run.registry.alias!r} came with registry.publish false, expected no alias: nothing is published"


RULES: Final = (
    Rule(
        ("distributed.zero_stage", "backend"),
        "`distributed.zero_stage` above 0 needs a TorchDeepSpeed model.",
        _zero_is_torch,
    ),
    Rule(
        ("training.precision", "distributed.zero_stage"),
        "`training.precision: float64` needs `distributed.zero_stage: 0`.",
        _zero_keeps_float32,
    ),
    Rule(
        ("optimizer.estimator", "distributed.zero_stage"),
        "`optimizer.estimator: hutchinson` needs `distributed.zero_stage` up to 2.",
        _hutchinson_has_whole_weights,
    ),
    Rule(
        ("distributed.persistence_threshold", "distributed.zero_stage"),
        "`distributed.persistence_threshold` needs `distributed.zero_stage: 3`.",
        _threshold_is_stage_3,
    ),
    Rule(
        ("training.gradient_accumulation", "training.batch_size"),
        "`training.gradient_accumulation` divides `training.batch_size`.",
        _parts_are_equal,
    ),
    Rule(
        ("model.strides", "model.channels", "model.architecture"),
        "`model.strides` has one value, or as many as `model.channels`.",
        _one_stride_each,
    ),
    Rule(
        ("data.mean", "data.std", "data.source", "data.channels", "data.image_shape", "model.input_shape"),
        "`data.mean` and `data.std` have one value, or one per channel.",
        _constants_fit_channels,
    ),
    Rule(
        ("model.input_shape", "data.image_shape", "data.image_size", "data.channels", "data.source"),
        "`model.input_shape`, when given, is the shape of the data's images.",
        _shape_agrees,
    ),
    Rule(
        ("model.num_classes", "data.num_classes", "data.source"),
        "`model.num_classes`, when given, is the number of the data's classes.",
        _classes_agree,
    ),
    Rule(
        ("model.dropout_rate", "model.hidden_sizes", "model.architecture"),
        "`model.dropout_rate` above 0 needs a hidden dense layer to act on.",
        _dropout_has_layers,
    ),
    Rule(
        ("model.normalization", "model.hidden_sizes", "model.architecture"),
        "`model.normalization` needs a hidden layer to act on.",
        _norm_has_layers,
    ),
    Rule(
        ("training.schedule.name", "data.split.validation"),
        "`training.schedule.name: reduce_on_plateau` needs a validation part: `data.split.validation` above 0.",
        _plateau_is_evaluated,
    ),
    Rule(
        ("registry.alias", "registry.publish"),
        "`registry.alias` needs `registry.publish: true`.",
        _alias_is_published,
    ),
)
"""Every rule that joins settings of different fields."""


def conflicts(run: RunSpec) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every broken rule: (the keys it reads, what came and what was expected)."""
    for rule in RULES:
        text = rule.broken(run)
        if text is not None:
            yield rule.keys, text


def data_shape(run: RunSpec, *, follow_model: bool = True) -> tuple[int, int, int] | None:
    """(height, width, channels) of the images, where the settings alone tell it.

    Synthetic images take the model's shape unless `image_shape` was given; `follow_model=False` leaves that out.
    """
    match run.data:
        case DigitsSpec():
            return DIGITS_SHAPE
        case ImageFolderSpec(image_size=(height, width), channels=channels):
            return height, width, channels
        case SyntheticSpec(image_shape=(height, width, channels)):
            return height, width, channels
        case SyntheticSpec() if follow_model:
            return run.model.input_shape or SYNTHETIC_SHAPE
        case _:
            return run.model.input_shape if follow_model else None
