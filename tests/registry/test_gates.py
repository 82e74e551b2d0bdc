import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlhpc.errors import UsageError
from dlhpc.registry.figures import Place
from dlhpc.registry.gates import parse_gate, unknown_figure


@pytest.mark.parametrize(
    ("text", "figure", "selector", "sign", "threshold", "kind"),
    [
        ("p99>+10%", "p99", (None, None, None), ">", 10, "relative"),
        ("accuracy<-0.5pt", "accuracy", (None, None, None), "<", -0.5, "points"),
        ("loss>+0.01", "loss", (None, None, None), ">", 0.01, "difference"),
        ("throughput<=-5%", "throughput", (None, None, None), "<=", -5, "relative"),
        ("size>+20 %", "size", (None, None, None), ">", 20, "relative"),
        ("size>=+.5MB", "size", (None, None, None), ">=", 0.5, "difference"),
        ("p99[torch,1]>20ms", "p99", ("torch", 1, None), ">", 20, "value"),
        (" p50 [ uint8 , flax,32 ] > 1e-1 ms ", "p50", ("flax", 32, "uint8"), ">", 0.1, "value"),
        ("load[flax]>+3", "load", ("flax", None, None), ">", 3, "difference"),
        ("parity[torch]>1e-4", "parity", ("torch", None, None), ">", 1e-4, "value"),
        ("throughput[8]<100/s", "throughput", (None, 8, None), "<", 100, "value"),
        ("top-5/accuracy<0.9", "top-5/accuracy", (None, None, None), "<", 0.9, "value"),
    ],
)
def test_gates_are_read(text, figure, selector, sign, threshold, kind):
    gate = parse_gate(text)
    assert (gate.figure, gate.operator, gate.threshold, gate.kind) == (figure, sign, threshold, kind)
    assert (gate.backend, gate.batch_size, gate.dtype) == selector
    assert gate.needs_both is (kind != "value")
    assert parse_gate(gate.text) == gate


@pytest.mark.parametrize(
    ("text", "column", "problem"),
    [
        ("", 1, "expected a figure"),
        ("  ", 1, "expected a figure"),
        (">10", 1, "expected a figure"),
        ("99>10", 1, "expected a figure"),
        ("p99", 4, "expected one of < <= > >= after 'p99'"),
        ("p99=10", 4, "expected one of"),
        ("p99>", 5, "expected a number after '>'"),
        ("p99>fast", 5, "expected a number"),
        ("p99>+ 10%", 5, "expected a number"),
        ("p99>10%", 7, "a percentage is a change"),
        ("accuracy<0.5pt", 13, "percentage points are a change"),
        ("p99>+0.5pt", 9, "percentage points are of shares such as accuracy, not of p99"),
        ("size>+1pt", 8, "not of size"),
        ("p99>+10s", 8, "expected ms, % or nothing"),
        ("parity>1ms", 9, "expected % or nothing"),
        ("accuracy<-1ms", 12, "expected pt, % or nothing"),
        ("p99>1e999", 5, "larger than any figure"),
        ("p99[]>1", 5, "expected a backend, a batch size or an input type"),
        ("p99[", 5, "expected a backend"),
        ("p99[torch>1", 5, "'torch>1' is none of"),
        ("p99[torch 1]>1", 11, "expected ',' or ']'"),
        ("p99[jax]>1", 5, "'jax' is none of flax, torch, uint8, float32, a batch size"),
        ("p99[0]>1", 5, "'0' is none of"),
        ("load[1]>1", 6, "'1' is none of flax, torch"),
        ("p99[torch,flax]>1", 11, "the backend was said before: torch"),
        ("p99[1,2]>1", 7, "the batch size was said before: 1"),
        ("accuracy[torch]<0.9", 9, "accuracy is the same in every backend"),
    ],
)
def test_mistakes_are_shown_where_they_are(text, column, problem):
    with pytest.raises(UsageError) as caught:
        parse_gate(text)
    first, _, arrow = str(caught.value).split("\n")
    assert first.startswith(f"gate, column {column}: ")
    assert problem in first
    assert arrow == f"  {' ' * (column - 1)}^"


@given(st.text(alphabet=st.one_of(st.sampled_from("p950loadsizeurcy[]<>=+-.,%ptMm 1e"), st.characters()), max_size=24))
def test_any_text_is_a_gate_or_a_mistake_with_its_place(text):
    try:
        gate = parse_gate(text)
    except UsageError as error:
        message = str(error)
    else:
        message = "gate, column "
        assert math.isfinite(gate.threshold)
        assert gate.holds(0.0) in (True, False)
    assert message.startswith("gate, column ")


NAMES = st.sampled_from(["p50", "p99", "throughput", "memory", "first_call"])


@given(
    NAMES,
    st.none() | st.sampled_from(["flax", "torch"]),
    st.none() | st.integers(1, 99999),
    st.none() | st.sampled_from(["uint8", "float32"]),
    st.sampled_from(["<", "<=", ">", ">="]),
    st.floats(-1e6, 1e6).filter(bool),
    st.sampled_from(["%", "", "value"]),
)
def test_what_is_written_is_what_is_read(figure, backend, batch, dtype, sign, number, unit):
    parts = [str(part) for part in (dtype, batch, backend) if part is not None]
    selector = f"[{','.join(parts)}]" if parts else ""
    number = abs(number) if unit == "value" else number
    written = repr(number) if unit == "value" else f"{number:+}"
    gate = parse_gate(f"{figure}{selector}{sign}{written}{'' if unit == 'value' else unit}")
    assert (gate.figure, gate.backend, gate.batch_size, gate.dtype) == (figure, backend, batch, dtype)
    assert (gate.operator, gate.threshold) == (sign, number)
    assert gate.kind == {"%": "relative", "": "difference", "value": "value"}[unit]
    assert gate.holds(number) is (sign in ("<=", ">="))
    assert gate.holds(number + 1) is (sign[0] == ">")
    assert gate.holds(number - 1) is (sign[0] == "<")


def test_a_selector_covers_what_it_does_not_narrow():
    place = Place("p99", "torch", 8, "uint8")
    for text in ("p99>1", "p99[torch]>1", "p99[8]>1", "p99[uint8]>1", "p99[torch,8,uint8]>1"):
        assert parse_gate(text).covers(place), text
    for text in ("p50>1", "p99[flax]>1", "p99[1]>1", "p99[float32]>1", "p99[torch,1]>1"):
        assert not parse_gate(text).covers(place), text


def test_an_unknown_figure_is_shown_with_the_nearest():
    error = unknown_figure(parse_gate("acuracy<0.9"), {"accuracy", "loss"})
    assert str(error) == "gate, column 1: no figure 'acuracy'; did you mean 'accuracy'?\n  acuracy<0.9\n  ^"
    assert "there are: loss, size, p50" in str(unknown_figure(parse_gate("zzz<1"), {"loss"}))
