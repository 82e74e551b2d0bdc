"""`dlhpc`: a group of verbs that are imported only when used, and the place where errors become exit statuses."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from dlhpc import __version__
from dlhpc.errors import ConfigError, DlhpcError, Interrupted

VERBS: dict[str, str] = {
    "demo": "Train, publish, serve and ask two models in a minute.",
    "train": "Train the run that a YAML file describes and publish it.",
    "evaluate": "Measure a published model on its test data.",
    "runs": "List the training runs and what came of them.",
    "config": "Check, explain and compare configuration files.",
    "data": "Look at a data set as training would see it.",
    "registry": "List, find, compare, name and tag published models.",
    "serve": "Serve published models over HTTP.",
    "key": "Make, list and remove the API keys of a server.",
    "predict": "Classify images with a published model or a running server.",
    "bench": "Measure throughput and latency on this machine.",
    "doctor": "Check this machine, and say how to mend what is wrong.",
}
"""Each verb, found in the module of its name, with its line in `dlhpc --help`."""

EPILOG = """\b
Examples:
  dlhpc demo
  dlhpc train config/flax_config.yaml --set training.num_epochs=5
  dlhpc evaluate digits-mlp
  dlhpc doctor

\b
Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 damaged bytes,
4 not found or already taken, 130 interrupted. DLHPC_TRACEBACK=1 prints tracebacks.
"""


class LazyGroup(click.Group):
    """Verbs by name; `--help` reads VERBS, so that it stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"dlhpc.cli.{cmd_name}").command
        assert isinstance(command, click.Command), cmd_name
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = difflib.get_close_matches(args[0], VERBS, n=1)
            if not close:
                raise
            raise click.UsageError(f"{error.message} Did you mean '{close[0]}'?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dlhpc")
def group() -> None:
    """One YAML in, a verified model served: in JAX/Flax and in PyTorch/DeepSpeed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (`sys.argv` by default) and give its exit status."""
    try:
        status: Any = group.main(args=arguments, prog_name="dlhpc", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        return Interrupted.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:
        return _failed(error)
    return status if isinstance(status, int) else 0


def _failed(error: Exception) -> int:
    """Explain an error on stderr; its exit status."""
    wants_traceback = os.environ.get("DLHPC_TRACEBACK", "") not in {"", "0"}
    if wants_traceback:
        traceback.print_exception(error)
    match error:
        case Interrupted():
            _say(str(error))
        case ConfigError(problems=problems):
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            _say("\n".join(problems), f"error: the configuration has {count}")
        case DlhpcError():
            _say(f"error: {error}")
        case OSError():
            _say(f"error: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        case _:
            _say(f"error: this should not have happened: {type(error).__name__}: {error}")
            if not wants_traceback:
                _say("the same command after DLHPC_TRACEBACK=1 prints the traceback that a bug report needs")
    return error.exit_code if isinstance(error, DlhpcError) else 1


def _say(*lines: str) -> None:
    for line in lines:
        click.echo(line, err=True)


if __name__ == "__main__":
    sys.exit(main())
