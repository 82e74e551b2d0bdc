"""A server's settings are checked before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from dlhpc.errors import ConfigError
from dlhpc.spec.load import load_serving
from dlhpc.spec.serving import ServingSpec

CHECKOUT = Path(__file__).parents[2]


def test_the_shipped_file_writes_out_the_defaults() -> None:
    assert load_serving(CHECKOUT / "config" / "serve_config.yaml", environ={}) == ServingSpec()


def test_the_seeds_ports_are_the_defaults() -> None:
    assert (ServingSpec().port, ServingSpec().metrics_port, ServingSpec().host) == (8000, 8080, "127.0.0.1")


@pytest.mark.parametrize(
    "setting",
    [
        "port=0", "port=65536", "metrics_port=8000", "replicas=0", "backend=tensorflow", "gpus_per_replica=-1",
        "batching.max_batch_size=0", "batching.max_wait_ms=-1", "batching.max_wait_ms=2000", "limits.deadline_s=0",
        "limits.max_body_bytes=0", "limits.max_buffered_bytes=1000",
        "limits.max_image_pixels=0", "limits.max_concurrent=0", "limits.max_images=0", "limits.max_images=1025",
        "limits.header_timeout_s=0",
        "trusted_proxies=[here]",
        "rate_limits.per_client.per_second=0", "rate_limits.total.burst=0", "rate_limits.total.per_second=null",
        "auth.open_predict=1", "limits.low_priority_share=0", "limits.low_priority_share=1.5", "cache.max_bytes=-1",
        "breaker.window_s=0", "breaker.min_requests=0", "breaker.failure_ratio=0", "breaker.slow_pass_s=0",
        "breaker.min_passes=0", "breaker.slow_ratio=2", "breaker.open_s=0", "breaker.probes=0",
        "drain_timeout_s=0", "start_timeout_s=0", "hosts=x",
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_its_key(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        load_serving(None, overrides=[setting], environ={})


def test_models_are_named_by_the_user_and_joined_over_the_layers(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("models:\n  cats: {ref: cats}\n  dogs: {ref: dogs}\n")
    (tmp_path / "serve.yaml").write_text("extends: base.yaml\nmodels:\n")
    spec = load_serving(tmp_path / "serve.yaml", overrides=["models.dogs.ref=dogs@production"], environ={})
    assert {name: served.ref for name, served in spec.models.items()} == {"cats": "cats", "dogs": "dogs@production"}
    assert load_serving(None, overrides=["models=null"], environ={}) == ServingSpec()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("models: {Cats: {ref: cats}}", "1:10: models.Cats: 'Cats' came, expected a name of lower-case letters"),
        ("models: {cats: {rev: cats}}", "1:17: models.cats.rev: unknown key; did you mean 'ref'?"),
        ("models: {cats: {}}", "1:10: models.cats.ref: missing, expected a text"),
        ("models: {cats: cats@production}", "1:16: models.cats: text 'cats@production' came, expected a mapping with"),
        ("models: cats", "1:9: models: text 'cats' came, expected a mapping from names to mappings"),
        ("model: cats\nmodels: {cats: {ref: cats}}", "model is 'cats' and models has cats: keep one of the two"),
    ],
)
def test_what_is_wrong_with_models_is_told_where_it_stands(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "serve.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_serving(tmp_path / "serve.yaml", environ={})
    assert told in str(caught.value)


def test_settings_come_from_the_environment_too() -> None:
    environ = {"DLHPC_SERVING__PORT": "9000", "DLHPC_SERVING__LIMITS__DEADLINE_S": "2.5"}
    spec = load_serving(None, environ=environ)
    assert (spec.port, spec.limits.deadline_s) == (9000, 2.5)


def test_proxies_are_networks_or_addresses() -> None:
    spec = load_serving(None, overrides=["trusted_proxies=[10.1.2.3/8, '::1']"], environ={})
    assert spec.trusted_proxies == ("10.0.0.0/8", "::1/128")
    with pytest.raises(ConfigError, match=r"expected a network such as 10\.0\.0\.0/8"):
        load_serving(None, overrides=["trusted_proxies=[here]"], environ={})


ON: dict[str, list[str]] = {
    "auth": ["auth.keys=keys.json"],
    "admission": [],
    "deadline": [],
    "rate_limits": ["rate_limits.per_client.per_second=1"],
    "cache": ["cache.max_bytes=1000"],
    "breaker": [],
    "queue": [],
}
"""What switches each guard on, in the order in which a request meets them."""


@pytest.mark.parametrize("setting", ["rate_limits.total.per_second=1", "auth.keys=keys.json"])
def test_every_kind_of_limit_needs_the_guard(setting: str) -> None:
    assert "rate_limits" in load_serving(None, overrides=[setting], environ={}).guards


def test_guards_stand_in_their_order_and_can_be_switched_off() -> None:
    everything = [setting for settings in ON.values() for setting in settings]
    assert load_serving(None, overrides=everything, environ={}).guards == tuple(ON)
    for name, settings in ON.items():
        if settings:
            without = [setting for setting in everything if setting not in settings]
            guards = load_serving(None, overrides=without, environ={}).guards
            assert guards == tuple(each for each in ON if each != name or each == "rate_limits")
    assert load_serving(None, environ={}).guards == ("admission", "deadline", "breaker", "queue")
    off = ["limits.deadline_s=null", "breaker.enabled=false"]
    assert load_serving(None, overrides=off, environ={}).guards == ("admission",)
    less = load_serving(None, overrides=["batching.refuse_hopeless=false"], environ={})
    assert less.guards == ("admission", "deadline", "breaker")


def test_the_sections_of_a_file_stand_in_the_order_of_the_guards() -> None:
    sections = [name for name in ServingSpec.model_fields if name in {*ON, "limits", "batching"}]
    assert sections == ["auth", "limits", "rate_limits", "cache", "breaker", "batching"]
    text = (CHECKOUT / "config" / "serve_config.yaml").read_text()
    assert sorted(sections, key=lambda name: text.index(f"\n{name}:")) == sections


def test_it_never_changes() -> None:
    with pytest.raises(ValidationError):
        ServingSpec().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("node7", "http://node7:8000"),
    ],
)
def test_urls_are_those_of_a_client_on_the_same_machine(host: str, url: str) -> None:
    spec = ServingSpec(host=host)
    assert (spec.url, spec.metrics_url) == (url, url.replace("8000", "8080") + "/metrics")
