"""`vla validate` as a script: check a data set before training on it."""

import sys

from vla.cli import main

if __name__ == "__main__":  # worker processes import this file again
    sys.exit(main(["validate", *sys.argv[1:]]))
