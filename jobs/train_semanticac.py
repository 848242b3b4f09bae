"""Train audio classifiers by label prompts, SemanticAC, in a cross-validation: see `--help`."""

import sys

from raysem.runs.classification import JOB
from raysem.runs.launch import main

if __name__ == "__main__":
    sys.exit(main(JOB))
