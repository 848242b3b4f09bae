"""Accuracy, retrieval and bootstrap intervals."""
