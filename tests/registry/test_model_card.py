import json

import pytest
import yaml

from dlhpc.registry.model_card import config, readme
from dlhpc.spec.load import load_run
from dlhpc.spec.registry import RegistrySpec
from tests.registry.samples import CLASSES, sample, sample_run


def metadata(text):
    return yaml.safe_load(text.split("---\n")[1])


def manifest(**registry):
    return sample(registry=RegistrySpec(**registry)).manifest


def test_the_metadata_is_what_hubs_read():
    said = metadata(readme(manifest(licence="Apache-2.0"), "ab" * 32, None, "out"))
    assert (said["license"], said["library_name"]) == ("apache-2.0", "dlhpc")
    assert said["tags"] == ["image-classification", "mlp", "flax"]
    assert said["metrics"] == ["accuracy", "loss"]
    (model,) = said["model-index"]
    (result,) = model["results"]
    assert {each["type"]: each["value"] for each in result["metrics"]} == {"accuracy": 0.5, "loss": 1.0}
    assert result["dataset"] == {"type": "synthetic", "name": "synthetic", "split": "validation"}


@pytest.mark.parametrize(
    ("licence", "said"),
    [(None, {}), ("MIT", {"license": "mit"}), ("LicenseRef-o", {"license": "other", "license_name": "LicenseRef-o"})],
)
def test_licences_as_hubs_call_them(licence, said):
    found = metadata(readme(manifest(licence=licence), "ab" * 32, None, "out"))
    assert {key: value for key, value in found.items() if key.startswith("license")} == said


def test_without_metrics_no_results_are_told():
    bare = manifest().model_copy(update={"metrics": {}, "data_fingerprint": None})
    text = readme(bare, "ab" * 32, None, "out")
    assert "model-index" not in text
    assert "## Results" not in text
    assert "trained on" not in text


def test_the_versions_own_card_comes_first_without_its_metadata():
    text = readme(manifest(), "ab" * 32, "---\nlicense: gpl\n---\n\n# Pets\n\nSee below.\n", "out")
    assert "license: gpl" not in text
    assert text.index("# Pets") < text.index("## Results") < text.index("## How to use")
    assert "An image classifier" not in text
    assert "# Pets" in readme(manifest(), "ab" * 32, "# Pets", "out")


def test_the_configuration_is_read_back_as_the_run(tmp_path):
    said = json.loads(config(manifest(licence="MIT")))
    assert said["id2label"] == dict(zip("012", CLASSES, strict=True))
    assert said["preprocessing"] == {"mean": [0.25], "std": [0.75]}
    (tmp_path / "run.json").write_text(json.dumps(said["run"]))
    assert load_run(tmp_path / "run.json", environ={}) == sample_run(registry=RegistrySpec(licence="MIT"))
