"""The registry as a server sees it: what references stand for, and versions that are loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from dlhpc.backends import load_backend
from dlhpc.registry.artifact import Artifact
from dlhpc.registry.cache import NodeCache
from dlhpc.registry.derived import quantised, rounded
from dlhpc.registry.refs import AliasRef, NewestRef, parse_ref
from dlhpc.registry.store import Registry
from dlhpc.serving.compute import backend_of
from dlhpc.serving.deviation import deviation, too_far
from dlhpc.serving.plan import Canary, Place, Plan, PlannedModel, Shadow, plan_of
from dlhpc.serving.slots import Slot
from dlhpc.spec.precision import computes_in
from dlhpc.spec.served import ServedModelSpec
from dlhpc.spec.serving import ServingSpec
from dlhpc.spec.wire import ModelInfo


def first_plan(spec: ServingSpec, is_unwanted: Callable[[], bool] = lambda: False) -> Plan:
    """What a server serves to begin with: every model that its spec names, verified.

    Frameworks are measured until `is_unwanted`. Raises NotFoundError without such a model, IntegrityError when one is
    damaged or not signed as the spec wants it.
    """
    if not spec.models:
        return plan_of(published(spec, is_unwanted=is_unwanted))
    find = partial(published, spec, is_unwanted=is_unwanted)
    return Plan(epoch=1, models=tuple(_planned(find, name, served) for name, served in spec.models.items()))


def _planned(find: Callable[[str], ModelInfo], name: str, served: ServedModelSpec) -> PlannedModel:
    canary = shadow = None
    if served.canary is not None:
        info, weight, by = find(served.canary.ref), served.canary.weight, served.canary.by
        canary = Canary(info=info, weight=weight, by=by)
    if served.shadow is not None:
        info, share = find(served.shadow.ref), served.shadow.share
        shadow = Shadow(info=info, share=share, max_pending=served.shadow.max_pending)
    return PlannedModel(name=name, stable=find(served.ref), canary=canary, shadow=shadow)


def moving_refs(spec: ServingSpec, plan: Plan) -> dict[Place, str]:
    """The references of a spec that may stand for another version later: names and aliases."""
    given: dict[Place, str] = {}
    if spec.model is not None:
        given[Place(plan.models[0].name, "stable")] = spec.model
    for name, served in spec.models.items():
        given[Place(name, "stable")] = served.ref
        if served.canary is not None:
            given[Place(name, "canary")] = served.canary.ref
        if served.shadow is not None:
            given[Place(name, "shadow")] = served.shadow.ref
    return {place: ref for place, ref in given.items() if isinstance(parse_ref(ref), NewestRef | AliasRef)}


class RegistryVersions:
    """The registry of a server, as its control loop needs it."""

    def __init__(self, spec: ServingSpec, is_unwanted: Callable[[], bool] = lambda: False) -> None:
        """Frameworks are measured until `is_unwanted`."""
        self._spec = spec
        self._is_unwanted = is_unwanted
        self._registry = Registry(spec.registry, load_backend)

    def digest(self, ref: str) -> str:
        """See Versions.digest."""
        return f"sha256:{self._registry.resolve(ref)}"

    def verified(self, ref: str) -> ModelInfo:
        """See Versions.verified."""
        return published(self._spec, ref, is_unwanted=self._is_unwanted)


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
        weight_bytes=sum(each.nbytes for each in artifact.weights.values()),
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
