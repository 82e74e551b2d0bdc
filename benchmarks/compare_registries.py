"""dlhpc's registry beside MLflow with SQLite: `python benchmarks/compare_registries.py`.

Files of published versions are damaged and the versions loaded; eight new processes publish into a store that does not
exist yet; publishers are killed; and publishing 10 MB is timed, the two in turn. MLflow runs in an environment of its
own, which tools/environments.py makes first; how it publishes and loads stands in mlflow_side.py. The results are
written as benchmarks/results/registries.json, for generate_report.py.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dlhpc.bench.machine import describe
from dlhpc.files import write_atomic

HERE = Path(__file__).absolute().parent
SIDES = ("dlhpc", "mlflow_files", "mlflow_pyfunc", "mlflow_torch")
"""dlhpc, and three ways of MLflow's users (mlflow_side.py). The last wants torch in MLflow's environment."""
ZEROS = 4_000_000


class SideError(Exception):
    """What a side says when it cannot do what it was asked."""


class Side:
    """A process that publishes and loads, in a folder."""

    def __init__(self, kind: str, pythons: dict[str, str], folder: Path) -> None:
        self.kind, _, self.way = kind.partition("_")
        program = [pythons[self.kind], str(HERE / f"{self.kind}_side.py"), str(folder)]
        self.log = (folder.parent / f"{folder.name}.log").open("a")
        self.process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )

    def ask(self, action: str, *arguments: object) -> Any:
        """Do something there; raises SideError when it fails."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps([action, self.way, *arguments]), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        reply = json.loads(line) if line else {"error": f"ended; see {self.log.name}"}
        if "error" in reply:
            raise SideError(reply["error"])
        return reply["value"]

    def end(self) -> None:
        """Let the process end."""
        self.process.communicate()
        self.log.close()


def _middle(content: bytes) -> int:
    """The last byte of a float32 in the middle, of whose sign and exponent it is."""
    return len(content) // 2 // 4 * 4 + 3


def flipped(content: bytes, other: bytes) -> bytes:
    """One bit in the middle."""
    place = _middle(content)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def zeroed(content: bytes, other: bytes) -> bytes:
    """4 MB of zeros from the second quarter on."""
    start = len(content) // 4
    return content[:start] + bytes(ZEROS) + content[start + ZEROS :]


ATTACKS: dict[str, Callable[[bytes, bytes], bytes | None]] = {
    "one flipped bit": flipped,
    "4 MB of zeros": zeroed,
    "another version's file": lambda content, other: other,
    "truncated to a half": lambda content, other: content[: len(content) // 2],
    "1 kB appended": lambda content, other: content + bytes(1000),
    "removed": lambda content, other: None,
    "a file added beside it": lambda content, other: content,
}
"""What becomes of the weights' file; None: it is removed."""


def attack(side: Side) -> dict[str, str]:
    """What loading a version does after each attack on its weights' file."""
    labels = [side.ask("publish", "attacked", seed, "large")["label"] for seed in (1, 2)]
    path, other = (Path(side.ask("weights_file", "attacked", label)) for label in labels)
    content, before = path.read_bytes(), side.ask("predict", "attacked", labels[0])
    found = {}
    for name, change in ATTACKS.items():
        changed = change(content, other.read_bytes())
        added = path.with_name("added.bin")
        if "added" in name:
            added.write_bytes(b"added")
        path.unlink() if changed is None else path.write_bytes(changed)
        found[name] = _loading(side, labels[0], before, path.name)
        path.write_bytes(content)
        added.unlink(missing_ok=True)
    assert side.ask("predict", "attacked", labels[0]) == before, "the file was restored"
    return found


def _loading(side: Side, label: int, before: list[float], file: str) -> str:
    try:
        answers = side.ask("predict", "attacked", label)
    except SideError as error:
        return "refused, file named" if file in str(error) else f"refused ({str(error).split(':')[0]})"
    return "loaded, same answers" if answers == before else "LOADED, OTHER ANSWERS"


def together(kind: str, pythons: dict[str, str], folder: Path, writers: int, publications: int) -> str:
    """New processes publish under one name into a store that does not exist: how many came through."""
    with ExitStack() as stack:
        sides = [Side(kind, pythons, folder) for _ in range(writers)]
        for side in sides:
            stack.callback(side.end)
        pool = stack.enter_context(ThreadPoolExecutor(writers))
        seeds = [list(range(writer, writers * publications, writers)) for writer in range(writers)]
        results = list(pool.map(lambda pair: _publish_many(*pair), zip(sides, seeds, strict=True)))
    labels = sorted(label for labels, _ in results for label in labels)
    failures = [error for _, error in results if error]
    contiguous = labels == list(range(1, len(labels) + 1))
    told = f"{len(labels)} of {writers * publications}, {'contiguous' if contiguous else 'NOT contiguous'}"
    return told + (f"; {len(failures)} of {writers} processes failed" if failures else "")


def _publish_many(side: Side, seeds: list[int]) -> tuple[list[int], str]:
    """One after another, until one fails."""
    labels: list[int] = []
    try:
        for seed in seeds:
            labels += side.ask("publish_many", "together", [seed])
    except SideError as error:
        return labels, str(error)
    return labels, ""


def timed(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of publishing 10 MB: every round once on every side, after one that does not count."""
    times: dict[str, list[float]] = {kind: [] for kind in sides}
    for number in range(rounds + 1):
        for kind, side in sides.items():
            seconds = side.ask("publish", "timed", 100 + number, "large")["seconds"]
            if number:
                times[kind].append(round(1000 * seconds, 1))
    return times


def measure(arguments: argparse.Namespace, pythons: dict[str, str], folder: Path) -> list[dict[str, Any]]:
    """One row for each thing that was tried, one column for each side."""
    kinds: tuple[str, ...] = tuple(arguments.sides)
    rows: list[dict[str, Any]] = []

    def row(tried: str, values: dict[str, Any], **more: Any) -> None:
        rows.append({"tried": tried, **{kind: values[kind] for kind in kinds}, **more})
        print(json.dumps(rows[-1]), file=sys.stderr)

    with ExitStack() as stack:
        sides = {}
        for kind in kinds:
            sides[kind] = Side(kind, pythons, folder / kind)
            stack.callback(sides[kind].end)
        outcomes = {kind: attack(side) for kind, side in sides.items()}
        for name in ATTACKS:
            row(name, {kind: outcomes[kind][name] for kind in kinds})
        times = timed(sides, arguments.rounds)
        medians = {kind: statistics.median(each) for kind, each in times.items()}
        row("publish 10 MB, ms (median)", medians, rounds_ms=[times])
        row("publish 10 MB, times dlhpc's", {kind: round(each / medians["dlhpc"], 1) for kind, each in medians.items()})
    writers, publications = arguments.writers, arguments.publications
    row(
        f"{writers} new processes x {publications} publications",
        {kind: together(kind, pythons, folder / f"together-{kind}", writers, publications) for kind in kinds},
    )
    killed = {kind: _killed(kind, pythons, folder / f"killed-{kind}", arguments.kills) for kind in kinds}
    row(f"kill -9 x {arguments.kills}: killed at work", {kind: each["killed"] for kind, each in killed.items()})
    row(f"kill -9 x {arguments.kills}: unusable versions", {kind: each["unusable"] for kind, each in killed.items()})
    row("left behind, then after gc", {kind: f"{each['left']}, {each['after']}" for kind, each in killed.items()})
    return rows


def _killed(kind: str, pythons: dict[str, str], folder: Path, kills: int) -> dict[str, int]:
    side = Side(kind, pythons, folder)
    try:
        found: dict[str, int] = side.ask("kill", kills)
    finally:
        side.end()
    return found


def version_of_mlflow(python: str) -> str:
    """The version that is compared with."""
    command = [python, "-c", "from importlib.metadata import version; print(version('mlflow'))"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def mlflow_python() -> str:
    """The Python of MLflow's environment, made if it is not there."""
    command = [sys.executable, str(HERE.parent / "tools" / "environments.py"), "mlflow"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def table(rows: Iterable[dict[str, Any]], kinds: Iterable[str]) -> str:
    """The rows, for people."""
    head = ["tried", *kinds]
    lines = [[str(each[key]) for key in head] for each in rows]
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [head, *lines]
    )


def main() -> None:
    """Try everything, print it, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sides_help = f"{' '.join(SIDES)}; the last needs torch in .venv/mlflow"
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES[:3], help=sides_help)
    parser.add_argument("--rounds", type=int, default=9, help="timed publications of each side")
    parser.add_argument("--writers", type=int, default=8, help="new processes that publish at once")
    parser.add_argument("--publications", type=int, default=10, help="of each of them")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the result file")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON")
    arguments = parser.parse_args()
    arguments.results = arguments.results.absolute()
    if "dlhpc" not in arguments.sides:
        parser.error("--sides: dlhpc has to be among them")
    pythons = {"dlhpc": sys.executable, "mlflow": mlflow_python()}
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(arguments, pythons, Path(temporary))
    content = {
        "suite": "registries",
        "command": " ".join(["python benchmarks/compare_registries.py", *sys.argv[1:]]),
        "machine": {**describe(), "mlflow": version_of_mlflow(pythons["mlflow"])},
        "results": rows,
    }
    write_atomic(arguments.results / "registries.json", json.dumps(content, indent=2) + "\n")
    print(json.dumps(content, indent=2) if arguments.as_json else table(rows, arguments.sides))


if __name__ == "__main__":
    main()
