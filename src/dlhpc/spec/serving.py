"""How a published model is served: where, how fast, how much, and for how long it may take."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from dlhpc.spec.autoscaling import AutoscalingSpec
from dlhpc.spec.base import (
    NETWORK_FORMAT,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Ratio,
    Spec,
)
from dlhpc.spec.breaker import BreakerSpec
from dlhpc.spec.location import Location
from dlhpc.spec.precision import MAX_DEVIATIONS, ServingPrecision
from dlhpc.spec.rates import RateLimitsSpec
from dlhpc.spec.served import RollbackSpec, ServedModelSpec
from dlhpc.spec.verification import VerificationSpec
from dlhpc.spec.wire import MOST_IMAGES

Port = Annotated[int, Field(ge=1, le=65535, strict=True)]


def _network(text: str) -> str:
    """A network or an address in its usual form."""
    return str(ip_network(text, strict=False))


Network = Annotated[str, AfterValidator(_network), WithJsonSchema({"type": "string", "format": NETWORK_FORMAT})]


class BatchingSpec(Spec):
    """Requests that arrive together are answered by one forward pass."""

    max_batch_size: PositiveInt = 32
    """Most images in one forward pass."""

    max_wait_ms: Annotated[float, Field(ge=0.0, le=1000.0)] = 1.0
    """Longest that a request waits for others which are already being read; an idle server never waits. Over 1-2 ms
    it costs more than it gains."""

    refuse_hopeless: bool = True
    """Whether a prediction that cannot be answered within its deadline, judged by the queue, is refused at once: 503
    with Retry-After."""


class LimitsSpec(Spec):
    """What a request may ask for; more is refused at once, with a reason."""

    max_body_bytes: PositiveInt = 16 * 1024 * 1024
    """Largest request body; a larger one is answered with 413 while it is still being sent."""

    max_buffered_bytes: PositiveInt = 256 * 1024 * 1024
    """Memory for the bodies of all requests that one replica works on; 503 with Retry-After above."""

    max_image_pixels: PositiveInt = 32 * 1024 * 1024
    """Largest image, width x height, read from its header before anything is decoded; 413 above."""

    max_images: Annotated[int, Field(ge=1, le=MOST_IMAGES, strict=True)] = 64
    """Most images in one request; 413 above."""

    max_concurrent: PositiveInt | None = 256
    """Predictions that one replica works on at a time, those in its queue included; 503 with Retry-After above. No
    limit when null."""

    low_priority_share: Ratio = 0.5
    """Share of max_concurrent up to which predictions of low priority are let in."""

    deadline_s: PositiveFloat | None = 10.0
    """Longest that a prediction may take from its first byte to its answer; 504 after (408 when the client was still
    sending). Clients may ask for less. Never over when null."""
    header_timeout_s: Annotated[int, Field(ge=1, le=3600, strict=True)] = 10
    """Longest that a client may take to send a request's headers, in whole seconds; 408 after."""

    @model_validator(mode="after")
    def _room_for_one(self) -> Self:
        if self.max_buffered_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_buffered_bytes is {self.max_buffered_bytes}, and one body may have {self.max_body_bytes} "
                "(max_body_bytes): allow for one at least"
            )
        return self


class AuthSpec(Spec):
    """Who may ask."""

    keys: Path | None = None
    """File of API keys, which `dlhpc key add` makes; when null nobody needs a key. A change of it counts within a
    second."""

    open_predict: bool = False
    """Whether predictions need no key all the same: then only the other paths that are not health need one."""


class CacheSpec(Spec):
    """Replies that are given again to who asks the same; each replica has its own."""

    max_bytes: NonNegativeInt = 0
    """Memory for replies in each replica; 0 is no cache."""

    shared: bool = False
    """Whether clients with different API keys are given each other's replies. Those without a key always are."""


class ServingSpec(Spec):
    """One server: models of the registry behind HTTP."""

    model: str | None = None
    """Which model: `name`, `name:3`, `name@alias` or `sha256:...`; the one published last when absent."""

    models: dict[Name, ServedModelSpec] = Field(default_factory=dict)
    """In place of `model`, several: requests name theirs, as in `/models/NAME/predict`; `/predict` is the first."""

    registry: Location = "registry"
    """Folder of the registry, or its URL: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix."""

    backend: Literal["auto", "trained", "flax", "torch"] = "auto"
    """Framework that computes: either can serve any model. `auto` measures which is faster, for a few seconds, once
    per model and machine; `trained` is the one that trained it."""

    precision: ServingPrecision = "float32"
    """Number format: `bfloat16` computes and keeps weights in 16 bits; `int8` takes weights of 8 bits, which `dlhpc
    registry derive --format int8` makes, and computes in float32."""

    max_deviation: PositiveFloat | None = None
    """How far answers may be from those that were stored with the version, as a share of the largest of these: more is
    not served. When null 0.001 in float32, 0.05 in bfloat16 and int8."""

    verification: VerificationSpec = VerificationSpec()
    """How closely the model is looked at before it answers."""

    watch_s: NonNegativeFloat | None = 5.0
    """Seconds between looks at whether a name without a number, or an alias, stands for another version: the server
    then changes to it without a pause. Off when 0 or null."""

    models_max_gb: PositiveFloat | None = None
    """Gigabytes of weights in each replica; the version that was idle for longest makes room, and is loaded again when
    it is asked for. No bound when null."""

    rollback: RollbackSpec = RollbackSpec()
    """When a canary or a shadow is taken off trial."""

    host: str = "127.0.0.1"
    """Address to listen on, for both ports; 0.0.0.0 is every interface."""

    port: Port = 8000
    """Port of predictions and health."""

    metrics_port: Port = 8080
    """Port of Prometheus metrics and of the supervisor's own health."""

    replicas: PositiveInt = 1
    """Processes that hold the model and answer."""

    autoscaling: AutoscalingSpec | None = None
    """In place of `replicas`, a number that follows the load; fixed when null."""

    gpus_per_replica: NonNegativeFloat = 0.0
    """Share of a GPU that each replica gets, or a whole number of GPUs; 0 computes on the CPU."""

    trusted_proxies: tuple[Network, ...] = ()
    """Networks, such as 10.0.0.0/8, of proxies whose X-Forwarded-For is believed; a client's address is otherwise that
    of who connects."""

    auth: AuthSpec = AuthSpec()
    """Who may ask."""

    limits: LimitsSpec = LimitsSpec()
    """What a request may ask for."""

    rate_limits: RateLimitsSpec = RateLimitsSpec()
    """How often clients may ask."""

    cache: CacheSpec = CacheSpec()
    """Replies that are given again to who asks the same."""

    breaker: BreakerSpec = BreakerSpec()
    """When a version that keeps failing is left alone for a while."""

    batching: BatchingSpec = BatchingSpec()
    """How requests are joined into one forward pass."""

    drain_timeout_s: PositiveFloat = 30.0
    """Longest that a stop waits for requests which were already accepted."""

    start_timeout_s: PositiveFloat = 180.0
    """Longest that a start may take until the model answers."""

    hang_timeout_s: PositiveFloat = 20.0
    """A replica that has not reacted to anything for so long is killed, and another started."""

    ray_dir: Path | None = None
    """Folder for Ray's session, sockets and logs, kept afterwards; a fresh temporary one, removed at the end, when
    absent. Its path must be short: the sockets inside may have 107 bytes."""

    @property
    def guards(self) -> tuple[str, ...]:
        """What a prediction passes on its way to the model, in this order; what is switched off is not among it."""
        rates, has_keys = self.rate_limits, self.auth.keys is not None
        switches = {
            "auth": has_keys,
            "admission": True,
            "deadline": self.limits.deadline_s is not None,
            "rate_limits": rates.per_client is not None or rates.total is not None or has_keys,
            "cache": self.cache.max_bytes > 0,
            "breaker": self.breaker.enabled,
            "queue": self.batching.refuse_hopeless and self.limits.deadline_s is not None,
        }
        return tuple(name for name, is_on in switches.items() if is_on)

    @property
    def lends_rates(self) -> bool:
        """Whether replicas have rate limits of which each keeps its share, so that they can lend each other some."""
        return "rate_limits" in self.guards and self.most_replicas > 1 and self.rate_limits.redis is None

    @property
    def models_max_bytes(self) -> int | None:
        """Bytes of weights in each replica."""
        return None if self.models_max_gb is None else int(self.models_max_gb * 10**9)

    @property
    def url(self) -> str:
        """Where a client on this machine finds predictions."""
        return f"http://{_reachable(self.host)}:{self.port}"

    @property
    def metrics_url(self) -> str:
        """Where a client on this machine finds metrics."""
        return f"http://{_reachable(self.host)}:{self.metrics_port}/metrics"

    @model_validator(mode="after")
    def _model_or_models(self) -> Self:
        if self.model is not None and self.models:
            raise ValueError(
                f"model is {self.model!r} and models has {', '.join(self.models)}: keep one of the two; "
                "models.NAME.ref says which version of a model is served"
            )
        return self

    @property
    def deviation_bound(self) -> float:
        """What max_deviation is, or stands for."""
        return MAX_DEVIATIONS[self.precision] if self.max_deviation is None else self.max_deviation

    @property
    def fewest_replicas(self) -> int:
        """So many there are at least, once the server is ready."""
        return self.replicas if self.autoscaling is None else self.autoscaling.min_replicas

    @property
    def most_replicas(self) -> int:
        """So many there are at most."""
        return self.replicas if self.autoscaling is None else self.autoscaling.max_replicas

    @model_validator(mode="after")
    def _one_number_of_replicas(self) -> Self:
        if self.autoscaling is not None and self.replicas != 1:
            raise ValueError(
                f"replicas is {self.replicas} and autoscaling is on: keep one of the two; "
                "autoscaling.min_replicas says how many there are at least"
            )
        return self

    @model_validator(mode="after")
    def _load_that_can_be(self) -> Self:
        most = self.limits.max_concurrent
        if self.autoscaling is not None and most is not None and self.autoscaling.target_ongoing_requests >= most:
            raise ValueError(
                f"autoscaling.target_ongoing_requests is {self.autoscaling.target_ongoing_requests:g}, and a replica "
                f"takes {most} at a time (limits.max_concurrent): more would never be seen, so no replica be added"
            )
        return self

    @model_validator(mode="after")
    def _parts_or_whole_gpus(self) -> Self:
        if self.gpus_per_replica > 1 and self.gpus_per_replica % 1:
            raise ValueError(
                f"gpus_per_replica is {self.gpus_per_replica:g}: give a share, such as 0.5, or a whole number"
            )
        return self

    @model_validator(mode="after")
    def _somebody_looks(self) -> Self:
        on_trial = [name for name, served in self.models.items() if served.canary or served.shadow]
        if on_trial and self.rollback.enabled and not self.watch_s:
            raise ValueError(
                f"models.{on_trial[0]} has a version on trial and watch_s is {self.watch_s}, so that nobody would roll "
                "it back: set watch_s, or rollback.enabled=false"
            )
        return self

    @model_validator(mode="after")
    def _two_ports(self) -> Self:
        if self.port == self.metrics_port:
            raise ValueError(f"port and metrics_port are both {self.port}: give them different numbers")
        return self


def _reachable(host: str) -> str:
    """An address to listen on as an address to ask, as URLs write it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host
