import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlhpc.errors import UsageError
from dlhpc.registry.refs import AliasRef, DigestRef, LabelRef, NewestRef, check_name, parse_ref, short

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,127}", fullmatch=True).filter(lambda name: name != "sha256")
TRICKS = [
    "",
    ".",
    "..",
    "../x",
    "a/../b",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a\0b",
    "a\n",
    "a ",
    " a",
    "A",
    "Digits",
    "é",
    "ａ",  # full-width a
    "a\u202eb",
    "١",  # an Arabic digit
    "-a",
    ".a",
    "_a",
    "a" * 129,
    "~",
    "a*",
    "sha256",
]
BROKEN = ["a:", "a:0", "a:01", "a:-1", "a:+1", "a:1.0", "a:x", "a:١", "a:1@b", "a@", "a@B", "a@../b", "a@b:1", "a@b@c",
          "a:1:2", ":1", "@a", "a:9999999999", "sha256:", "sha256:abc", "sha256:ABCDEF12", "sha256:xyzxyzxy",
          "sha256:" + "a" * 65, "sha256:../../x", "sha256@x"]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("digits-mlp", NewestRef("digits-mlp")),
        ("digits-mlp:3", LabelRef("digits-mlp", 3)),
        ("digits-mlp@production", AliasRef("digits-mlp", "production")),
        ("a@3", AliasRef("a", "3")),
        ("0.1_b-c", NewestRef("0.1_b-c")),
        ("sha256:0123abcd", DigestRef("0123abcd")),
        ("sha256:" + "f" * 64, DigestRef("f" * 64)),
    ],
)
def test_the_four_forms(text, ref):
    assert parse_ref(text) == ref


@pytest.mark.parametrize("text", [*TRICKS, *BROKEN])
def test_anything_else_is_no_reference(text):
    with pytest.raises(UsageError, match=re.escape(repr(text))):
        parse_ref(text)


@pytest.mark.parametrize("text", TRICKS)
def test_a_name_cannot_leave_its_folder_or_hide(text):
    with pytest.raises(UsageError, match="no valid alias"):
        check_name(text, "alias")


@given(st.text())
def test_whatever_parses_is_made_of_confined_names(text):
    try:
        ref = parse_ref(text)
    except UsageError:
        return
    parts = [value for value in vars(ref).values() if isinstance(value, str)]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,127}", part, re.ASCII) for part in parts)


@given(NAMES, st.integers(1, 999_999_999), NAMES)
def test_forms_do_not_run_into_one_another(name, number, alias):
    assert parse_ref(name) == NewestRef(name)
    assert parse_ref(f"{name}:{number}") == LabelRef(name, number)
    assert parse_ref(f"{name}@{alias}") == AliasRef(name, alias)
    assert check_name(name) == name


def test_short_digests_parse_again():
    digest = "0123456789abcdef" * 4
    assert digest.startswith(parse_ref(short(digest)).prefix)
