"""YAML text becomes nodes with places; whatever the text, the outcome is nodes or a ConfigError."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dlhpc.errors import ConfigError, NotFoundError
from dlhpc.spec.load import RUN, load_mapping, load_run, trace
from dlhpc.spec.load_yaml import MAX_BYTES, MAX_DEPTH, parse, resolve_scalar
from dlhpc.spec.tree import Place, Problems


def read(text: str) -> tuple[object, list[str]]:
    """The plain value of a text and its problems, without source lines."""
    found = Problems()
    node = parse(text, Place("f.yaml"), found)
    return (node.plain() if node else None), [problem.splitlines()[0] for problem in found.texts()]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-0", 0),
        ("+12", 12),
        ("012", 12),
        ("0o14", 12),
        ("0xC", 12),
        ("-.inf", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("Null", None),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-11-23", "2026-11-23"),
        ("1e", "1e"),
        (".", "."),
        ("nan", "nan"),
        ("=", "="),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text, value):
    result = resolve_scalar(text)
    assert (result, type(result)) == (value, type(value))


def test_nan_is_a_number():
    assert math.isnan(resolve_scalar(".NaN"))


@pytest.mark.parametrize("text", ["'12'", '"12"', '"true"', "'~'"])
def test_quoted_scalars_are_texts(text):
    value, problems = read(text)
    assert value == text[1:-1]
    assert not problems


def test_every_value_knows_its_place():
    node = parse("a:\n  b: [1, {c: 2}]\n", Place("f.yaml"), Problems())
    inner = node.get("a").get("b")
    assert (inner.place.line, inner.place.column, inner.place.source) == (2, 6, "  b: [1, {c: 2}]")
    assert inner.value[1].entries["c"].place.column == 11
    assert inner.value[1].get("c").place.column == 14


def test_duplicate_keys_are_told_with_their_path():
    assert read("a: {b: 1, c: 2, b: 3}\na: 4\n") == (
        {"a": {"b": 1, "c": 2}},
        [
            "f.yaml:1:17: a.b: duplicate key, first given on line 1; keep one",
            "f.yaml:2:1: a: duplicate key, first given on line 1; keep one",
        ],
    )


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("a: !!python/object/apply:os.system [ls]", "!!python/object/apply:os.system"),
        ("a: !secret x", "!secret"),
        ("a: !!str 3", "!!str"),
        ("a: ! x", "!"),
        ("a: !!map {b: 1}", "!!map"),
        ("!!map {a: 1}", "!!map"),
    ],
)
def test_tags_are_refused(text, tag):
    _, (problem,) = read(text)
    assert f"tag '{tag}' came, expected a value without a tag" in problem


def test_aliases_repeat_a_value():
    assert read("a: &x [1, 2]\nb: *x\n") == ({"a": [1, 2], "b": [1, 2]}, [])


def test_an_alias_bomb_is_stopped():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    value, problems = read("\n".join(lines))
    assert value is None
    assert len(problems) == 1
    assert "expands to more than 20000 values" in problems[0]


def test_aliases_without_or_inside_their_anchor():
    value, problems = read("a: *none\nb: &b [*b]\n")
    assert value == {"b": []}
    assert problems == [
        "f.yaml:1:4: alias '*none' has no anchor '&none' before it",
        "f.yaml:2:8: alias '*b' stands inside what it names",
    ]


@pytest.mark.parametrize("bracket", ["[", "{a: ", "- "])
def test_deep_nesting_is_stopped(bracket):
    value, problems = read(bracket * 50_000)
    assert value is None
    assert len(problems) == 1
    assert f"nested deeper than {MAX_DEPTH} levels" in problems[0] or "valid YAML" in problems[0]


def test_one_document_in_a_file():
    assert read("a: 1\n---\nb: 2\n") == (
        None,
        ["f.yaml:2:1: a second document starts here, expected one document in the file"],
    )
    assert read("--- \na: 1\n...\n") == ({"a": 1}, [])


def test_merge_keys_point_to_extends():
    _, problems = read("a: &a {b: 1}\nc:\n  <<: *a\n")
    assert problems == ["f.yaml:3:3: c.<<: merge keys are not supported; use 'extends' for shared settings"]


@pytest.mark.parametrize("text", ["[a, b]: 1", "{a: 1}: 2", "? [x]\n: 3", "*x : 1", "!t a: 1"])
def test_keys_are_names(text):
    value, problems = read(text)
    assert value == {}
    assert any("came as a key, expected a name" in problem for problem in problems)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a:\n\tb: 1\n", "indent with spaces, not with tabs"),
        ("a: @home\n", "put the value in quotes"),
        ("a: b: c\n", "put the value in quotes"),
        ("a: [1, 2\n", "the file is not valid YAML"),
        ("a: 'x\n", "the file is not valid YAML"),
        ("a: \x07\n", "character U+0007 is not allowed in YAML"),
        ('a: "\\UFFFFFFFF"\n', "impossible number"),
        ("%YAML 99999999999.1\n---\na: 1\n", "not valid YAML"),
        ('a: "\\ud800"\n', "half a character"),
        ('a: "\\0"\n', "NUL"),
        (f"a: {'9' * 400}\n", "a number of 400 digits came"),
    ],
)
def test_text_that_is_no_yaml_says_what_to_do(text, hint):
    _, (problem,) = read(text)
    assert problem.startswith("f.yaml")
    assert hint in problem


def test_escaped_surrogate_pairs_are_one_character():
    assert read(json.dumps({"a": "\U0001f600"})) == ({"a": "\U0001f600"}, [])


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"# only a remark\n", "the file is empty"),
        (b"---\n", "the file is empty"),
        (b"- a\n- b\n", "the file holds no mapping"),
        (b"hello\n", "the file holds no mapping"),
        (b"a: \xff\n", "f.yaml:1:4: byte 0xff is not UTF-8"),
        ("a: 1\n".encode("utf-16"), "f.yaml:1:1: byte 0xff is not UTF-8"),
        (b"a: 1\n" * (MAX_BYTES // 5 + 1), "is larger than 256 KiB"),
        (b"!!map {a: 1}", "tag '!!map' came"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, content, expected):
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_mapping(path)
    assert len(caught.value.problems) == 1
    assert expected in caught.value.problems[0]


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        load_mapping(tmp_path)


def test_a_file_below_a_file_is_refused(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(ConfigError, match="cannot be read: Not a directory"):
        load_mapping(tmp_path / "a" / "b.yaml")


def test_no_file_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match="no such file"):
        load_mapping(tmp_path / "none.yaml")
    with pytest.raises(NotFoundError, match=r"none\.json: no such file$"):
        load_mapping(tmp_path / "none.json")


def test_a_byte_order_mark_and_crlf_are_fine(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb:\r\n  c: 2\r\n")
    assert load_mapping(path).plain() == {"a": 1, "b": {"c": 2}}


def test_json_may_be_indented_by_tabs(tmp_path):
    path = tmp_path / "f.json"
    path.write_text(json.dumps({"a": {"b": [1.5, None, True, "x\ty"]}}, indent="\t"))
    node = load_mapping(path)
    assert node.plain() == {"a": {"b": [1.5, None, True, "x\ty"]}}
    assert (node.get("a").entries["b"].place.line, node.get("a").entries["b"].place.column) == (3, 3)


# -- whatever comes ------------------------------------------------------------------------------------------------

# fmt: off
YAML_PIECES = st.sampled_from([
    "a", "model", "training:", "seed", ": ", ":", "- ", "[", "]", "{", "}", ", ", "\n", "\n  ", "\n    ", "&a ", "*a",
    "!t ", "!!int ", "? ", "| ", "> ", "|\n", "---\n", "...\n", "%YAML 1.2\n", "%TAG ! x\n", '"', "'", "\\", "#", "1",
    "1e-3", ".nan", "true", "null", "~", "<<", "\t", "\r", "\x85", "\ufeff", "\x00", "\ud800", "é", "\U0001f600", "@",
    '"\\x4', '"\\UFFFFFFFF"', "name: FlaxMLP", "extends: [", "data: {source: digits}", "data: {source: arrays}",
])
KEYS = st.sampled_from([
    "seed", "name", "model", "model.name", "model.hidden_sizes", "model.input_shape", "optimizer", "optimizer.groups",
    "data", "data.source", "data.path", "data.mean", "data.split", "training.batch_size", "training.schedule.name",
    "registry.path", "distributed.zero_stage", "backend", "model.architecture", "extends", "a.b", "", ".", "a..b",
])
# fmt: on
GARBAGE = st.one_of(st.lists(YAML_PIECES, max_size=25).map("".join), st.text(max_size=60), st.binary(max_size=60))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def outcome(load: Callable[[], object]) -> tuple[str, ...]:
    """The problems that loading tells; any other exception than ConfigError fails the test."""
    try:
        load()
    except ConfigError as error:
        return error.problems or ("a ConfigError without a problem",)
    return ()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=GARBAGE)
@example(content="? - a")
@example(content='"\\')
@example(content="!<")
@example(content="extends: .")
@example(content="extends: ['', 'f.yaml', '\\0']")
def test_any_content_is_a_run_or_a_config_error(tmp_path, content):
    path = tmp_path / "f.yaml"
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    path.write_bytes(data)
    problems = outcome(lambda: load_run(path, environ={}))
    assert all(problem.startswith(str(tmp_path)) for problem in problems)


@settings(max_examples=300, deadline=None)
@given(pairs=st.lists(st.tuples(KEYS, VALUES), max_size=4), garbage=st.text(max_size=20))
def test_any_override_is_a_run_or_a_config_error(pairs, garbage):
    overrides = [f"{key}={json.dumps(value)}" for key, value in pairs]
    environ = {"DLHPC_" + key.replace(".", "__").upper(): json.dumps(value) for key, value in pairs}
    for said, around in (
        (overrides, {}),
        ((), environ),
        ((garbage, f"seed={garbage}"), {"DLHPC_NAME": garbage}),
    ):
        problems = outcome(lambda said=said, around=around: trace(RUN, None, overrides=said, environ=around))
        assert all(problem.startswith(("--set", "environment")) for problem in problems)
