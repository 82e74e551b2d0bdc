from dataclasses import replace

import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import ConflictError, IntegrityError, UsageError
from dlhpc.registry.benchmark import BenchmarkPlan
from dlhpc.registry.blobs import content_path
from dlhpc.registry.gates import parse_gate
from dlhpc.registry.promotion import (
    DEFAULT_GATES,
    PromotionRefusedError,
    benchmark,
    compare_versions,
    default_plan,
    promote,
    widened,
)
from dlhpc.registry.store import Registry
from tests.registry.samples import sample
from tests.registry.subjects import Stage

A, B = sample(5), sample(0)  # B is half a point less accurate
GATES = [parse_gate("accuracy<-0.6pt"), parse_gate("p50>+10%")]


@pytest.fixture
def store(tmp_path):
    store = Registry(tmp_path / "registry", load_backend)
    store.publish(A, "pets", alias="production")
    store.publish(B, "pets", alias="candidate")
    return store


def test_a_candidate_that_passes_is_promoted(store):
    stage = Stage({B.digest: 1.05})
    found = promote(store, "pets@candidate", "production", GATES, note="agreed.", start=stage)
    assert (found.before, found.candidate, found.move.moved_to) == (A.digest, B.digest, 2)
    assert store.resolve("pets@production") == B.digest
    note = store.history("pets", "production")[-1].note
    assert note == (
        "agreed. [gates: accuracy<-0.6pt passed (accuracy -0.5pt); p50>+10% passed (p50[flax,1,uint8] +5%)]"
    )
    assert {who[:2] for who in stage.diary} == {(A.digest, "flax"), (B.digest, "flax")}
    assert [len(store.benchmarks(ref)) for ref in ("pets:1", "pets:2")] == [1, 1]


@pytest.mark.parametrize(
    ("gates", "reason"),
    [
        (["p50>+4%"], r"p50>\+4% failed \(p50\[flax,1,uint8\] \+5%, "),
        (["accuracy<-0.4pt"], r"accuracy<-0\.4pt failed \(accuracy -0\.5pt\)"),
        (["accuracy<0.9"], r"accuracy<0\.9 failed \(accuracy 0\.5\)"),
        (["size>+10%", "p99>+1%"], r"p99>\+1% failed"),
    ],
)
def test_a_candidate_that_fails_stays_where_it_is(store, gates, reason):
    with pytest.raises(PromotionRefusedError, match=reason) as caught:
        promote(store, "pets:2", "production", [*map(parse_gate, gates)], start=Stage({B.digest: 1.05}))
    assert caught.value.exit_code == 1
    assert caught.value.promotion.move is None
    assert store.resolve("pets@production") == A.digest
    assert len(store.history("pets", "production")) == 1


def test_an_override_needs_a_note_and_is_told(store):
    gate = [parse_gate("p50>+4%")]
    slower = Stage({B.digest: 1.05})
    for note in ("", "  "):
        with pytest.raises(UsageError, match="needs a note"):
            promote(store, "pets:2", "production", gate, override=True, note=note, start=slower)
    assert slower.diary == []
    promote(store, "pets:2", "production", gate, override=True, note="hot fix", start=slower)
    assert store.history("pets", "production")[-1].note.startswith("hot fix [gates overridden: p50>+4% failed (p50[")
    assert store.resolve("pets@production") == B.digest


def test_an_override_that_was_not_needed_is_none(store):
    promote(store, "pets:2", "production", GATES, override=True, note="sure", start=Stage())
    assert store.history("pets", "production")[-1].note.startswith("sure [gates: accuracy")


def test_a_gate_that_cannot_be_answered_is_never_passed(store):
    manifest = B.manifest.model_copy(update={"metrics": {}})
    nameless = replace(B, manifest=manifest, manifest_bytes=manifest.to_bytes())
    store.publish(nameless, "pets")
    with pytest.raises(UsageError, match=r"cannot be answered:\n  accuracy<-0\.5pt unmeasurable") as caught:
        promote(store, "pets:3", "production", [parse_gate("accuracy<-0.5pt")], start=Stage())
    assert caught.value.exit_code == 2
    assert store.resolve("pets@production") == A.digest


def test_unknown_figures_show_before_anything_is_measured(store):
    stage = Stage()
    with pytest.raises(UsageError, match="no figure 'acuracy'"):
        promote(store, "pets:2", "production", [parse_gate("acuracy<1")], override=True, note="x", start=stage)
    with pytest.raises(UsageError, match="no figure 'acuracy'"):
        compare_versions(store, "pets:1", "pets:2", [parse_gate("acuracy<1")], fresh=True, start=stage)
    assert stage.diary == []


def test_the_first_promotion_is_asked_for_limits(store):
    gates = [parse_gate("accuracy<-0.5pt"), parse_gate("parity>1e-4")]
    with pytest.raises(PromotionRefusedError, match="parity>1e-4 failed"):
        promote(store, "pets:2", "stable", gates, start=Stage(parities={B.digest: 1e-3}))
    found = promote(store, "pets:2", "stable", gates, start=Stage())
    assert (found.before, found.move.moved_from) == (None, None)
    assert [verdict.outcome for verdict in found.comparison.verdicts] == ["not applied", "passed"]


def test_the_default_gates(store):
    assert [gate.text for gate in map(parse_gate, DEFAULT_GATES)] == [*DEFAULT_GATES]
    with pytest.raises(PromotionRefusedError, match=r"p50>\+25% failed"):
        promote(store, "pets:2", "production", start=Stage({B.digest: 1.3}))
    found = promote(store, "pets:2", "production", start=Stage({B.digest: 1.2}))
    assert [verdict.gate for verdict in found.comparison.verdicts] == [*DEFAULT_GATES]


def test_where_it_stands_already_nothing_happens(store):
    stage = Stage()
    found = promote(store, "pets:1", "production", start=stage)
    assert (found.move, found.comparison, stage.diary) == (None, None, [])


def test_a_damaged_candidate_is_refused_before_anything_is_measured(store):
    path = content_path(store.blobs, B.manifest.files["weights.safetensors"].sha256)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    stage = Stage()
    with pytest.raises(IntegrityError, match="weights"):
        promote(store, "pets:2", "production", [], override=True, note="x", start=stage)
    assert stage.diary == []
    assert store.resolve("pets@production") == A.digest


def test_what_somebody_else_moved_meanwhile_is_not_lost(store):
    store.publish(sample(7), "pets")
    stage = Stage()
    stage.before_start = lambda: store.set_alias("pets", "production", "pets:3", note="mine")
    with pytest.raises(ConflictError, match="pets@production was moved to pets:3 meanwhile"):
        promote(store, "pets:2", "production", GATES, start=stage)
    assert store.resolve("pets@production") == sample(7).digest
    stage = Stage()
    stage.before_start = lambda: store.set_alias("pets", "fresh", "pets:3")
    with pytest.raises(ConflictError, match="pets@fresh was moved"):
        promote(store, "pets:2", "fresh", [parse_gate("parity>1")], start=stage)
    assert store.resolve("pets@fresh") == sample(7).digest


def test_a_digest_has_no_alias(store):
    with pytest.raises(UsageError, match="has no name whose alias could move"):
        promote(store, f"sha256:{B.digest}", "production")


def test_gates_on_manifests_measure_nothing(store):
    stage = Stage()
    promote(store, "pets:2", "production", [parse_gate("size>+10%")], start=stage)
    assert stage.diary == []


def test_without_measuring_a_common_session_counts(store):
    gates = [parse_gate("p50>+10%")]
    with pytest.raises(UsageError, match="not measured in this backend"):
        promote(store, "pets:2", "production", gates, fresh=False)
    benchmark(store, ["pets:1", "pets:2"], BenchmarkPlan(backends=("torch",)), start=Stage({B.digest: 1.2}))
    with pytest.raises(PromotionRefusedError):
        promote(store, "pets:2", "production", gates, fresh=False)
    assert promote(store, "pets:2", "production", gates, fresh=True, start=Stage()).move is not None


def test_a_comparison_measures_what_gates_need(store):
    compare_versions(store, "pets:1", "pets:2", [parse_gate("size>+1%")])
    assert store.benchmarks("pets:1") == ()
    stage = Stage()
    gates = [parse_gate("p50[torch,3,float32]>+10%")]
    found = compare_versions(store, "pets:1", "pets:2", gates, start=stage)
    assert found.verdicts[0].outcome == "passed"
    assert (B.digest, "torch", 3, "float32") in stage.diary
    compare_versions(store, "pets:1", "pets:2", gates)  # answered by what is on record
    assert len(store.benchmarks("pets:1")) == 1
    compare_versions(store, "pets:1", "pets:2", fresh=True, start=Stage())
    assert len(store.benchmarks("pets:1")) == 2


def test_a_version_and_itself_are_alike(store):
    found = compare_versions(store, "pets:1", "pets", fresh=False)
    assert found.a != found.b
    alike = compare_versions(store, "pets:1", "pets@production", [parse_gate("p50>+0%")], start=Stage())
    assert alike.verdicts[0].outcome == "passed"


def test_plans_are_widened_by_what_gates_name(store):
    plan = default_plan(store, A.digest)
    assert plan.backends == ("flax",)
    wide = widened(plan, [parse_gate("p99[torch]>1"), parse_gate("p99[64,float32]>1"), parse_gate("size>1")])
    assert (wide.backends, wide.batch_sizes) == (("flax", "torch"), (1, 8, 32, 64))
    assert wide.dtypes == ("uint8", "float32")
    assert widened(plan, [parse_gate("p99>1")]) == plan
