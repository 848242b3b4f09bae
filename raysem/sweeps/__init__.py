"""Sweeps: many settings of one recipe, which share every stage that they have in common."""
