from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from raysem.config import build
from raysem.models.classifier import Classifier
from raysem.models.classifier_settings import ClassifierSettings
from raysem.models.layer_depth import layer_depths, num_layers
from raysem.models.pretrained import EncoderSource
from raysem.models.registry import WAVEFORM_ENCODERS
from raysem.models.similarity import SimilarityName
from raysem.models.tagger import Tagger, TaggerSettings

BLOCKS = {"cnn14_tiny": 6, "mn_tiny": 15, "ast_tiny": 4, "hts_at_tiny": 6, "passt_tiny": 4}
SIMILARITIES: tuple[SimilarityName | None, ...] = (*get_args(SimilarityName), None)
KINDS = {"cnn14": "panns", "mn": "efficientat", "ast": "ast", "hts_at": "hts_at", "passt": "passt"}


def tagger(encoder: str, *, published_head: bool = False) -> Tagger:
    torch.manual_seed(0)
    start = None
    if published_head:
        kind = KINDS[encoder.removesuffix("_tiny")]
        start = EncoderSource.model_validate({"kind": kind, "location": "x", "encoder": encoder})
    settings = TaggerSettings(encoder=encoder, projection="mlp", start=start, start_classes=published_head)
    return Tagger(settings, ("a", "b"), ("1", "2"), 12)


def classifier(encoder: str, similarity: SimilarityName | None, text: Path, *, shared_width: int = 24) -> Classifier:
    """With a text encoder 32 wide, or the baseline without text."""
    torch.manual_seed(0)
    content = {
        "encoder": encoder,
        "similarity": similarity and {"name": similarity, "num_layers": 1, "num_heads": 4},
        "shared_width": shared_width,
        "text": {"name": str(text), "max_tokens": 30, "trained": True},
    }
    return Classifier(build(ClassifierSettings, content), ("dog", "cat"))


@pytest.mark.parametrize("published_head", [False, True])
@pytest.mark.parametrize("encoder", BLOCKS)
def test_every_parameter_has_one_depth_and_every_depth_a_parameter(encoder: str, published_head: bool):
    model = tagger(encoder, published_head=published_head)
    depths = layer_depths(model)
    assert list(depths) == [name for name, _ in model.named_parameters()]
    assert set(depths.values()) == {*range(BLOCKS[encoder] + 2)}
    assert num_layers(model) == BLOCKS[encoder] + 1


@pytest.mark.parametrize("published_head", [False, True])
@pytest.mark.parametrize("encoder", BLOCKS)
def test_depth_grows_as_a_clip_passes_through(encoder: str, published_head: bool):
    """Modules are called in the order of their depths, so no layer learns faster than one after it."""
    model = tagger(encoder, published_head=published_head).eval()
    depths, passed = layer_depths(model), list[int]()
    for name, module in model.named_modules():
        for own, _ in module.named_parameters(prefix=name, recurse=False):
            module.register_forward_hook(lambda *_, depth=depths[own]: passed.append(depth))
            break
    with torch.no_grad():
        model(torch.randn(2, 80_000) * 0.1)
    assert passed == sorted(passed)
    assert set(passed) == set(depths.values())


@pytest.mark.parametrize("similarity", SIMILARITIES, ids=str)
@pytest.mark.parametrize("encoder", BLOCKS)
def test_all_of_a_classifier_but_its_encoder_lies_at_the_last_depth(
    encoder: str, similarity: SimilarityName | None, bert_folder: Path
):
    """And the encoder as in a tagger."""
    model = classifier(encoder, similarity, bert_folder)
    depths, of_tagger = layer_depths(model), layer_depths(tagger(encoder))
    assert list(depths) == [name for name, _ in model.named_parameters()]
    inner = {name for name in depths if name.startswith("encoder.")}
    assert {name: depths[name] for name in inner} == {
        name: depth for name, depth in of_tagger.items() if name.startswith("encoder.")
    }
    outer = depths.keys() - inner
    parts = {"classifier"} if similarity is None else {"similarity", "text_encoder", "text_projection", "logit_scale"}
    assert {name.split(".")[0] for name in outer} == parts
    assert {depths[name] for name in outer} == {BLOCKS[encoder] + 1}
    assert num_layers(model) == BLOCKS[encoder] + 1


@pytest.mark.parametrize("similarity", SIMILARITIES, ids=str)
def test_depth_grows_as_a_clip_passes_through_a_classifier(similarity: SimilarityName | None, bert_folder: Path):
    model = classifier("hts_at_tiny", similarity, bert_folder).eval()
    depths, passed = layer_depths(model), list[int]()
    for name, module in model.named_modules():
        for own, _ in module.named_parameters(prefix=name, recurse=False):
            module.register_forward_hook(lambda *_, depth=depths[own]: passed.append(depth))
            break
    with torch.no_grad():
        model.encode_audio(torch.randn(2, 80_000) * 0.1)
    assert passed == sorted(passed)
    assert set(passed) == {*range(BLOCKS["hts_at_tiny"] + 2)}


def test_a_text_encoder_as_wide_as_the_shared_space_lies_at_the_last_depth(bert_folder: Path):
    depths = layer_depths(classifier("cnn14_tiny", "mean", bert_folder, shared_width=32))
    text = {name: depth for name, depth in depths.items() if name.startswith("text_")}
    assert {name.split(".")[0] for name in text} == {"text_encoder"}
    assert set(text.values()) == {7}


@pytest.mark.parametrize(
    ("encoder", "name", "depth"),
    [
        ("cnn14_tiny", "encoder.network.bn0.weight", 0),
        ("cnn14_tiny", "encoder.network.conv_block1.conv2.weight", 1),
        ("cnn14_tiny", "encoder.network.conv_block6.bn2.bias", 6),
        ("cnn14_tiny", "encoder.network.fc1.weight", 7),
        ("mn_tiny", "encoder.network.features.0.0.weight", 0),
        ("mn_tiny", "encoder.network.features.15.block.3.0.weight", 15),
        ("mn_tiny", "encoder.network.features.16.0.weight", 16),
        ("ast_tiny", "encoder.network.base.embeddings.position_embeddings", 0),
        ("ast_tiny", "encoder.network.base.layernorm.weight", 5),
        ("hts_at_tiny", "encoder.network.base.audio_encoder.patch_embed.proj.weight", 0),
        ("hts_at_tiny", "encoder.network.base.audio_encoder.layers.0.blocks.1.output.dense.weight", 2),
        ("hts_at_tiny", "encoder.network.base.audio_encoder.layers.0.downsample.reduction.weight", 2),
        ("hts_at_tiny", "encoder.network.base.audio_encoder.layers.1.blocks.0.output.dense.weight", 3),
        ("hts_at_tiny", "encoder.network.base.audio_encoder.norm.weight", 7),
        ("passt_tiny", "encoder.network.time_new_pos_embed", 0),
        ("passt_tiny", "encoder.network.patch_embed.proj.bias", 0),
        ("passt_tiny", "encoder.network.blocks.3.mlp.fc2.bias", 4),
        ("passt_tiny", "encoder.network.norm.weight", 5),
        ("passt_tiny", "projection.linear1.weight", 5),
        ("passt_tiny", "classifier.weight", 5),
    ],
)
def test_parts_lie_where_they_should(encoder: str, name: str, depth: int):
    assert layer_depths(tagger(encoder))[name] == depth


def test_the_large_ones_have_as_many_layers_as_published():
    found = {}
    for encoder in ("cnn14", "mn10", "mn40", "ast", "hts_at", "passt_s"):
        assert encoder in WAVEFORM_ENCODERS
        with torch.device("meta"):
            found[encoder] = num_layers(Tagger(TaggerSettings(encoder=encoder), ("a", "b"), ("1", "2")))
    assert found == {"cnn14": 7, "mn10": 16, "mn40": 16, "ast": 13, "hts_at": 13, "passt_s": 13}


def test_a_parameter_that_nobody_has_placed_is_refused():
    model = tagger("passt_tiny")
    model.encoder.network.register_parameter("odd", nn.Parameter(torch.zeros(1)))
    with pytest.raises(ValueError, match=re.escape("encoder.network.odd: layer_depth.py does not say how deep")):
        layer_depths(model)
