import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlhpc.errors import UsageError
from dlhpc.registry.conditions import parse_condition


@pytest.mark.parametrize(
    ("text", "key", "operator", "value"),
    [
        ("accuracy>=0.98", "accuracy", ">=", 0.98),
        (" accuracy  >= 0.98 ", "accuracy", ">=", 0.98),
        ("model.hidden_sizes=[256, 128]", "model.hidden_sizes", "=", [256, 128]),
        ("optimizer.name=lion", "optimizer.name", "=", "lion"),
        ("tag.team/owner=vision lab", "tag.team/owner", "=", "vision lab"),
        ('tag.x="<3"', "tag.x", "=", "<3"),
        ("name~digits-*", "name", "~", "digits-*"),
        ("a!=null", "a", "!=", None),
        ("a<-1e-3", "a", "<", -1e-3),
        ("a=b=c", "a", "=", "b=c"),
        ("a=NaN", "a", "=", "NaN"),
    ],
)
def test_conditions_are_read(text, key, operator, value):
    found = parse_condition(text)
    assert (found.key, found.operator, found.value) == (key, operator, value)


@pytest.mark.parametrize(
    ("text", "column", "problem"),
    [
        ("", 1, "expected a key"),
        ("  ", 3, "expected a key"),
        ("=3", 1, "expected a key"),
        (">=0.98", 1, "expected a key"),
        ("accuracy", 9, "expected one of = != < <= > >= ~ after 'accuracy'"),
        ("accuracy 0.98", 10, "expected one of"),
        ("accuracy>=", 11, "expected a value after '>='"),
        ("accuracy>= ", 12, "expected a value after '>='"),
        ("accuracy==0.98", 10, "one '=' compares"),
        ("accuracy>==0.98", 11, "expected a value after '>=', not '='"),
        ("a=[1,2", 7, "no JSON value"),
        ('a={"b" 1}', 8, "no JSON value"),
        ('a="b', 3, "no JSON value"),
        ("a>[1]", 3, "'>' compares numbers or texts, not [1]"),
        ("a<true", 3, "'<' compares numbers or texts, not true"),
    ],
)
def test_mistakes_are_shown_where_they_are(text, column, problem):
    with pytest.raises(UsageError) as caught:
        parse_condition(text)
    first, shown, arrow = str(caught.value).split("\n")
    assert first.startswith(f"search condition, column {column}: ")
    assert problem in first
    assert shown == f"  {text}"
    assert arrow == f"  {' ' * (column - 1)}^"


@pytest.mark.parametrize(
    ("text", "found", "holds"),
    [
        ("a=3", 3, True),
        ("a=3", 3.0, True),
        ("a=3", "3", True),
        ("a=3", "3.0", False),
        ('a="3"', "3", True),
        ('a="3"', 3, False),
        ("a=true", True, True),
        ("a=true", 1, False),
        ("a=1", True, False),
        ("a=null", None, True),
        ("a=[1,2]", [1, 2], True),
        ("a=[1,2]", [2, 1], False),
        ("a=x", ("x", "y"), True),
        ("a=z", ("x", "y"), False),
        ("a!=x", ("x", "y"), False),
        ("a!=z", ("x", "y"), True),
        ("a!=z", (), True),
        ("a~x*", ("ax", "xa"), True),
        ("a~[xy]?", "x1", True),
        ("a~X*", "xa", False),
        ("a~*5*", [1, 5], True),
        ("a>=0.5", 0.5, True),
        ("a>0.5", 0.5, False),
        ("a<2", "1.5", True),
        ("a<2", "high", False),
        ("a<2", None, False),
        ("a<2", True, False),
        ("a<2", [1], False),
        ("a<2026-02-01", "2026-01-31T23:59", True),
        ("a<2026-02-01", 7, False),
    ],
)
def test_what_they_hold_for(text, found, holds):
    assert parse_condition(text).holds(found) is holds


@given(st.text(max_size=30))
def test_any_text_is_a_condition_or_a_mistake_with_its_place(text):
    try:
        condition = parse_condition(text)
    except UsageError as error:
        message = str(error)
    else:
        message = "search condition, column "
        for found in (1, 1.5, "x", None, True, [1], ("x",), ()):
            assert condition.holds(found) in (True, False)
    assert message.startswith("search condition, column ")
