"""Registries on S3 (moto's server), Azure Blob Storage (Azurite) and Google Cloud Storage (an emulator)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from dlhpc.backends import load_backend
from dlhpc.registry.store import Registry
from tests.registry.samples import sample

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["s3", "azure"])
def store(request):
    """(environment, URL) of a store that keeps conditions."""
    environ = request.getfixturevalue(request.param)
    return environ, {"s3": "s3", "azure": "az"}[request.param] + f"://models/{request.node.name.partition('[')[0]}"


def publish(python, environ, url, *starts):
    """Processes that publish ten versions each, all at the same time, on a registry that does not exist yet."""
    arguments = [python, "-m", "tests.deploy.writer", "publish", url]
    options = {"cwd": ROOT, "env": environ, "text": True, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    writers = [subprocess.Popen([*arguments, str(start), "10"], stderr=subprocess.PIPE, **options) for start in starts]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n", writer.stderr.read()
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    said = [writer.communicate(timeout=250)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * len(writers), said


def test_two_writers_on_one_object_store(store, python, run):
    environ, url = store
    publish(python, environ, url, 0, 10)
    found = json.loads(run(environ, "tests.deploy.writer", "verify", url))
    assert found["numbers"] == list(range(1, 21))
    assert found["digests"] == sorted(sample(seed).digest for seed in range(20))
    assert (found["versions"], found["problems"], found["unused"]) == (20, [], 0)
    assert found["chained"]


def test_copies_to_a_folder_and_back(store, python, run, tmp_path):
    environ, url = store
    publish(python, environ, url, 0)
    said = json.loads(run(environ, "tests.deploy.writer", "copy", tmp_path / "folder", url))
    assert said["copied"] == sorted(sample(seed).digest for seed in range(10))
    assert (said["back"], said["problems"]) == ("returned:1", [])
    assert Registry(tmp_path / "folder", load_backend).get("pets:1").digest in said["copied"]


def test_a_big_file_is_sent_in_parts_and_gone_on_with(store, run):
    environ, url = store
    said = json.loads(run(environ, "tests.deploy.writer", "big", url, 40))
    assert said == {"parts": 3, "told": [0, 2**24, 2**25, 40 * 2**20], "same": True, "size": 40 * 2**20}


def test_a_sweep_removes_what_is_older_than_a_day(store, python, run):
    environ, url = store
    publish(python, environ, url, 0)
    files = len(sample().manifest.files)
    said = json.loads(run(environ, "tests.deploy.writer", "sweep", url))
    assert said == {"young": 1 + files, "kept": {}, "removed": {"manifest": 1, "blob": files}, "problems": []}


def test_the_command_line_takes_urls(store, run, tmp_path):
    environ, url = store
    Registry(tmp_path / "here", load_backend).publish(sample(0), "pets")
    here = ["--registry", tmp_path / "here"]
    said = json.loads(run(environ, "dlhpc.cli.main", "registry", "push", "pets", url, *here, "--json"))
    assert (said["ref"], said["digest"]) == ("pets:1", sample(0).digest)
    assert "pets:1" in run(environ, "dlhpc.cli.main", "registry", "list", "--registry", url)
    verified = run(environ, "dlhpc.cli.main", "registry", "verify", "--registry", url)
    assert verified.endswith("every byte is as published")


def test_the_emulator_of_google_cloud_storage_keeps_no_conditions_and_is_refused(gcs, python):
    """It takes ifGenerationMatch=0 and overwrites: two writers would get one label, so nothing is written there."""
    command = [python, "-m", "tests.deploy.writer", "publish", "gs://models/team", "0", "1"]
    done = subprocess.run(
        command, cwd=ROOT, env=gcs, input="go\n", capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode != 0
    assert "this object store ignores the condition of a conditional write" in done.stderr


def test_the_emulator_of_google_cloud_storage_is_read(gcs, python, run, tmp_path):
    """A registry that another tool copied into the bucket is read and verified there."""
    registry = Registry(tmp_path / "registry", load_backend)
    for seed in range(2):
        registry.publish(sample(seed), "pets", alias="production")
    code = """
import sys, pathlib, fsspec
root = pathlib.Path(sys.argv[1])
for path in root.rglob("*"):
    if path.is_file() and "/." not in str(path.relative_to(root.parent)):
        fsspec.filesystem("gs").pipe_file(f"models/copied/{path.relative_to(root)}", path.read_bytes())
"""
    subprocess.run([python, "-c", code, registry.root], env=gcs, check=True, timeout=250)
    found = json.loads(run(gcs, "tests.deploy.writer", "verify", "gs://models/copied"))
    assert (found["numbers"], found["versions"], found["problems"]) == ([1, 2], 2, [])
