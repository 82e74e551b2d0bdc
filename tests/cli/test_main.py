"""The group of verbs: fast help, exit statuses, messages without tracebacks."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import click
import pytest

from dlhpc import __version__, errors
from dlhpc.cli import main as cli


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch):
    """Add a verb `boom` whose body is the given function."""

    def install(body):
        module = ModuleType("dlhpc.cli.boom")
        module.command = click.command("boom")(body)
        monkeypatch.setitem(sys.modules, "dlhpc.cli.boom", module)
        monkeypatch.setitem(cli.VERBS, "boom", "Fails.")

    return install


def raising(error: BaseException):
    def body() -> None:
        raise error

    return body


def run_python(code: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, **options
    )


def test_help_names_every_verb_with_a_line(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, line in cli.VERBS.items():
        assert name in out
        assert line in out


def test_help_imports_neither_verbs_nor_heavy_libraries():
    code = (
        "import sys; from dlhpc.cli.main import main; main(['--help'])\n"
        "heavy = {'numpy', 'pydantic', 'jax', 'torch', 'ray', 'rich', 'yaml', 'httpx'} & sys.modules.keys()\n"
        "verbs = [m for m in sys.modules if m.startswith('dlhpc.cli.') and m != 'dlhpc.cli.main']\n"
        "sys.exit(f'{heavy} {verbs}' if heavy or verbs else 0)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", list(cli.VERBS))
def test_every_verb_loads_and_its_help_has_an_example(name, capsys):
    assert cli.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Usage: dlhpc {name}" in out
    assert f"dlhpc {name}" in out.split("\n", 1)[1], "no example in the help"


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_no_verb_prints_the_help_and_is_a_usage_error(capsys):
    assert cli.main([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_a_misspelt_verb_is_a_usage_error_with_a_suggestion(capsys):
    assert cli.main(["trian"]) == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err
    assert cli.main(["qqqq"]) == 2
    assert "Did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.DataError("d"), 1),
        (errors.UsageError("u"), 2),
        (errors.MissingExtraError("ray", "ray", "serve"), 2),
        (errors.IntegrityError("i"), 3),
        (errors.NotFoundError("n"), 4),
        (errors.ConflictError("c"), 4),
    ],
)
def test_errors_become_a_message_and_their_status(verb, capsys, error, status):
    verb(raising(error))
    assert cli.main(["boom"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {error}\n"


@pytest.mark.parametrize(("problems", "count"), [(["a.yaml:1:1: x"], "1 problem"), (["p", "q"], "2 problems")])
def test_configuration_problems_are_all_shown_and_counted(verb, capsys, problems, count):
    verb(raising(errors.ConfigError(problems)))
    assert cli.main(["boom"]) == 2
    assert capsys.readouterr().err == "\n".join([*problems, f"error: the configuration has {count}\n"])


def test_an_interrupted_run_says_how_to_go_on(verb, capsys):
    verb(raising(errors.Interrupted("stopped; go on with dlhpc train --resume runs/x")))
    assert cli.main(["boom"]) == 130
    assert capsys.readouterr().err == "stopped; go on with dlhpc train --resume runs/x\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_is_130(verb, capsys, error):
    verb(raising(error))
    assert cli.main(["boom"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_an_operating_system_error_names_the_file(verb, capsys):
    verb(raising(PermissionError(13, "Permission denied", "/x/y")))
    assert cli.main(["boom"]) == 1
    assert capsys.readouterr().err == "error: Permission denied: /x/y\n"


def test_a_defect_is_one_line_unless_the_traceback_is_wanted(verb, capsys, monkeypatch):
    verb(raising(ZeroDivisionError("oops")))
    monkeypatch.delenv("DLHPC_TRACEBACK", raising=False)
    assert cli.main(["boom"]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in err
    assert "DLHPC_TRACEBACK=1" in err
    assert "Traceback" not in err
    monkeypatch.setenv("DLHPC_TRACEBACK", "1")
    assert cli.main(["boom"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_verb_may_give_its_own_status(verb):
    verb(lambda: 7)
    assert cli.main(["boom"]) == 7


BUFFERING_VERB = """
import sys, types, click
from dlhpc.cli import main as cli
boom = types.ModuleType("dlhpc.cli.boom")
boom.command = click.command("boom")(lambda: print("stays in the buffer"))
sys.modules["dlhpc.cli.boom"] = boom
cli.VERBS["boom"] = "Prints."
"""


@pytest.mark.parametrize("verb", ["--help", "boom"])
def test_a_closed_pipe_is_quiet(verb):
    code = BUFFERING_VERB + f"sys.stdin.read(); sys.exit(cli.main([{verb!r}]))"
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(writer)
        os.close(reader)
        _, err = process.communicate("")
    assert err == ""
    assert process.returncode == 1
