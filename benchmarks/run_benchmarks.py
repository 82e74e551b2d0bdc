"""Run every benchmark suite and keep the results: `python benchmarks/run_benchmarks.py --batch-sizes 1 4 8 16 32`."""

import argparse
import sys
from pathlib import Path

from dlhpc.cli.main import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", help="loop, inference, optimizers; all when none is named")
    parser.add_argument("--batch-sizes", nargs="+", default=["1", "4", "8", "16", "32"], metavar="N")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"), help="folder of the result files")
    arguments, rest = parser.parse_known_args()
    sizes = [word for size in arguments.batch_sizes for word in ("--batch-sizes", size)]
    sys.exit(main(["bench", *arguments.suites, *sizes, "--out", arguments.out, *rest]))
