from pathlib import Path

import pytest

from dlhpc.errors import ConfigError
from dlhpc.spec.load import load_run
from dlhpc.spec.location import absolute, check_location
from dlhpc.spec.registry import RegistrySpec


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("registry", "registry"),
        ("./registry/", "registry"),
        (Path("/data/models"), "/data/models"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("gs://bucket", "gs://bucket"),
        ("gcs://bucket/a/b", "gs://bucket/a/b"),
        ("abfs://container/a", "az://container/a"),
        ("folder/with:/colon", "folder/with:/colon"),
    ],
)
def test_one_spelling(written, meant):
    assert check_location(written) == meant
    assert RegistrySpec(path=written).path == meant


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("mlflow+http://host:5000", "versions come from MLflow by `dlhpc registry pull`"),
        ("ftp://host/x", "unknown scheme 'ftp'; expected a folder, or s3://"),
        ("s3:/bucket/x", "expected s3://bucket/prefix"),
        ("s3://", "expected s3://bucket/prefix"),
        ("", "expected a folder"),
        (3, "expected a folder"),
    ],
)
def test_what_is_no_location(written, message):
    with pytest.raises(ValueError, match=message):
        check_location(written)


def test_a_file_takes_urls_and_shows_where_one_is_wrong(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("name: x\nmodel: {name: FlaxMLP}\nregistry:\n  path: s3://bucket/models\n")
    assert load_run(path).registry.path == "s3://bucket/models"
    path.write_text("name: x\nmodel: {name: FlaxMLP}\nregistry:\n  path: ftp://bucket/models\n")
    with pytest.raises(ConfigError, match=r"run.yaml:4:9: registry.path: .* expected a folder, or a URL"):
        load_run(path)


def test_other_processes_find_a_folder(tmp_path):
    assert absolute("registry") == str(Path.cwd() / "registry")
    assert absolute("s3://bucket/models") == "s3://bucket/models"
