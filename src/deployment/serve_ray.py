"""`python src/deployment/serve_ray.py --config config/serve_config.yaml`: dlhpc serve."""

import sys

from dlhpc.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
