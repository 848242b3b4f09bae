"""Curate audio-text pairs with a teacher and train students on them: `python jobs/curate_and_train.py --help`."""

import sys

from raysem.runs.curate_and_train import JOB
from raysem.runs.launch import main

if __name__ == "__main__":
    sys.exit(main(JOB))
