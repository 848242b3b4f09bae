"""Losses over the global batch: contrastive, soft-label, binary, ontology-aware, alignment with label texts."""

from raysem.losses.ontology_aware import ontology_aware_bce
from raysem.losses.soft_label import soft_label_loss

__all__ = ["ontology_aware_bce", "soft_label_loss"]
