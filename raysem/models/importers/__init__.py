"""Checkpoints that others published: one file per layout, each a strict key map."""
