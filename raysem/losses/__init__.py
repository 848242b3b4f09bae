"""Contrastive and soft-label losses over the global batch."""
