from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from raysem.models.passt import Passt, PasstSettings

SMALL = {"width": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "stride": 4, "num_mels": 24, "num_frames": 40}


def passt(**changes: int) -> Passt:
    """6 rows and 10 columns of patches."""
    torch.manual_seed(0)
    return Passt(PasstSettings(**(SMALL | {"patchout_time": 3, "patchout_frequency": 2} | changes)))


def spectrogram(num_clips: int = 2, num_frames: int = 40) -> Tensor:
    return torch.randn(num_clips, num_frames, 24, generator=torch.Generator().manual_seed(1))


def traced(network: Passt) -> None:
    """Make the network's tokens tell where they come from: (row, column) in the first two numbers of the map."""
    with torch.no_grad():
        for parameter in network.patch_embed.parameters():
            parameter.zero_()
        network.freq_new_pos_embed.zero_()
        network.time_new_pos_embed.zero_()
        network.freq_new_pos_embed[0, 0, :, 0] = torch.arange(network.settings.num_rows)
        network.time_new_pos_embed[0, 1, 0] = torch.arange(network.settings.num_columns)
    network.blocks = nn.Sequential()
    network.norm = nn.Identity()  # type: ignore[assignment]


def kept(network: Passt, num_frames: int = 40) -> tuple[list[float], list[float]]:
    """Rows and columns that are left of a call; every token of the map must be where it says."""
    map_WFN = network.encode(spectrogram(1, num_frames)).map_BWFN[0]
    rows, columns = map_WFN[0, :, 0].tolist(), map_WFN[1, 0].tolist()
    assert (map_WFN[0] == torch.tensor(rows)[:, None]).all()
    assert (map_WFN[1] == torch.tensor(columns)).all()
    return rows, columns


def test_patchout_leaves_out_whole_rows_and_columns_in_training():
    network = passt().train()
    traced(network)
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        rows, columns = kept(network)
        assert (len(rows), len(columns)) == (4, 7)
        assert rows == sorted(set(rows))
        assert columns == sorted(set(columns))
        seen.add((*rows, *columns))
    assert len(seen) > 10


def test_nothing_is_left_out_in_evaluation():
    network = passt().eval()
    traced(network)
    before = torch.get_rng_state()
    assert kept(network) == ([*range(6)], [*range(10)])
    assert torch.equal(before, torch.get_rng_state())


def test_patchout_draws_from_torchs_generator():
    network = passt().train()
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(network.encode(spectrogram()).embedding_BW)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_without_patchout_training_is_evaluation():
    network = passt(patchout_time=0, patchout_frequency=0)
    trained = network.train().encode(spectrogram())
    torch.testing.assert_close(trained.embedding_BW, network.eval().encode(spectrogram()).embedding_BW)


def test_a_shorter_clip_starts_anywhere_in_training_and_at_0_in_evaluation():
    network = passt(patchout_time=0, patchout_frequency=0)
    traced(network)
    starts = set()
    for seed in range(30):
        torch.manual_seed(seed)
        columns = kept(network.train(), num_frames=28)[1]
        assert columns == [columns[0] + column for column in range(7)]
        starts.add(columns[0])
    assert starts == {0, 1, 2, 3}
    assert kept(network.eval(), num_frames=28)[1] == [*range(7)]


def test_columns_left_out_are_those_of_the_patches_there_are():
    network = passt().train()
    traced(network)
    assert [len(axis) for axis in kept(network, num_frames=28)] == [4, 4]
    with pytest.raises(ValueError, match="patchout of 3 leaves nothing of 3 patches"):
        network.encode(spectrogram(num_frames=12))


def test_the_order_of_clips_does_not_matter_nor_their_batch():
    network = passt().eval()
    with torch.no_grad():
        together_BW = network.encode(spectrogram(4)).embedding_BW
        alone_BW = torch.cat([network.encode(clip_NF[None]).embedding_BW for clip_NF in spectrogram(4)])
    torch.testing.assert_close(together_BW, alone_BW, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_frames", [3, 44])
def test_clips_that_are_too_short_or_too_long_are_refused(num_frames: int):
    with pytest.raises(ValueError, match=r"expected spectrograms \(clips, 4 to 43 frames, 24 mels\)"):
        passt().eval().encode(spectrogram(num_frames=num_frames))


def test_the_longest_clip_of_the_published_network_has_as_many_columns_as_positions():
    for stride in (10, 12, 14, 16):
        settings = PasstSettings(stride=stride)
        columns = [(frames - 16) // stride + 1 for frames in (1000, settings.max_frames, settings.max_frames + 1)]
        assert columns == [settings.num_columns, settings.num_columns, settings.num_columns + 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "width 16 must be a multiple of num_heads 3"),
        ({"patch_size": 25}, "patch_size 25 is more than num_mels 24"),
        ({"patchout_time": 10}, "leave nothing of 6 x 10 patches"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changes: dict[str, int], message: str):
    with pytest.raises(ValidationError, match=message):
        passt(**changes)
