"""`deepspeed src/training/train_torch.py --deepspeed_config config/deepspeed_config.json`: dlhpc train in PyTorch.

The launcher starts one process per device (`--num_gpus 2`: two, on a CPU too). The run is
config/torch_deepspeed_mlp.yaml unless --config says otherwise.
"""

import sys
from pathlib import Path

from dlhpc.cli.main import main

CONFIG = Path(__file__).parents[2] / "config" / "torch_deepspeed_mlp.yaml"

if __name__ == "__main__":
    sys.exit(main(["train", "--expect-backend=torch", f"--default-config={CONFIG}", *sys.argv[1:]]))
