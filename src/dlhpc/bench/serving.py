"""The server beside others', under load: bare FastAPI with a micro-batcher, LitServe, and Ray Serve as it comes.

All serve the same version by the same predictor, on the same machine, at the same time; they are asked in turn, in
another order each round, and ratios are medians of ratios within a round. Ours has every guard on. CPU time is that of
all the processes of a server. The load generator works on the same cores; its share is told.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from dlhpc.backends import load_backend
from dlhpc.bench.contenders import BARE, NAMES, OURS, Running, free_port, start
from dlhpc.bench.load import Job, Load
from dlhpc.bench.process_tree import cpu_seconds
from dlhpc.bench.serving_stages import GuardResult, StageResult, measure_stages
from dlhpc.registry.artifact import new_artifact
from dlhpc.registry.store import Registry
from dlhpc.spec.data import DigitsSpec
from dlhpc.spec.model import MLPSpec
from dlhpc.spec.run import RunSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.table import param_table

CLASSES: Final = tuple("0123456789")
MODELS: Final[dict[str, MLPSpec]] = {
    "digits": MLPSpec(num_classes=10, input_shape=(8, 8, 1), hidden_sizes=(512, 256, 128), normalization="layer"),
    "784-512-256-10": MLPSpec(num_classes=10, input_shape=(28, 28, 1), hidden_sizes=(512, 256)),
}
"""The network of config/flax_config.yaml, and one over larger images. Untrained: they compute as much."""
IDLE_S: Final = 2.0


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long."""

    models: Sequence[str] = tuple(MODELS)
    contenders: Sequence[str] = NAMES
    clients: Sequence[int] = (1, 32, 256)
    rounds: int = 3
    seconds: float = 1.5
    repeated_rounds: int = 2
    """Rounds in which every second request was sent before; 0 for none."""
    open_seconds: float = 4.0
    """Length of a round at half the bare server's capacity; 0 for none."""
    stage_rounds: int = 15
    """Rounds of the measurement of stages and guards."""


def plan(contenders: Sequence[str], clients: Sequence[int], rounds: int | None, *, quick: bool) -> Plan:
    """The usual measurement of these servers; or, quick, enough of it to see what a change did."""
    chosen = Plan(contenders=tuple(contenders), clients=tuple(clients))
    if quick:
        chosen = replace(chosen, models=("digits",), clients=(32,), repeated_rounds=0)
    return chosen if rounds is None else replace(chosen, rounds=rounds)


@dataclass(frozen=True)
class ServingResult:
    """One server under one load; medians over the rounds. Ratios are to bare FastAPI, empty where it was not asked."""

    model: str
    load: str
    server: str
    requests_per_s: float
    """Answers with status 200."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_ms: float
    """CPU time of all the server's processes per request."""
    throughput_ratio: float | None
    cpu_ratio: float | None
    p99_ratio: float | None
    failed: int
    """Requests that were not answered with 200, over all rounds."""
    load_cpu: float
    """Share of all cores' time that the load generator took."""


@dataclass(frozen=True)
class IdleResult:
    """A server that nobody asks."""

    model: str
    idle_server: str
    processes: int
    cpu_share: float
    """CPU seconds a second."""


AnyResult = ServingResult | IdleResult | StageResult | GuardResult


@dataclass
class Measured:
    """One round of one server."""

    rate: float
    p50: float
    p95: float
    p99: float
    cpu_s: float
    failed: int
    load_cpu: float


@dataclass
class Generator:
    """The load generator's process, and the numbers of the bodies that were not sent yet."""

    process: subprocess.Popen[str]
    next_body: int = 0
    rates: dict[tuple[str, int], float] = field(default_factory=dict)
    """(server, clients) -> requests a second, as far as known: how many bodies are worth making beforehand."""

    def measure(self, server: Running, job: Job) -> Measured:
        """Do a job."""
        job = replace(job, port=server.port, headers=dict(server.headers), first=self.next_body)
        assert self.process.stdin is not None
        print(json.dumps(asdict(job)), file=self.process.stdin, flush=True)
        pids = server.pids
        self._told("begin")
        before = cpu_seconds(pids)
        self._told("end")
        used = cpu_seconds(pids) - before
        load = Load(**self._line())
        self.next_body += load.sent
        return _measured(load, used)

    def _told(self, word: str) -> None:
        line = self._line()
        assert line == word, line

    def _line(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator has ended; what it said stands above")
        return json.loads(line)


def _measured(load: Load, cpu_s: float) -> Measured:
    times = load.latencies or [float("nan")]
    p50, p95, p99 = (float(np.percentile(times, q)) * 1e3 for q in (50, 95, 99))
    answered = len(load.latencies)
    failed = sum(load.statuses.values()) - load.statuses.get("200", 0)
    share = load.cpu_s / load.seconds / len(os.sched_getaffinity(0))
    return Measured(answered / load.seconds, p50, p95, p99, cpu_s / max(answered, 1), failed, share)


def measure(plan: Plan, say: Callable[[str], None] = lambda text: None) -> list[AnyResult]:
    """All servers under all loads, then where our time goes. `say` is told what is going on."""
    results: list[AnyResult] = []
    with tempfile.TemporaryDirectory() as temporary, _generator() as generator:
        for model in plan.models:
            folder = Path(temporary, model)
            folder.mkdir()
            with ExitStack() as stack:
                say(f"starting {', '.join(plan.contenders)} with {model}")
                servers = _started(plan, model, folder, stack)
                results += _idle(model, servers)
                for result in _loads(plan, model, servers, generator):
                    say(
                        f"{result.load}: {result.server}: {result.requests_per_s:.0f} req/s, p99 {result.p99_ms:.1f} ms"
                    )
                    results.append(result)
    for model in plan.models if OURS in plan.contenders else ():
        say(f"where the time goes with {model}")
        whole = {
            int(each.load.split()[0]): each.cpu_ms / 1e3
            for each in results
            if isinstance(each, ServingResult) and (each.model, each.server) == (model, OURS) and "," not in each.load
        }
        results += measure_stages(model, publish, _size(model), whole, plan.stage_rounds)
    return results


@contextmanager
def _generator() -> Iterator[Generator]:
    process = subprocess.Popen(
        [sys.executable, "-m", "dlhpc.bench.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Generator(process)
    finally:
        process.communicate()


def publish(model: str, folder: Path) -> tuple[Path, Any]:
    """A registry with the model in it, and its predictor."""
    spec = MODELS[model]
    registry = Registry(folder / "registry", load_backend)
    run = RunSpec(name="bench", backend="flax", model=spec, data=DigitsSpec())
    artifact = new_artifact(
        run,
        initial_weights(param_table(spec), seed=0),
        classes=CLASSES,
        metrics={},
        data_fingerprint="none",
        load_backend=load_backend,
    )
    registry.publish(artifact, "bench")
    return folder / "registry", artifact.predictor()


def _started(plan: Plan, model: str, folder: Path, stack: ExitStack) -> list[Running]:
    """All servers, ready."""
    registry, predict = publish(model, folder)
    servers = []
    for name in plan.contenders:
        servers.append(start(name, registry, "bench", free_port(), free_port(), folder))
        stack.callback(servers[-1].end)
    for server in servers:
        server.wait(_size(model), predict)
    return servers


def _size(model: str) -> tuple[int, int]:
    shape = MODELS[model].input_shape
    assert shape is not None
    return shape[:2]


def _idle(model: str, servers: Sequence[Running]) -> list[IdleResult]:
    """What each takes of the cores while the others are asked."""
    pids = [server.pids for server in servers]
    before = [cpu_seconds(each) for each in pids]
    time.sleep(IDLE_S)
    used = [(cpu_seconds(each) - start) / IDLE_S for each, start in zip(pids, before, strict=True)]
    return [
        IdleResult(model, server.name, len(each), round(share, 3))
        for server, each, share in zip(servers, pids, used, strict=True)
    ]


def _loads(plan: Plan, model: str, servers: Sequence[Running], generator: Generator) -> Iterator[ServingResult]:
    job = Job(port=0, clients=1, seconds=plan.seconds, first=0, size=_size(model))
    generator.rates.clear()
    for server in servers:  # a moment for each, so that the first round meets warm servers and enough bodies
        for clients in plan.clients:
            short = replace(job, clients=clients, seconds=0.3)
            generator.rates[server.name, clients] = generator.measure(server, short).rate
    capacity = 0.0
    for repeated, rounds in ((False, plan.rounds), (True, plan.repeated_rounds)):
        for clients in plan.clients if rounds else ():
            asked = replace(job, clients=clients, repeated=repeated)
            found = _rounds(servers, rounds, lambda server, asked=asked: _closed(generator, server, asked))  # type: ignore[misc]
            if BARE in found and not repeated:
                capacity = max(capacity, statistics.median(each.rate for each in found[BARE]))
            load = f"{clients} client{'s' * (clients > 1)}{', half repeated' if repeated else ''}"
            yield from _results(model, load, found)
    if plan.open_seconds and capacity:
        rate = round(capacity / 2)
        asked = replace(
            job, clients=8, seconds=plan.open_seconds, rate=rate, expected=int(1.2 * rate * plan.open_seconds)
        )
        able = [each for each in servers if max(generator.rates[each.name, n] for n in plan.clients) > rate]
        found = _rounds(able, plan.rounds, lambda server: generator.measure(server, asked))
        yield from _results(model, f"{rate}/s, open loop", found)


def _closed(generator: Generator, server: Running, job: Job) -> Measured:
    """A round of clients that ask again when they were answered."""
    rate = generator.rates[server.name, job.clients]
    measured = generator.measure(server, replace(job, expected=int(1.3 * rate * (job.seconds + 0.3)) + 64))
    generator.rates[server.name, job.clients] = max(rate, measured.rate)
    return measured


def _rounds(servers: Sequence[Running], rounds: int, ask: Callable[[Running], Measured]) -> dict[str, list[Measured]]:
    """Every server in every round, in turns that begin with another each time."""
    found: dict[str, list[Measured]] = {server.name: [] for server in servers}
    for number in range(rounds):
        first = number % len(servers)
        for server in (*servers[first:], *servers[:first]):
            found[server.name].append(ask(server))
    return found


def _results(model: str, load: str, found: dict[str, list[Measured]]) -> Iterator[ServingResult]:
    bare = found.get(BARE)
    for name, rounds in found.items():

        def middle(of: Callable[[Measured], float], rounds: list[Measured] = rounds) -> float:
            return statistics.median(of(each) for each in rounds)

        def ratio(of: Callable[[Measured], float], rounds: list[Measured] = rounds) -> float | None:
            if bare is None:
                return None
            return round(statistics.median(of(ours) / of(its) for ours, its in zip(rounds, bare, strict=True)), 3)

        yield ServingResult(
            model,
            load,
            name,
            round(middle(lambda each: each.rate), 1),
            round(middle(lambda each: each.p50), 3),
            round(middle(lambda each: each.p95), 3),
            round(middle(lambda each: each.p99), 3),
            round(middle(lambda each: each.cpu_s) * 1e3, 4),
            ratio(lambda each: each.rate),
            ratio(lambda each: each.cpu_s),
            ratio(lambda each: each.p99),
            sum(each.failed for each in rounds),
            round(middle(lambda each: each.load_cpu), 3),
        )
