"""One loop for every objective, with or without Ray."""
