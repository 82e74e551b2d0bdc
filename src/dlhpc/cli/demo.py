"""`dlhpc demo`: the main road in one go, by the same functions as the verbs."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt

from dlhpc.errors import ConflictError, NotFoundError, ServingError
from dlhpc.files import write_atomic

if TYPE_CHECKING:
    from dlhpc.registry.artifact import Artifact

RUNS = ("config/flax_config.yaml", "config/torch_deepspeed_cnn.yaml")
MARK = ".dlhpc-demo"
"""In the demo's folder: what it holds may be deleted."""
REQUESTS = 400
CLIENTS = 8
READY_WITHIN_S = 120.0
STOP_WITHIN_S = 60.0


@dataclass(frozen=True)
class ModelResult:
    """What the demo found out about one model."""

    model: str
    trained_in: str
    reference: str
    digest: str
    accuracy: float
    examples_per_s: float
    parity: float
    """Greatest difference between the two frameworks' probabilities over the test images."""
    same_classes: str


@dataclass(frozen=True)
class ServingResult:
    """What the demo found out about the server."""

    reference: str
    requests: int
    clients: int
    agree_offline: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    counted_by_metrics: int


@click.command(
    epilog="""\b
Examples:
  dlhpc demo
  dlhpc demo --port 8123 --metrics-port 8124 --dir /tmp/demo
  dlhpc demo --json | python -m json.tool"""
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder for the demo's runs and registry; emptied of an earlier demo first.",
)
@click.option("--port", default=8000, show_default=True, help="HTTP port of the demo's server.")
@click.option("--metrics-port", default=8080, show_default=True, help="Port of its Prometheus metrics.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change both runs, as in `dlhpc train`.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(folder: Path, port: int, metrics_port: int, overrides: tuple[str, ...], as_json: bool) -> None:
    """Train two models, publish, exchange, serve and measure them.

    Trains FlaxMLP in JAX and TorchDeepSpeedCNN in PyTorch/DeepSpeed on handwritten digits, publishes both, shows that
    each predicts the same in the other framework, starts the server, sends it real images over HTTP, reads its
    metrics, prints one table and stops everything. Run it from the project's folder: it reads the shipped config/.
    """
    started = time.perf_counter()
    _forget_earlier_demo(folder)
    models = [_train_and_check(Path(path), folder, overrides) for path in RUNS]
    serving = _serve_and_ask(models[0].reference, folder, port, metrics_port)
    seconds = time.perf_counter() - started
    if as_json:
        summary = {"models": [asdict(m) for m in models], "serving": asdict(serving), "seconds": round(seconds, 1)}
        click.echo(json.dumps(summary, indent=2))
    else:
        _print_table(models, serving)
        click.echo(f"stopped after {seconds:.0f} s; try: dlhpc registry list --registry {folder / 'registry'}")


def _say(text: str) -> None:
    click.echo(text, err=True)


def _forget_earlier_demo(folder: Path) -> None:
    """Empty the demo's own folder; one that holds somebody's registry or runs is refused."""
    parts = [folder / "registry", folder / "runs"]
    if any(part.exists() for part in parts) and not (folder / MARK).exists():
        raise ConflictError(f"{folder}: holds a registry or runs that no demo made; choose another folder with --dir")
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)
    write_atomic(folder / MARK, "made by `dlhpc demo`, which empties this folder when it runs again\n")


def _train_and_check(config: Path, folder: Path, overrides: tuple[str, ...]) -> ModelResult:
    """Train and publish the run, measure it on the test part, and predict the same images in the other framework."""
    from dlhpc import api
    from dlhpc.training.callbacks import progress

    if not config.exists():
        raise NotFoundError(f"{config}: not found; run `dlhpc demo` from the folder that holds the project's config/")
    places = [f"registry.path={folder / 'registry'}", f"runs_dir={folder / 'runs'}"]
    run = api.load_run(config, overrides=[*places, *overrides])
    _say(f"\n== {run.model_name}: training on {run.data.source}, from {config}")
    trained = api.train_run(run, callbacks=[progress()])
    registry = api.Registry(folder / "registry")
    reference = trained.result["reference"]
    _say(f"== {reference}: measured on the test part, predicted in both frameworks")
    accuracy = api.evaluate(reference, registry=folder / "registry").accuracy
    in_flax, in_torch = (_probabilities(registry.get(reference), backend) for backend in ("flax", "torch"))
    same = int((in_flax.argmax(1) == in_torch.argmax(1)).sum())
    return ModelResult(
        model=run.model_name,
        trained_in=run.backend,
        reference=reference,
        digest=registry.resolve(reference),
        accuracy=accuracy,
        examples_per_s=trained.result["examples_per_second"],
        parity=float(np.abs(in_flax - in_torch).max()),
        same_classes=f"{same} of {len(in_flax)}",
    )


def _test_images(artifact: Artifact) -> npt.NDArray[Any]:
    from dlhpc.data.sources import open_dataset

    run = artifact.manifest.run
    dataset = open_dataset(run.data, run.model)
    images, _ = dataset.read("test", np.arange(dataset.info.sizes["test"]))
    return images


def _probabilities(artifact: Artifact, backend: str) -> npt.NDArray[np.float32]:
    return artifact.predictor(backend=backend)(_test_images(artifact))


def _serve_and_ask(reference: str, folder: Path, port: int, metrics_port: int) -> ServingResult:
    """Start `dlhpc serve`, send it test images as PNG files, read the metrics, stop it."""
    from dlhpc import api

    artifact = api.Registry(folder / "registry").get(reference)
    images = _test_images(artifact)[:REQUESTS]
    offline = [artifact.classes[index] for index in artifact.predictor()(images).argmax(1)]
    places = [f"registry={folder / 'registry'}", f"port={port}", f"metrics_port={metrics_port}"]
    settings = [word for place in places for word in ("--set", place)]
    _say(f"\n== {reference}: serving on http://127.0.0.1:{port}, metrics on http://127.0.0.1:{metrics_port}/metrics")
    with subprocess.Popen([sys.executable, "-m", "dlhpc.cli.main", "serve", reference, *settings]) as server:
        try:
            _wait_until_ready(server, port)
            seconds, labels, elapsed = _ask([_png(image) for image in images], f"http://127.0.0.1:{port}")
            counted = _counted(f"http://127.0.0.1:{metrics_port}/metrics")
        finally:
            _stop(server)
    return ServingResult(
        reference=reference,
        requests=len(labels),
        clients=CLIENTS,
        agree_offline=sum(map(str.__eq__, labels, offline)),
        requests_per_s=round(len(labels) / elapsed, 1),
        p50_ms=round(float(np.percentile(seconds, 50)) * 1e3, 2),
        p99_ms=round(float(np.percentile(seconds, 99)) * 1e3, 2),
        counted_by_metrics=counted,
    )


def _wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    import httpx

    end = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < end:
        if server.poll() is not None:
            raise ServingError(f"the demo's server ended with status {server.returncode}; its reason is printed above")
        with suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/readyz").is_success:
                return
        time.sleep(0.2)
    raise ServingError(f"the demo's server was not ready after {READY_WITHIN_S:g} s")


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1)).save(buffer, "PNG")
    return buffer.getvalue()


def _ask(files: list[bytes], url: str) -> tuple[list[float], list[str], float]:
    """Seconds of each request, the labels that came, and the seconds of all together."""
    from dlhpc.client import Client

    with Client(url) as client, ThreadPoolExecutor(CLIENTS) as clients:
        client.predict(files[0])  # opens the first connection

        def timed(content: bytes) -> tuple[float, str]:
            begun = time.perf_counter()
            label = client.predict(content).label
            return time.perf_counter() - begun, label

        begun = time.perf_counter()
        answers = list(clients.map(timed, files))
        elapsed = time.perf_counter() - begun
    return [seconds for seconds, _ in answers], [label for _, label in answers], elapsed


def _counted(url: str) -> int:
    """Predictions that the server's metrics know of."""
    import httpx
    from prometheus_client.parser import text_string_to_metric_families

    return int(
        sum(
            sample.value
            for family in text_string_to_metric_families(httpx.get(url).text)
            for sample in family.samples
            if sample.name == "dlhpc_requests_total" and sample.labels["route"] == "/predict"
        )
    )


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        server.kill()


def _print_table(models: list[ModelResult], serving: ServingResult) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="dlhpc demo: from data to production", title_justify="left", show_header=True)
    table.add_column("")
    for model in models:
        table.add_column(model.model, justify="right")
    rows: dict[str, Callable[[ModelResult], str]] = {
        "trained in": lambda m: m.trained_in,
        "test accuracy": lambda m: f"{m.accuracy:.4f}",
        "training examples/s": lambda m: f"{m.examples_per_s:,.0f}",
        "same class in the other framework": lambda m: m.same_classes,
        "largest difference of a probability": lambda m: f"{m.parity:.1e}",
        "published as": lambda m: m.reference,
        "digest": lambda m: m.digest[:16],
    }
    for name, cell in rows.items():
        table.add_row(name, *map(cell, models))
    table.add_section()
    for name, value in {
        f"{serving.requests} images over HTTP, {serving.clients} clients": f"{serving.requests_per_s:,.0f} req/s",
        "latency p50 / p99": f"{serving.p50_ms:.1f} / {serving.p99_ms:.1f} ms",
        "same class as offline": f"{serving.agree_offline} of {serving.requests}",
        "predictions counted by /metrics": f"{serving.counted_by_metrics}",
    }.items():
        table.add_row(name, *(value if model.reference == serving.reference else "" for model in models))
    Console().print(table)
