"""RuleOptimizer alone under torch's own data parallelism: replicas (DDP) and shards (FSDP2) follow one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engines.two_processes import run_in_two_processes
from tests.optimizers.torch_distributed_rank import SPECS, WAYS, follow

TOLERANCE = 1e-12
"""Relative to the greatest absolute value of each array: float64, six steps, sums in another order."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> list[dict[str, np.ndarray]]:
    """What each process saw."""
    folder = tmp_path_factory.mktemp("distributed")
    run_in_two_processes("tests.optimizers.torch_distributed_rank", [str(folder)], checkout)
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(2)]


@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize("name", SPECS)
def test_two_processes_follow_one(way: str, name: str, results: list[dict[str, np.ndarray]]) -> None:
    alone = follow(SPECS[name], "alone", 0, 1)
    for seen in results:
        mine = {key.split("|", 2)[2]: array for key, array in seen.items() if key.startswith(f"{way}|{name}|")}
        assert mine.keys() == alone.keys()
        for key, array in mine.items():
            scale = np.abs(alone[key]).max()
            np.testing.assert_allclose(array, alone[key], rtol=0, atol=TOLERANCE * scale, err_msg=f"{way} {name} {key}")
