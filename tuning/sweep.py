"""Try many settings of a recipe, which share every stage they have in common: `python tuning/sweep.py --help`."""

import sys

from raysem.sweeps.command import main

if __name__ == "__main__":
    sys.exit(main())
