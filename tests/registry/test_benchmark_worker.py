import io
import json
from dataclasses import replace

import numpy as np
import pytest

from dlhpc.backends import load_backend
from dlhpc.registry.benchmark_record import Load, Process, Round
from dlhpc.registry.benchmark_worker import serve
from dlhpc.registry.blobs import content_path
from dlhpc.registry.manifest import GOLDEN_FILE, FileEntry, sha256
from dlhpc.registry.store import Registry
from tests.registry.samples import sample


@pytest.fixture
def store(tmp_path):
    store = Registry(tmp_path / "registry", load_backend)
    store.publish(sample(0), "pets")
    return store


def ask(store, backend, *questions, digest=None):
    answers = io.StringIO()
    lines = io.StringIO("".join(json.dumps(question) + "\n" for question in questions))
    serve(str(store.root), digest or sample(0).digest, backend, lines, answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_it_answers_line_by_line(store, backend):
    question = {"ask": "round", "batch_size": 2, "dtype": "uint8", "seconds": 1.0, "calls": 2}
    began, first, second, load, parity = ask(store, backend, question, question, {"ask": "load"}, {"ask": "parity"})
    load = Load.model_validate(load)
    Process(backend=backend, loads=(load,), beginnings=(began["beginning"],), **parity, **began["about"])
    assert Round.model_validate(first["round"]).calls == 2
    assert first["first_call_ms"] == second["first_call_ms"] > 0
    assert parity["parity"] < 1e-6


def test_parity_is_with_the_stored_answers(store):
    artifact = sample(0)
    golden = artifact.golden()
    content = replace(golden, outputs=golden.outputs + np.float32(0.25)).to_bytes()
    entry = FileEntry(sha256=sha256(content), size=len(content))
    manifest = artifact.manifest.model_copy(update={"files": {**artifact.manifest.files, GOLDEN_FILE: entry}})
    store.publish(
        replace(artifact, manifest=manifest, manifest_bytes=manifest.to_bytes(), files={GOLDEN_FILE: content}), "odd"
    )
    said = ask(store, "torch", {"ask": "parity"}, digest=store.resolve("odd"))
    assert said[-1]["parity"] == pytest.approx(0.25, abs=1e-5)


def test_a_damaged_version_is_the_last_answer(store):
    path = content_path(store.blobs, sample(0).manifest.files["weights.safetensors"].sha256)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (said,) = ask(store, "torch", {"ask": "load"})
    assert said["status"] == 3
    assert str(path) in said["error"]


def test_what_it_does_not_understand_is_said(store):
    assert "does not understand" in ask(store, "torch", {"ask": "tea"})[-1]["error"]


def test_a_version_may_come_from_the_nodes_cache(store, tmp_path):
    answers = io.StringIO()
    serve(str(store.root), sample(0).digest, "torch", io.StringIO(""), answers, cache_dir=tmp_path / "cache")
    assert "beginning" in json.loads(answers.getvalue())
    assert {path.name for path in (tmp_path / "cache").glob("*.json")} == {
        f"{entry.sha256}.json" for entry in sample(0).manifest.files.values()
    }
