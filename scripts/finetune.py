"""`vla finetune` as a script, for `accelerate launch` and debuggers."""

import sys

from vla.cli import main

if __name__ == "__main__":  # worker processes import this file again
    sys.exit(main(["finetune", *sys.argv[1:]]))
