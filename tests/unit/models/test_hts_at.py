from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from raysem.models.encoder import SpectrogramNetwork
from raysem.models.hts_at import HtsAt, HtsAtSettings
from raysem.models.registry import encoder_design


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


@pytest.mark.parametrize(("name", "num_frames"), [("hts_at", 1001), ("hts_at_tiny", 250)])
def test_the_image_is_the_norm_of_the_last_hidden_state_value_for_value(name: str, num_frames: int):
    settings = encoder_design(name).network
    assert isinstance(settings, HtsAtSettings)
    torch.manual_seed(0)
    network = HtsAt(settings).eval()
    norm = network.base.audio_encoder.norm
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
        spectrogram_BNF = 5 * torch.randn(2, num_frames, 64, generator=torch.Generator().manual_seed(1))
        map_BWFN = network.encode(spectrogram_BNF).map_BWFN
        repeated_BNF = spectrogram_BNF.repeat(1, settings.max_frames // num_frames, 1)
        output = network.base(input_features=repeated_BNF.unsqueeze(1), output_hidden_states=True)
        expected_BWFN = norm(output.hidden_states[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        image_BWFN = network.image(map_BWFN)
    assert image_BWFN.shape == (2, settings.embedding_width, 8, 8)
    assert map_BWFN.shape == (2, settings.embedding_width, 8 // settings.folds, 8 * settings.folds)
    assert torch.equal(image_BWFN, expected_BWFN)
    assert len(torch.unique(image_BWFN[0, 0])) == 64  # no two places are alike: the order is tested too


def test_the_image_has_the_spans_of_time_above_each_other():
    """Of 2 rows and 32 columns, span s of 8 columns becomes rows 2s and 2s + 1."""
    network = hts_at(depths=(1, 1, 1))
    row_F, column_N = torch.arange(2), torch.arange(32)
    map_BWFN = (100 * row_F[:, None] + column_N).expand(1, 32, 2, 32)
    image_BWFN = network.image(map_BWFN)
    for span in range(4):
        for row in range(2):
            expected_N = 100 * row + torch.arange(8 * span, 8 * span + 8)
            assert torch.equal(image_BWFN[0, 5, 2 * span + row], expected_N)


def test_the_image_of_another_map_is_refused():
    with pytest.raises(ValueError, match=r"expected a map of \(32, 2, 32\) for each clip, got \(1, 32, 8, 8\)"):
        hts_at(depths=(1, 1, 1)).image(torch.ones(1, 32, 8, 8))


def test_a_network_that_folds_nothing_gives_its_map_as_the_image():
    map_BWFN = torch.ones(1, 3, 2, 5)
    assert SpectrogramNetwork().image(map_BWFN) is map_BWFN


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
