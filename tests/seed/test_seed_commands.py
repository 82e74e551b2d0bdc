"""The seed document's commands, as it writes them and in its order, in a copy of the checkout."""

from __future__ import annotations

import hashlib
import json
import operator
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.workspace import Workspace

SETUP = """
python3 -m venv venv
source venv/bin/activate
pip install -r requirements.txt
pip install -r requirements-dev.txt
"""
TRAIN_FLAX = "python src/training/train_flax.py --config config/flax_config.yaml"
TRAIN_TORCH = "deepspeed src/training/train_torch.py --deepspeed_config config/deepspeed_config.json"
TRAIN_TORCH_ON_TWO = TRAIN_TORCH.replace("deepspeed ", "deepspeed --num_gpus 2 ", 1)
SERVE = "python src/deployment/serve_ray.py --config config/serve_config.yaml"
CURL = """curl -X POST http://localhost:8000/predict \\
  -H "Content-Type: application/json" \\
  -d '{"image": "base64_encoded_image_data"}'"""
RUN_BENCHMARKS = "python benchmarks/run_benchmarks.py --batch-sizes 1 4 8 16 32"
GENERATE_REPORT = "python benchmarks/generate_report.py"
TESTS = "pytest tests/"
TESTS_WITH_COVERAGE = "pytest tests/ --cov=src --cov-report=html"

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(workspace: Workspace) -> Iterator[Workspace]:
    """The serving command, over what the training commands published, until the tests here are done."""
    workspace.succeed(TRAIN_FLAX)
    workspace.succeed(TRAIN_TORCH)
    with workspace.server(SERVE):
        yield workspace


def test_the_commands_stand_so_in_the_seed() -> None:
    seed = Path(__file__).with_name("seed.md").read_text()
    for command in (*SETUP.strip().splitlines(), TRAIN_FLAX, TRAIN_TORCH, SERVE, CURL, RUN_BENCHMARKS, GENERATE_REPORT):
        assert f"\n{command}\n" in seed, command
    for command in (TESTS, TESTS_WITH_COVERAGE):
        assert f"\n{command}\n" in seed, command


def test_the_seeds_example_configuration_is_a_valid_run(workspace: Workspace) -> None:
    seed = Path(__file__).with_name("seed.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", seed, re.DOTALL)
    (workspace.root / "seed_example.yaml").write_text(example)
    workspace.succeed("dlhpc config check seed_example.yaml")
    shown = workspace.succeed("env -u DLHPC_TRAINING__NUM_EPOCHS dlhpc config show seed_example.yaml")
    for line in ("num_classes: 1000", "num_epochs: 100", "dropout_rate: 0.1"):
        assert line in shown


def test_training_in_flax_publishes(workspace: Workspace) -> None:
    said = workspace.succeed(TRAIN_FLAX)
    assert published(said).startswith("digits-mlp:")
    assert accuracy(said) > 0.9


def test_training_on_deepspeed_publishes(workspace: Workspace) -> None:
    said = workspace.succeed(TRAIN_TORCH)
    assert published(said).startswith("digits-mlp-torch:")
    assert accuracy(said) > 0.9


def test_two_processes_train_the_same_model_as_one(workspace: Workspace) -> None:
    alone, together = workspace.succeed(TRAIN_TORCH), workspace.succeed(TRAIN_TORCH_ON_TWO)
    assert published(together).startswith("digits-mlp-torch:")
    assert abs(accuracy(alone) - accuracy(together)) < 0.03


def published(said: str) -> str:
    """The reference that a training command tells."""
    found = re.search(r"^published: +(\S+) in registry$", said, re.MULTILINE)
    assert found, said
    return found[1]


def accuracy(said: str) -> float:
    """The accuracy on the validation part that a training command tells."""
    found = re.search(r"^validation: +accuracy (\S+),", said, re.MULTILINE)
    assert found, said
    return float(found[1])


def test_serving_an_empty_registry_names_the_next_command(workspace: Workspace) -> None:
    done = workspace.run(f"DLHPC_SERVING__REGISTRY=nothing-yet {SERVE}")
    assert done.returncode == 4
    assert "dlhpc train" in done.stderr or "train_flax.py" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_placeholder_of_the_curl_command_is_explained(server: Workspace) -> None:
    answer = server.succeed(f"{CURL} --silent --write-out '\\n%{{http_code}}'")
    body, status = answer.rsplit("\n", 1)
    assert status == "422"
    assert "image" in body
    assert "base64" in body


@pytest.mark.parametrize("number", [0, 7, 21])
def test_a_real_image_gets_a_right_prediction(server: Workspace, number: int) -> None:
    digits = load_digits()
    pixels = np.round(digits.images[number] * 255 / 16).astype(np.uint8)
    Image.fromarray(pixels).save(server.root / f"digit-{number}.png")
    command = CURL.replace("base64_encoded_image_data", f"'\"$(base64 -w0 digit-{number}.png)\"'")
    answer = json.loads(server.succeed(f"{command} --silent --fail"))
    assert (answer["class"], answer["label"]) == (digits.target[number], str(digits.target[number]))
    published_ones = json.loads(server.succeed("dlhpc registry list --json"))
    assert answer["model"] == max(published_ones, key=operator.itemgetter("sequence"))["ref"], "what was published last"


def test_metrics_are_on_port_8080(server: Workspace) -> None:
    server.succeed(f"{CURL} --silent # once more")
    assert "# TYPE" in server.succeed("curl --silent --fail http://localhost:8080/metrics")


def test_the_test_commands_find_every_test(workspace: Workspace) -> None:
    """Running them is what runs this very test; the second is the first with two options more."""
    assert TESTS_WITH_COVERAGE.startswith(TESTS)
    said = workspace.succeed(f"{TESTS_WITH_COVERAGE} --collect-only")
    assert int(re.findall(r"(\d+)(?:/\d+)? tests collected", said)[0]) > 500


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_benchmark_commands(workspace: Workspace) -> None:
    workspace.succeed(RUN_BENCHMARKS, timeout_s=900.0)
    written = workspace.succeed(GENERATE_REPORT).removeprefix("wrote ").strip()
    assert "| flax | MLP | 32 |" in Path(written).read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_installation_from_nothing(checkout: Path, tmp_path: Path) -> None:
    """`python3 -m venv`, both requirements files, and then the training command works in a bare environment."""
    fresh = Workspace(checkout, tmp_path / "clone", epochs=1)
    interpreter = Path(sysconfig.get_config_var("BINDIR")) / f"python3.{sys.version_info.minor}"
    (fresh.root / "python").mkdir()
    (fresh.root / "python" / "python3").symlink_to(interpreter)
    fresh.environ["PATH"] = f"{fresh.root / 'python'}:/usr/local/bin:/usr/bin:/bin"
    fresh.succeed(f"{SETUP}\n{TRAIN_FLAX}", timeout_s=1500)
    shutil.rmtree(fresh.root / "venv")


def test_the_seed_is_kept_as_it_came() -> None:
    """The map in docs/seed-coverage.md is made against these bytes."""
    content = Path(__file__).with_name("seed.md").read_bytes()
    assert hashlib.sha256(content).hexdigest() == "221f654f7380aba1d4ae2a9b42613db5d1e17fb3c836400e580186a826d1981e"
