"""Features of captions under a frozen text encoder: each distinct caption is encoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raysem.training.cache import MIB

# Shapes: B captions, W width of the text encoder.


class CaptionFeatures:
    """`text_BW` for captions, from a cache of at most `cache_mib`.

    On a CPU every caption is encoded on its own: the padding and the batch it comes in would change its last bits, and
    a resumed run, whose cache starts empty, would then differ from the uninterrupted one. (It also saves the padding.)
    On other devices the new captions of a call are encoded together.
    """

    def __init__(self, encoder: nn.Module, device: torch.device, *, cache_mib: int = 256):
        self._encoder, self._device, self._max_bytes = encoder, device, cache_mib * MIB
        self._features: OrderedDict[str, Tensor] = OrderedDict()
        self._num_bytes = 0

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Tensor:
        """text_BW on the device, float32."""
        distinct = list(dict.fromkeys(captions))
        rows = {caption: self._features[caption] for caption in distinct if caption in self._features}
        for caption in rows:
            self._features.move_to_end(caption)
        new = [caption for caption in distinct if caption not in rows]
        for group in [[caption] for caption in new] if self._device.type == "cpu" else [new] if new else []:
            rows |= dict(zip(group, self._encode(group).unbind(), strict=True))
        for caption in new:
            self._keep(caption, rows[caption])
        return torch.stack([rows[caption] for caption in captions]).to(self._device)

    def _encode(self, captions: list[str]) -> Tensor:
        was_training = self._encoder.training
        self._encoder.eval()
        try:
            tokens = {name: tensor.to(self._device) for name, tensor in self._encoder.tokenize(captions).items()}  # type: ignore[operator]
            with torch.autocast(self._device.type, enabled=False):
                return self._encoder(tokens).float()
        finally:
            self._encoder.train(was_training)

    def _keep(self, caption: str, text_W: Tensor) -> None:
        stored = text_W.clone()  # a row of a batch would keep the whole batch alive
        self._features[caption] = stored
        self._num_bytes += stored.nbytes
        while self._num_bytes > self._max_bytes:
            self._num_bytes -= self._features.popitem(last=False)[1].nbytes


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules hold the same tensors, name by name and bit by bit."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(
        tensor.shape == second[name].shape and torch.equal(tensor, second[name].to(tensor.device))
        for name, tensor in first.items()
    )
