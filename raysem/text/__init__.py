"""Prompts, label texts and text encoders."""
