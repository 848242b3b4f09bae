"""Train audio taggers one-hot, with OBCE or with SPA, and measure them by OmAP: `python jobs/train_spa.py --help`."""

import sys

from raysem.runs.launch import main
from raysem.runs.tagging import JOB

if __name__ == "__main__":
    sys.exit(main(JOB))
