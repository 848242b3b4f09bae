"""Zero-shot classification and retrieval under a pinned protocol."""
