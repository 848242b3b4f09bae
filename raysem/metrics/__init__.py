"""Accuracy, retrieval, average precision, OmAP and bootstrap intervals."""

from raysem.metrics.ontology_aware import ontology_aware_average_precision

__all__ = ["ontology_aware_average_precision"]
