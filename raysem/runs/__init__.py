"""One file a job: its recipe and its stages in order."""
