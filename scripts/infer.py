"""`vla infer` as a script, for `accelerate launch` and debuggers."""

import sys

from vla.cli import main

sys.exit(main(["infer", *sys.argv[1:]]))
