from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from raysem.models.hts_at import HtsAt, HtsAtSettings


def hts_at(**changes: object) -> HtsAt:
    """32 mels folded four times: 512 frames."""
    torch.manual_seed(0)
    numbers = {
        "num_mels": 32,
        "image_size": 128,
        "patch_width": 8,
        "depths": (1, 2, 1),
        "num_heads": (1, 2, 4),
        "num_classes": 5,
    }
    return HtsAt(HtsAtSettings.model_validate(numbers | changes)).eval()


def spectrogram(num_frames: int) -> Tensor:
    return 5 * torch.randn(2, num_frames, 32, generator=torch.Generator().manual_seed(1))


def test_a_clip_that_fits_twice_is_heard_twice():
    """As the authors do for clips of other lengths: 200 frames are those of the clip and its repetition."""
    network, once_BNF = hts_at(), spectrogram(200)
    with torch.no_grad():
        short, twice = network.encode(once_BNF), network.encode(torch.cat([once_BNF, once_BNF], dim=1))
        other = network.encode(spectrogram(300))
    torch.testing.assert_close(short.embedding_BW, twice.embedding_BW)
    assert not torch.allclose(short.embedding_BW, other.embedding_BW, atol=1e-3)


def test_columns_of_the_map_run_through_time():
    """What changes only at the end of a clip changes only the last columns: the spans of time are not interleaved."""
    network = hts_at(depths=(1, 1, 1), window=8)
    start_BNF = spectrogram(512)
    end_BNF = start_BNF.clone()
    end_BNF[:, 448:] += 20
    with torch.no_grad():
        changed_BWFN = network.encode(start_BNF).map_BWFN - network.encode(end_BNF).map_BWFN
    change_N = changed_BWFN.abs().amax(dim=(0, 1, 2))
    assert change_N.shape == (32,)
    # The last stage attends to its whole square of four spans, so all columns move a little.
    assert change_N[28:].min() > 2 * change_N[:24].max()


def test_the_embedding_is_the_mean_of_the_map_and_the_logits_that_of_each_column():
    network = hts_at()
    with torch.no_grad():
        encoded = network.encode(spectrogram(512))
        columns_BKN = network.tscam_conv(encoded.map_BWFN)[:, :, 0]
        logits_BK = network.class_logits(encoded)
    torch.testing.assert_close(encoded.embedding_BW, encoded.map_BWFN.mean(dim=(2, 3)))
    assert columns_BKN.shape == (2, 5, 32)
    torch.testing.assert_close(logits_BK, columns_BKN.mean(dim=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": (1, 2)}, "must be of one length"),
        ({"num_heads": (1, 3, 4)}, "must divide the widths"),
        ({"num_mels": 40}, "must be a multiple of num_mels 40"),
        ({"window": 16}, "must be a multiple of 256"),
        ({"num_mels": 8}, "rows of 16"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changes: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        hts_at(**changes)
