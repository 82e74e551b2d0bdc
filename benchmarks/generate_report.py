"""Turn benchmarks/results/*.json into docs/benchmarks.md: `python benchmarks/generate_report.py`."""

import argparse
import sys
from pathlib import Path

from dlhpc.bench.report import page
from dlhpc.errors import DlhpcError
from dlhpc.files import write_atomic

HERE = Path(__file__).parent

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the result files")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "benchmarks.md", help="page to write")
    arguments = parser.parse_args()
    try:
        write_atomic(arguments.out, page(arguments.results))
    except DlhpcError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"wrote {arguments.out}")
