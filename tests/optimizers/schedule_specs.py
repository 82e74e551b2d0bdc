"""Any schedule that a file can name, for property tests."""

from __future__ import annotations

from typing import get_args

from hypothesis import strategies as st

from dlhpc.spec.schedule import (
    ConstantSchedule,
    CosineSchedule,
    LinearSchedule,
    OneCycleSchedule,
    PolynomialSchedule,
    ReduceOnPlateauSchedule,
    Schedule,
    WarmupCosineSchedule,
    WSDSchedule,
)

CLASSES = get_args(get_args(Schedule)[0])
"""Every class of the union."""

SHARES = st.floats(0.0, 1.0)
DECAYING = st.builds(dict, warmup=SHARES, final_scale=SHARES)
DIVISORS = st.floats(1.0, 1e300)

PLATEAUS = st.builds(
    ReduceOnPlateauSchedule,
    warmup=SHARES,
    monitor=st.sampled_from(["loss", "accuracy"]),
    factor=st.floats(0.01, 0.99),
    patience=st.integers(0, 4),
    cooldown=st.integers(0, 4),
    threshold=st.sampled_from([0.0, 1e-4, 0.1, 0.5]),
    min_scale=st.sampled_from([0.0, 1e-3, 0.3, 1.0]),
)
SCHEDULES: st.SearchStrategy[Schedule] = st.one_of(
    st.builds(ConstantSchedule, warmup=SHARES),
    *(DECAYING.map(lambda values, kind=kind: kind(**values)) for kind in (LinearSchedule, CosineSchedule)),
    DECAYING.map(lambda values: WarmupCosineSchedule(**values)),
    st.builds(PolynomialSchedule, warmup=SHARES, final_scale=SHARES, power=st.floats(0.0, 100.0, exclude_min=True)),
    st.builds(OneCycleSchedule, warmup=SHARES, div_factor=DIVISORS, final_div_factor=DIVISORS),
    st.tuples(SHARES, SHARES, SHARES, st.sampled_from(["sqrt", "linear"])).map(
        lambda v: WSDSchedule(warmup=v[0], decay=v[1] * (1.0 - v[0]), final_scale=v[2], shape=v[3])
    ),
    PLATEAUS,
)
