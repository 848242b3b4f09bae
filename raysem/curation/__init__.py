"""From embeddings to the Improvement-Set: matching, selection, neighbours, duplicates."""
