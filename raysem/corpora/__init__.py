"""One file a corpus: from what is on disk to the clips and captions tables."""
