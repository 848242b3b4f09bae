"""Audio encoders, projections, CLAP, checkpoints and their importers."""
