"""`vla relabel` as a script: make every episode a demonstration of what it achieved."""

import sys

from vla.cli import main

if __name__ == "__main__":  # worker processes import this file again
    sys.exit(main(["relabel", *sys.argv[1:]]))
