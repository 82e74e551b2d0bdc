"""The registry as a server sees it: what references stand for, and versions that are loaded."""

from __future__ import annotations

import re
from collections.abc import Callable

from dlhpc.backends import load_backend
from dlhpc.registry.artifact import Artifact
from dlhpc.registry.cache import NodeCache
from dlhpc.registry.derived import quantised, rounded
from dlhpc.registry.store import Registry
from dlhpc.serving.compute import backend_of
from dlhpc.serving.deviation import deviation, too_far
from dlhpc.serving.plan import Plan, PlannedModel, plan_of
from dlhpc.serving.slots import Slot
from dlhpc.spec.precision import computes_in
from dlhpc.spec.serving import ServingSpec
from dlhpc.spec.wire import ModelInfo


def first_plan(spec: ServingSpec, is_unwanted: Callable[[], bool] = lambda: False) -> Plan:
    """What a server serves to begin with: every model that its spec names, verified.

    Frameworks are measured until `is_unwanted`. Raises NotFoundError without such a model, IntegrityError when one is
    damaged or not signed as the spec wants it.
    """
    if not spec.models:
        return plan_of(published(spec, is_unwanted=is_unwanted))
    models = (
        PlannedModel(name=name, stable=published(spec, served.ref, is_unwanted=is_unwanted))
        for name, served in spec.models.items()
    )
    return Plan(epoch=1, models=tuple(models))


def published(
    spec: ServingSpec, ref: str | None = None, *, is_unwanted: Callable[[], bool] = lambda: False
) -> ModelInfo:
    """The version that a reference stands for (the spec's `model` without one), verified: every replica serves this
    one, whatever is published meanwhile. With backend auto the frameworks are measured first, until `is_unwanted`."""
    registry = Registry(spec.registry, load_backend)
    ref = ref or spec.model or registry.newest().ref
    artifact = _artifact(registry, spec, ref)
    names = [version.ref for version in registry.labels(artifact.digest)]
    asked = [name for name in names if name.partition(":")[0] == re.split("[:@]", ref)[0]]
    shape = artifact.manifest.run.model.input_shape
    assert shape is not None  # a registry holds resolved runs only
    choice = backend_of(spec, artifact, is_unwanted)
    return ModelInfo(
        name=(asked or names or [ref])[-1],
        digest=f"sha256:{artifact.digest}",
        backend=choice.backend,
        backend_reason=choice.reason,
        classes=artifact.classes,
        input_shape=shape,
        precision=spec.precision,
        verification=spec.verification.mode,
    )


def load_slot(spec: ServingSpec, info: ModelInfo) -> Slot:
    """Load a version, verified once more, compare its answers with those that were stored with it, and warm it up.

    Raises ServingError when they are further off than the spec allows.
    """
    artifact = _artifact(Registry(spec.registry, load_backend), spec, info.digest)
    predictor = artifact.predictor(info.backend, computes_in(spec.precision))
    found = deviation(artifact, predictor, spec.batching.max_batch_size)
    if found is not None and not found <= spec.deviation_bound:
        raise too_far(info, found, spec.deviation_bound)
    slot = Slot(info.model_copy(update={"deviation": found}), predictor)
    slot.warm_up(spec.batching.max_batch_size)
    return slot


def _artifact(registry: Registry, spec: ServingSpec, ref: str) -> Artifact:
    """A version with the weights that are to answer, looked at as the spec says.

    A signature does not cover the int8 file: where one is asked for, the signed weights are rounded here.
    """
    how = spec.verification
    cache = NodeCache(how.cache_dir, how.cache_bytes)
    if spec.precision == "int8" and not how.require_signature:
        return quantised(registry, ref, cache if how.mode == "cached" else None)
    artifact = registry.get(ref, verify=how.mode, cache=cache, require_signature=how.require_signature)
    return rounded(artifact) if spec.precision == "int8" else artifact
