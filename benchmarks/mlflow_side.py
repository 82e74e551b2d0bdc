"""MLflow's side of compare_registries.py, in MLflow's environment: `python benchmarks/mlflow_side.py FOLDER`.

MLflow with SQLite, in three ways in which its users publish:

    files     a run, log_artifact of a safetensors file, create_model_version; loaded by download_artifacts
    pyfunc    mlflow.pyfunc.log_model with the safetensors file as an artifact; loaded by mlflow.pyfunc.load_model
    torch     mlflow.pytorch.log_model in its default format; loaded by mlflow.pytorch.load_model

Requirements are given to log_model, since finding them out would take it many seconds.
"""

import logging
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

FOLDER = Path(sys.argv[1]).absolute()
FOLDER.mkdir(parents=True, exist_ok=True)
os.chdir(FOLDER)  # MLflow's default place for files
STORE = f"sqlite:///{FOLDER}/mlflow.db"
os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet", "MLFLOW_TRACKING_URI": STORE}
HERE = Path(__file__).absolute().parent

import mlflow  # noqa: E402 - it reads its settings from the environment
import numpy as np  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from mlflow_model import forward  # noqa: E402
from side import CLASSES, HIDDEN, IMAGE_SHAPE, IMAGES, kill_publishers, serve  # noqa: E402

logging.getLogger("mlflow").setLevel(logging.ERROR)
SCRATCH = Path(tempfile.mkdtemp())


def weights(seed: int, size: str) -> dict[str, np.ndarray]:
    """Random weights of the same shapes as dlhpc's."""
    draw, widths = np.random.default_rng(seed), [int(np.prod(IMAGE_SHAPE)), *HIDDEN[size], CLASSES]
    made: dict[str, np.ndarray] = {}
    for layer, (before, after) in enumerate(pairwise(widths)):
        made[f"{layer}.kernel"] = draw.standard_normal((before, after), np.float32) / np.float32(before**0.5)
        made[f"{layer}.bias"] = np.zeros(after, np.float32)
    return made


def weights_on_disk(seed: int, size: str) -> Path:
    """The weights as a safetensors file."""
    path = SCRATCH / str(seed) / "weights.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(weights(seed, size), path)
    return path


def network(seed: int, size: str) -> Any:
    """The same as a torch module."""
    import torch

    arrays, layers = weights(seed, size), len(HIDDEN[size]) + 1
    parts: list[torch.nn.Module] = [torch.nn.Flatten()]
    for layer in range(layers):
        kernel = torch.from_numpy(arrays[f"{layer}.kernel"])
        dense = torch.nn.Linear(*kernel.shape)
        dense.load_state_dict({"weight": kernel.T.contiguous(), "bias": torch.from_numpy(arrays[f"{layer}.bias"])})
        parts += [dense, torch.nn.ReLU()] if layer < layers - 1 else [dense, torch.nn.Softmax(-1)]
    return torch.nn.Sequential(*parts).eval()


def publish_files(name: str, path: Path) -> int:
    """A file of a run, registered."""
    client = mlflow.MlflowClient()
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(path), "model")
    with suppress(MlflowException):  # it is there already
        client.create_registered_model(name)
    source = f"{run.info.artifact_uri}/model"
    return int(client.create_model_version(name, source, run.info.run_id).version)


def publish_pyfunc(name: str, path: Path) -> int:
    """A model of MLflow's own, with a file."""
    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(HERE / "mlflow_model.py"),
        artifacts={"weights": str(path)},
        code_paths=[],
        pip_requirements=["safetensors"],
        registered_model_name=name,
    )
    return int(info.registered_model_version)


def publish_torch(name: str, module: Any) -> int:
    """A torch module."""
    info = mlflow.pytorch.log_model(
        module, name="model", input_example=IMAGES, pip_requirements=["torch"], registered_model_name=name
    )
    return int(info.registered_model_version)


WAYS: dict[str, tuple[Any, Any]] = {
    "files": (weights_on_disk, publish_files),
    "pyfunc": (weights_on_disk, publish_pyfunc),
    "torch": (network, publish_torch),
}


def publish(way: str, name: str, seed: int, size: str) -> dict[str, Any]:
    """Publish a version; its label, and the seconds that publishing took, without making the weights."""
    make, publish_made = WAYS[way]
    made = make(seed, size)
    start = time.perf_counter()
    label = publish_made(name, made)
    return {"label": label, "seconds": time.perf_counter() - start}


def publish_many(way: str, name: str, seeds: list[int]) -> list[int]:
    """Publish small versions, one after another; their labels."""
    return [publish(way, name, seed, "small")["label"] for seed in seeds]


def predict(way: str, name: str, label: int) -> list[float]:
    """Load a version, as users do, and ask it."""
    uri = f"models:/{name}/{label}"
    if way == "torch":
        import torch

        with torch.no_grad():
            answers = mlflow.pytorch.load_model(uri)(torch.from_numpy(IMAGES)).numpy()
    elif way == "pyfunc":
        answers = mlflow.pyfunc.load_model(uri).predict(IMAGES)
    else:
        (path,) = Path(mlflow.artifacts.download_artifacts(uri)).glob("*.safetensors")
        answers = forward(load_file(path), IMAGES)
    return [float(each) for each in np.asarray(answers).ravel()]


def weights_file(way: str, name: str, label: int) -> str:
    """Where the weights of a version lie: its largest file."""
    uri = mlflow.MlflowClient().get_model_version_download_uri(name, str(label))
    folder = Path(mlflow.artifacts.download_artifacts(uri))
    return str(max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size))


def left_behind() -> int:
    """Runs and logged models that no version stands for."""
    client = mlflow.MlflowClient()
    versions = client.search_model_versions()
    models = {version.model_id for version in versions}
    runs = {version.run_id for version in versions}
    return sum(model.model_id not in models for model in client.search_logged_models(["0"])) + sum(
        run.info.run_id not in runs for run in client.search_runs(["0"], max_results=50000)
    )


def kill(way: str, kills: int) -> dict[str, Any]:
    """Kill publishers, then look at what they left, before and after `mlflow gc`."""
    longest_s = 3 * subprocess_publish(way)
    make, publish_made = WAYS[way]
    killed = kill_publishers(
        lambda seed: make(seed, "small"), lambda seed, made: publish_made(f"killed-{seed}", made), kills, longest_s
    )
    versions = mlflow.MlflowClient().search_model_versions()
    unusable = sum(not usable(way, version.name, int(version.version)) for version in versions)
    left = left_behind()
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", STORE]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return {
        "killed": killed,
        "versions": len(versions),
        "unusable": unusable,
        "left": left,
        "after": left_behind(),
    }


def subprocess_publish(way: str) -> float:
    """Seconds of the second publication of a process of its own: no connection is open when publishers are forked."""
    work = f"import mlflow_side as side; side.publish({way!r}, 'first', 0, 'small')"
    work += f"; print(side.publish({way!r}, 'first', 1, 'small')['seconds'])"
    command = [sys.executable, "-c", f"import sys; sys.argv[1:] = [{str(FOLDER)!r}]; {work}"]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return float(done.stdout.split()[-1])


def usable(way: str, name: str, label: int) -> bool:
    """Whether a version loads."""
    try:
        return bool(predict(way, name, label))
    except Exception:
        return False


if __name__ == "__main__":
    serve(
        {
            "publish": publish,
            "publish_many": publish_many,
            "predict": predict,
            "weights_file": weights_file,
            "kill": kill,
        }
    )
