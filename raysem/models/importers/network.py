"""What the importers of single networks share: tensors under our names into a network, strictly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from raysem.errors import DataError
from raysem.models.checkpoint import check_keys
from raysem.models.encoder import SpectrogramNetwork
from raysem.models.registry import NetworkSettings, build_network

NUM_CLASSES = 527


def load_network(
    settings: NetworkSettings, state: Mapping[str, Tensor], *, with_classes: bool, where: str
) -> SpectrogramNetwork:
    """The network in evaluation mode, with exactly the tensors of `state`; anything else is a DataError.

    Args:
        settings: numbers of the network as published, `num_classes` among them.
        with_classes: false leaves the classifier out once its names and shapes are checked.
    """
    bare = settings.model_copy(update={"num_classes": None})
    with torch.device("meta"):  # no random weights for what is overwritten anyway
        published = build_network(settings)
        network = published if with_classes else build_network(bare)
    check_keys(state, published.state_dict(), where)
    network.to_empty(device="cpu")
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    return network.eval()


def without(state: Mapping[str, Tensor], left_out: Mapping[str, tuple[int, ...]], where: str) -> dict[str, Tensor]:
    """The tensors without those of these names, which must be there and have these shapes."""
    check_keys(
        {name: tensor for name, tensor in state.items() if name in left_out},
        {name: torch.empty(shape, device="meta") for name, shape in left_out.items()},
        where,
    )
    return {name: tensor for name, tensor in state.items() if name not in left_out}


def require_prefix(names: Iterable[str], prefix: str, where: str) -> None:
    """DataError, with the names, where one does not begin with `prefix`."""
    others = sorted(name for name in names if not name.startswith(prefix))
    if others:
        raise DataError(f"{where}: weights do not fit: expected names {prefix}*, found {others}")
