import json
import shutil

import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import DlhpcError, IntegrityError, NotFoundError, UsageError
from dlhpc.registry import gc, remarks
from dlhpc.registry.benchmark import BenchmarkPlan, measure
from dlhpc.registry.benchmark_record import BenchmarkRecord
from dlhpc.registry.blobs import content_path
from dlhpc.registry.events import events
from dlhpc.registry.promotion import benchmark
from dlhpc.registry.records import append
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample
from tests.registry.subjects import Stage
from tests.registry.writers import leave

PLAN = BenchmarkPlan(
    backends=("flax", "torch"), batch_sizes=(8, 1, 8), dtypes=("uint8", "float32"), processes=2, rounds=3, calls=5
)


@pytest.fixture
def store(tmp_path):
    store = Registry(tmp_path / "registry", load_backend)
    store.publish(sample(0), "pets", alias="production")
    store.publish(sample(1), "pets")
    return store


def test_all_take_turns_in_alternating_order():
    stage = Stage()
    steps = []
    measure(["aa", "bb"], PLAN, stage, lambda done, total: steps.append((done, total)))
    order = [("aa", "flax"), ("aa", "torch"), ("bb", "flax"), ("bb", "torch")]
    kinds = [(1, "uint8"), (1, "float32"), (8, "uint8"), (8, "float32")]
    turns = [order, order[::-1]] * 3  # of the rounds of both processes
    expected = []
    for process in (turns[:3], turns[3:]):
        expected += [(*who, "began") for who in order]
        expected += [(*who, *kind) for turn in process for kind in kinds for who in turn]
        expected += [(*who, "load") for turn in turns[:2] for who in turn]
        expected += [(*who, "closed") for who in order[::-1]]
    assert stage.diary == expected
    assert steps == [(done, 128) for done in range(129)]


def test_figures_are_kept_by_round():
    found = measure(["aa", "bb"], PLAN, Stage({"bb": 3.0}, {"bb": 0.25}))
    assert found["aa"].session == found["bb"].session
    slow = found["bb"]
    assert [(cell.backend, cell.batch_size, cell.dtype) for cell in slow.cells][:4] == [
        ("flax", 1, "uint8"),
        ("flax", 1, "float32"),
        ("flax", 8, "uint8"),
        ("flax", 8, "float32"),
    ]
    assert [round.p50_ms for round in slow.cells[0].rounds] == [6.0, 9.0, 3.0] * 2
    assert [round.calls for round in slow.cells[0].rounds] == [5] * 6
    assert (slow.cells[0].first_calls_ms, slow.processes[0].loads[0].build_ms) == ((150.0, 150.0), 3.0)
    assert [(each.backend, each.parity, len(each.loads), len(each.beginnings)) for each in slow.processes] == [
        ("flax", 0.25, 4, 2),
        ("torch", 0.25, 4, 2),
    ]
    assert measure(["aa"], PLAN, Stage())["aa"].session != slow.session


def test_every_subject_is_closed_when_one_fails():
    stage = Stage()

    def start(digest, backend):
        subject = stage(digest, backend)
        if backend == "torch":
            subject.load = fail
        return subject

    def fail():
        raise DlhpcError("it died")

    with pytest.raises(DlhpcError, match="it died"):
        measure(["aa"], PLAN, start)
    assert [what for *_, what in stage.diary][-2:] == ["closed", "closed"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"backends": ()}, "nothing to measure: give at least one"),
        ({"batch_sizes": ()}, "nothing to measure: give at least one"),
        ({"dtypes": ()}, "nothing to measure: give at least one"),
        ({"backends": ("mlx",)}, "backend 'mlx' is unknown: it is one of 'flax', 'torch'"),
        ({"dtypes": ("int4",)}, "dtype 'int4' is unknown"),
        ({"batch_sizes": (1, 0)}, "a batch of 0 images"),
        ({"batch_sizes": (10**6,)}, "give 1 to 65536"),
        ({"rounds": 0}, "must be positive"),
        ({"processes": 0}, "must be positive"),
        ({"calls": 0}, "must be positive"),
        ({"seconds": 0.0}, "must be positive"),
        ({"seconds": float("nan")}, "must be positive"),
        ({"seconds": float("inf")}, "and end"),
    ],
)
def test_a_plan_that_measures_nothing_is_refused(changes, problem):
    with pytest.raises(UsageError, match=problem):
        BenchmarkPlan(**changes)


def test_benchmarks_belong_to_the_version_under_all_its_names(store):
    store.publish(sample(0), "animals")
    (record,) = benchmark(store, ["pets:1"], PLAN, start=Stage())
    (again,) = benchmark(store, ["animals", "pets@production"], PLAN, start=Stage())
    assert store.benchmarks("pets:1") == store.benchmarks("animals") == (record, again)
    assert (again.number, again.version) == (2, sample(0).digest)
    assert store.benchmarks("pets:2") == ()
    assert store.get("pets:1").digest == sample(0).digest


def test_history_verification_and_sweeps_know_them(store):
    benchmark(store, ["pets:1", "pets:2"], PLAN, start=Stage())
    told = [(event.kind, event.ref) for event in events(store, "pets")]
    assert told[-2:] == [("benchmark", "pets:1"), ("benchmark", "pets:2")]
    assert events(store, "pets:2")[-1].what.startswith("flax, torch, ")
    assert (verify(store).remarks, verify(store).problems) == (2, [])
    gc.sweep(store, grace_s=0, now=lambda: 1e12)
    assert len(store.benchmarks("pets:1")) == 1
    (store.root / ".clock").rename(store.root / ".gone")  # numbers go on after what the records say
    (last,) = benchmark(store, ["pets:1"], PLAN, start=Stage())
    assert last.sequence > store.benchmarks("pets:2")[-1].sequence


@pytest.mark.parametrize("how", ["faster", "swapped", "removed", "resealed"])
def test_tampering_is_refused_and_named(store, how):
    for _ in range(2):
        benchmark(store, ["pets:1", "pets:2"], PLAN, start=Stage())
    folder = content_path(store.annotations, sample(0).digest) / "benchmarks"
    first, other = folder / "1.json", content_path(store.annotations, sample(1).digest) / "benchmarks" / "1.json"
    match how:
        case "faster":
            first.write_bytes(first.read_bytes().replace(b'"p50_ms":2.0', b'"p50_ms":1.0', 1))
        case "swapped":
            first.write_bytes(other.read_bytes())
        case "removed":
            first.unlink()
        case "resealed":  # a valid record, but not the one that the second follows
            record = BenchmarkRecord.model_validate(
                {key: value for key, value in json.loads(first.read_bytes()).items() if key != "sha256"}
            )
            first.unlink()
            append(folder, record.model_copy(update={"by": "somebody@else"}))
    with pytest.raises(IntegrityError, match=r"\.json"):
        store.benchmarks("pets:1")
    assert any("benchmarks" in problem for problem in verify(store).problems)
    assert len(store.benchmarks("pets:2")) == 2


def test_what_is_published_under_no_name_is_not_measured(store):
    leave(store, sample(2))
    stage = Stage()
    with pytest.raises(NotFoundError, match="interrupted publication"):
        benchmark(store, [f"sha256:{sample(2).digest}"], PLAN, start=stage)
    assert stage.diary == []


def test_a_registry_that_cannot_be_written_to_shows_before_anything_is_measured(store):
    shutil.rmtree(store.root / ".leases")
    (store.root / ".leases").touch()  # nobody can write here, whoever runs the tests
    stage = Stage()
    with pytest.raises(DlhpcError, match="cannot write to the registry"):
        benchmark(store, ["pets:1"], PLAN, start=stage)
    assert stage.diary == []


def test_they_are_one_kind_of_remarks():
    assert BenchmarkRecord in remarks.KINDS
    assert BenchmarkRecord.place_of("ab" * 32) == f"the benchmarks of sha256:{'ab' * 32}"
