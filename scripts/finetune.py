"""`vla finetune` as a script, for `accelerate launch` and debuggers."""

import sys

from vla.cli import main

sys.exit(main(["finetune", *sys.argv[1:]]))
