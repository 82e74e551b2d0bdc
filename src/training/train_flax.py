"""`python src/training/train_flax.py --config config/flax_config.yaml`: dlhpc train, for runs in JAX/Flax."""

import sys
from pathlib import Path

from dlhpc.cli.main import main

CONFIG = Path(__file__).parents[2] / "config" / "flax_config.yaml"

if __name__ == "__main__":
    sys.exit(main(["train", "--expect-backend=flax", f"--default-config={CONFIG}", *sys.argv[1:]]))
