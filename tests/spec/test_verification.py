"""Verification settings that contradict themselves are refused when they are read."""

from __future__ import annotations

import pytest

from dlhpc.errors import ConfigError
from dlhpc.spec.load import load_serving
from dlhpc.spec.verification import VerificationSpec


def test_fast_and_signatures_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="a signature is of digests, which mode 'fast' does not compute"):
        load_serving(None, overrides=["verification.mode=fast", "verification.require_signature=[key.pub]"], environ={})
    spec = load_serving(None, overrides=["verification.require_signature=[key.pub]"], environ={})
    assert [str(path) for path in spec.verification.require_signature] == ["key.pub"]


def test_a_cache_is_bounded_in_gigabytes() -> None:
    assert VerificationSpec(cache_gb=1.5).cache_bytes == 1_500_000_000
