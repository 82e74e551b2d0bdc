from dataclasses import replace

import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import UsageError
from dlhpc.registry import benchmark as benchmarks
from dlhpc.registry.benchmark import BenchmarkPlan
from dlhpc.registry.comparison import compare, measured_together
from dlhpc.registry.figures import Place
from dlhpc.registry.gates import parse_gate
from dlhpc.registry.promotion import benchmark
from dlhpc.registry.store import Registry
from tests.registry.samples import sample
from tests.registry.subjects import Stage

A, B, ELSEWHERE = sample(0), sample(5), sample(6)
PLAN = BenchmarkPlan(backends=("flax", "torch"), batch_sizes=(1, 8), processes=1, rounds=3)
SLOWER = Stage({B.digest: 1.2}, {B.digest: 2e-5})
P50 = Place("p50", "torch", 8, "uint8")


@pytest.fixture
def store(tmp_path):
    store = Registry(tmp_path / "registry", load_backend)
    store.publish(A, "pets")
    store.publish(B, "pets")
    return store


@pytest.fixture
def together(store):
    benchmark(store, ["pets:1", "pets:2"], PLAN, start=SLOWER)
    return store


def rows(store, a=A.digest, b=B.digest):
    return {row.place: row for row in compare(store, a, b).rows}


def verdict(store, text, a=A.digest, b=B.digest):
    (found,) = compare(store, a, b, [parse_gate(text)]).verdicts
    return found


def test_manifests_are_compared_without_any_benchmark(store):
    found = rows(store)
    assert {str(place) for place in found} == {"accuracy", "loss", "size"}
    assert (found[Place("accuracy")].a.value, found[Place("accuracy")].b.value) == (0.5, 0.505)
    assert found[Place("accuracy")].difference == 0.005
    assert found[Place("accuracy")].relative == 1.0
    assert found[Place("size")].b.value == B.manifest.size / 1e6


def test_changes_are_medians_of_rounds_side_by_side(together):
    row = rows(together)[P50]
    assert row.a.rounds == (24.0, 16.0, 8.0)  # the machine's mood
    assert row.relative == pytest.approx(20.0)
    assert row.difference == pytest.approx(0.2 * 16)
    assert compare(together, A.digest, B.digest).session == together.benchmarks("pets:1")[0].session


def test_a_percentage_of_nothing_is_none(together):
    assert rows(together)[Place("parity", "flax")].relative is None
    found = verdict(together, "parity[flax]>+10%")
    assert (found.outcome, found.detail) == (
        "unmeasurable",
        "parity[flax] of the first version is 0, so there is no percentage of it",
    )


@pytest.mark.parametrize(
    ("passes", "fails"),
    [
        ("p50>+21%", "p50>+19%"),
        ("p99[torch,8]>+21%", "p99[torch,8]>=+20%"),
        ("throughput<-17%", "throughput<-16%"),
        ("first_call>+11ms", "first_call>+9ms"),
        ("memory>+0%", "memory>=+0%"),
        ("load>+0.21", "load>+0.19ms"),
        ("parity>1e-4", "parity>1e-5"),
        ("parity>+3e-5", "parity>+1e-5"),
        ("size>+0%", "size<=+0%"),
        ("size>1MB", "size<1MB"),
        ("accuracy<+0.5pt", "accuracy<=+0.5pt"),
        ("accuracy<0.505", "accuracy<=0.505"),
        ("accuracy<+0.9%", "accuracy<+1.1%"),
        ("loss>+0", "loss>=+0"),
        ("p50[flax,1]>3", "p50[flax,1]>2"),
    ],
)
def test_every_kind_of_gate_passes_and_fails(together, passes, fails):
    assert verdict(together, passes).outcome == "passed"
    assert verdict(together, fails).outcome == "failed"


def test_a_gate_over_many_figures_names_those_that_fail(together):
    assert verdict(together, "p50>+19%").detail == (
        "p50[flax,1,uint8] +20%, p50[flax,8,uint8] +20%, p50[torch,1,uint8] +20%, p50[torch,8,uint8] +20%"
    )
    assert verdict(together, "p50>10ms").detail == "p50[flax,8,uint8] 19.2ms, p50[torch,8,uint8] 19.2ms"
    assert verdict(together, "p50>100ms").detail == "p50[flax,8,uint8] 19.2ms"
    assert str(verdict(together, "accuracy<-0.1pt")) == "accuracy<-0.1pt passed (accuracy +0.5pt)"


def test_what_was_not_measured_is_never_passed(store, together):
    assert verdict(together, "p50[16]>+10%").outcome == "unmeasurable"
    assert verdict(together, "p50[float32]>+10%").outcome == "unmeasurable"
    together.publish(ELSEWHERE, "pets")
    assert verdict(together, "p50>+10%", b=ELSEWHERE.digest).outcome == "unmeasurable"
    assert verdict(together, "p50>1000", b=ELSEWHERE.digest).detail == "the second version has no p50[flax,1,uint8]"


def test_an_unknown_figure_is_a_mistake(store):
    with pytest.raises(UsageError, match="no figure 'acuracy'; did you mean 'accuracy'"):
        verdict(store, "acuracy<0.9")


def test_figures_of_two_sessions_are_shown_but_not_judged(store):
    benchmark(store, ["pets:1"], PLAN, start=Stage())
    benchmark(store, ["pets:2"], PLAN, start=SLOWER)
    row = rows(store)[P50]
    assert (row.apart, row.relative) == ("", pytest.approx(20.0))
    assert compare(store, A.digest, B.digest).session is None
    assert verdict(store, "p50>+10%").detail == "the two were not measured in one session"
    assert verdict(store, "p50>1000").outcome == "passed"
    assert verdict(store, "parity>+1e-4").outcome == "passed"


def test_the_latest_session_of_both_is_compared(together):
    benchmark(together, ["pets:2", "pets:1"], PLAN, start=Stage({B.digest: 2.0}))
    benchmark(together, ["pets:2"], PLAN, start=Stage({B.digest: 9.0}))
    assert rows(together)[P50].relative == pytest.approx(100.0)


def test_figures_of_other_hardware_are_not_compared(store, monkeypatch):
    benchmark(store, ["pets:1"], PLAN, start=Stage())
    here = benchmarks.hardware()
    monkeypatch.setattr(benchmarks, "hardware", lambda: {**here, "processor": "abacus"})
    benchmark(store, ["pets:2"], PLAN, start=Stage())
    row = rows(store)[P50]
    assert row.apart.startswith("measured on other hardware: ")
    assert "abacus" in row.apart
    assert (row.relative, row.difference) == (None, None)
    assert rows(store)[Place("parity", "torch")].difference == 0.0


def test_figures_of_another_device_are_not_compared(store):
    benchmark(store, ["pets:1"], PLAN, start=Stage())

    def on_a_gpu(digest, backend):
        subject = Stage()(digest, backend)
        about, beginning = subject.began()
        subject.began = lambda: ({**about, "device": "GPU" if backend == "torch" else "cpu"}, beginning)
        return subject

    benchmark(store, ["pets:2"], PLAN, start=on_a_gpu)
    found = rows(store)
    assert found[P50].apart == "measured on cpu with 2 threads; GPU with 2"
    assert found[replace(P50, backend="flax")].apart == ""


def test_metrics_of_other_data_are_not_compared(store):
    manifest = B.manifest.model_copy(update={"data_fingerprint": "cd" * 32})
    other = replace(B, manifest=manifest, manifest_bytes=manifest.to_bytes())
    store.publish(other, "pets")
    assert rows(store, b=other.digest)[Place("accuracy")].apart == "taken on other data: the fingerprints differ"
    assert verdict(store, "accuracy<-0.5pt", b=other.digest).outcome == "unmeasurable"
    assert verdict(store, "accuracy<0.9", b=other.digest).outcome == "failed"
    assert verdict(store, "size>+1%", b=other.digest).outcome == "passed"


def test_alone_only_limits_apply(together):
    for text, outcome in (("accuracy<-0.5pt", "not applied"), ("accuracy<0.9", "failed"), ("p50>+1%", "not applied")):
        assert verdict(together, text, a=None).outcome == outcome
    assert verdict(together, "p50[torch,1]>3", a=None).outcome == "passed"


def test_whether_records_answer_the_gates(store):
    def answered(*texts, a=A.digest):
        return measured_together(store, a, B.digest, [parse_gate(text) for text in texts])

    assert answered("accuracy<-0.5pt", "size>+1%")
    assert not answered("p50>+1%")
    benchmark(store, ["pets:2"], PLAN, start=Stage())
    assert not answered("p50>+1%")
    assert answered("p50>1", a=None)
    benchmark(store, ["pets:1", "pets:2"], PLAN, start=Stage())
    assert answered("p50>+1%", "load[torch]>+1%", "accuracy<-0.5pt")
    assert not answered("p50>+1%", "p50[16]>+1%")


def test_it_is_json(together):
    found = compare(together, A.digest, B.digest, [parse_gate("p50>+1%")]).canonical()
    row = next(row for row in found["figures"] if row["figure"] == "p50")
    assert (row["backend"], row["batch_size"], row["dtype"], row["unit"]) == ("flax", 1, "uint8", "ms")
    assert row["relative_percent"] == pytest.approx(20.0)
    assert found["gates"][0]["outcome"] == "failed"
