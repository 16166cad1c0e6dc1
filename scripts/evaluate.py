"""`vla evaluate` as a script, for `accelerate launch` and debuggers."""

import sys

from vla.cli import main

sys.exit(main(["evaluate", *sys.argv[1:]]))
