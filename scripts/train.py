"""`vla train` as a script, for `accelerate launch` and debuggers."""

import sys

from vla.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
