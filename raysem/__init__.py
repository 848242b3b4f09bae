"""raysem curates audio-text training data and trains semantic audio models on it, on a Ray cluster."""

__version__ = "0.1.0"
