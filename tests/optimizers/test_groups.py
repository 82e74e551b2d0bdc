"""Learning-rate scales and decay by canonical name."""

from __future__ import annotations

import pytest

from dlhpc.errors import ConfigError
from dlhpc.optimizers.groups import decays, learning_rate_scales
from dlhpc.spec.model import MLPSpec
from dlhpc.spec.optimizer import AdamWSpec, ParameterGroup
from dlhpc.weights.table import param_table

TABLE = param_table(MLPSpec(num_classes=3, input_shape=(2, 2, 1), hidden_sizes=(5, 4), normalization="layer"))


def test_the_first_group_that_matches_counts() -> None:
    spec = AdamWSpec(
        groups=(
            ParameterGroup(match="dense_?/bias", learning_rate_scale=2.0),
            ParameterGroup(match="dense_*", learning_rate_scale=0.0),
        )
    )
    scales = learning_rate_scales(spec, TABLE)
    assert set(scales) == {row.name for row in TABLE}
    assert scales["dense_1/bias"] == 2.0
    assert scales["dense_1/kernel"] == scales["dense_norm_0/scale"] == 0.0
    assert scales["head/kernel"] == scales["head/bias"] == 1.0


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    groups = tuple(ParameterGroup(match=match) for match in ("head/*", "heads/*", "HEAD/*"))
    with pytest.raises(ConfigError, match=r"groups\.1\.match: 'heads/\*' came, expected .*head/kernel") as caught:
        learning_rate_scales(AdamWSpec(groups=groups), TABLE)
    assert len(caught.value.problems) == 2


def test_biases_and_norms_do_not_decay() -> None:
    values = decays(AdamWSpec(weight_decay=0.25), TABLE)
    assert {name for name, value in values.items() if value == 0.25} == {
        "dense_0/kernel",
        "dense_1/kernel",
        "head/kernel",
    }
    assert set(values.values()) == {0.0, 0.25}
