"""`vla collect` as a script: record demonstrations with a scripted expert."""

import sys

from vla.cli import main

if __name__ == "__main__":  # worker processes import this file again
    sys.exit(main(["collect", *sys.argv[1:]]))
