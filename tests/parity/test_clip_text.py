"""CLIP's text tower against transformers' own pooling, and OpenAI's layout against the arithmetic of their code."""

# Shapes: B texts in the batch, L tokens, W width of the tower, D width of the projection.

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
)

from raysem.models.importers.clip_text import clip_text_from_state, write_clip_text
from raysem.text.encoder import TextEncoder, TextEncoderSettings

TEXTS = [
    "dog",
    "an audio clip of a dog barking in the rain",
    "a clip of rain",
    "",
    "rain! rain? DOG dog dog dog dog dog",
]

_LETTERS = ByteLevel.alphabet()
_MERGES = [("d", "o"), ("do", "g</w>"), ("r", "a"), ("ra", "i"), ("rai", "n</w>"), ("o", "f</w>"), ("c", "l")]
_VOCABULARY = [
    *sorted(_LETTERS),
    *(f"{letter}</w>" for letter in sorted(_LETTERS)),
    *("".join(pair) for pair in _MERGES),
    *("<|startoftext|>", "<|endoftext|>"),
]
SIZE = len(_VOCABULARY)
NUMBERS: dict[str, Any] = {
    "vocab_size": SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 20,
    "bos_token_id": SIZE - 2,
    "eos_token_id": SIZE - 1,
    "initializer_factor": 5.0,  # else untrained vectors hardly differ from text to text
}
OLD = {"bos_token_id": 0, "eos_token_id": 2}  # as in the configurations of 2022, whatever the vocabulary
IMAGES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGES |= {"image_size": 8, "patch_size": 4}


def write_tokenizer(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(_VOCABULARY)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in _MERGES)]) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    return folder


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return write_tokenizer(folder)


def encoder(folder: Path, **settings: object) -> TextEncoder:
    return TextEncoder(TextEncoderSettings(name=str(folder), pooling="eos", max_tokens=20).model_copy(update=settings))


def tokens(folder: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer(TEXTS, padding=True, truncation=True, max_length=20, return_tensors="pt")


@pytest.mark.parametrize("changes", [{}, OLD])
def test_a_clip_model_gives_the_text_features_of_transformers(tmp_path: Path, changes: dict[str, int]):
    torch.manual_seed(0)
    config = CLIPConfig(text_config=NUMBERS | changes, vision_config=IMAGES, projection_dim=24)
    folder = saved(CLIPModel(config), tmp_path / "m")
    reference = CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected_BD = reference.get_text_features(**tokens(folder)).pooler_output
    ours = encoder(folder)
    text_BD = ours(ours.tokenize(TEXTS))
    assert text_BD.shape == (5, ours.width) == (5, 24)
    torch.testing.assert_close(text_BD, expected_BD, rtol=0, atol=1e-6)
    assert torch.pdist(expected_BD).min() > 0.1


@pytest.mark.parametrize("changes", [{}, OLD])
def test_a_text_model_with_projection_gives_the_text_embeds_of_transformers(tmp_path: Path, changes: dict[str, int]):
    torch.manual_seed(1)
    config = CLIPTextConfig(**NUMBERS | changes, projection_dim=40)
    folder = saved(CLIPTextModelWithProjection(config), tmp_path / "m")
    with torch.no_grad():
        expected_BD = CLIPTextModelWithProjection.from_pretrained(folder).eval()(**tokens(folder)).text_embeds
    ours = encoder(folder)
    assert ours.width == 40
    torch.testing.assert_close(ours(ours.tokenize(TEXTS)), expected_BD, rtol=0, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, OLD])
def test_a_text_model_without_projection_gives_the_pooled_state_of_transformers(
    tmp_path: Path, changes: dict[str, int]
):
    torch.manual_seed(2)
    folder = saved(CLIPTextModel(CLIPTextConfig(**NUMBERS | changes)), tmp_path / "m")
    with torch.no_grad():
        expected_BW = CLIPTextModel.from_pretrained(folder).eval()(**tokens(folder)).pooler_output
    ours = encoder(folder)
    assert ours.width == 32
    torch.testing.assert_close(ours(ours.tokenize(TEXTS)), expected_BW, rtol=0, atol=1e-6)


def test_a_text_among_longer_ones_has_the_vector_it_has_alone(tmp_path: Path):
    torch.manual_seed(3)
    folder = saved(CLIPTextModelWithProjection(CLIPTextConfig(**NUMBERS)), tmp_path / "m")
    ours = encoder(folder)
    alone = torch.cat([ours(ours.tokenize([text])) for text in TEXTS])
    torch.testing.assert_close(ours(ours.tokenize(TEXTS)), alone, rtol=1e-5, atol=1e-4)
    assert torch.pdist(alone).min() > 0.1


class OpenAiText(nn.Module):
    """The text half of `CLIP` in openai/CLIP, clip/model.py, by its names; its mask and its pooling as there."""

    def __init__(self, vocabulary: int, positions: int, width: int, layers: int, out: int, activation: nn.Module):
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.randn(positions, width))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList([OpenAiBlock(width, activation) for _ in range(layers)])
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, out) / math.sqrt(width))

    def forward(self, ids_BL: Tensor) -> Tensor:
        length = ids_BL.shape[1]
        mask_LL = torch.full((length, length), -math.inf).triu(1)
        hidden_BLW = self.token_embedding(ids_BL) + self.positional_embedding[:length]
        for block in self.transformer.resblocks:  # type: ignore[union-attr]
            hidden_BLW = block(hidden_BLW, mask_LL)
        last_BW = self.ln_final(hidden_BLW)[torch.arange(len(ids_BL)), ids_BL.argmax(-1)]
        return last_BW @ self.text_projection


class QuickGelu(nn.Module):
    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * torch.sigmoid(1.702 * hidden)


class OpenAiBlock(nn.Module):
    def __init__(self, width: int, activation: nn.Module):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", activation)
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, hidden_BLW: Tensor, mask_LL: Tensor) -> Tensor:
        normal_BLW = self.ln_1(hidden_BLW)
        hidden_BLW = hidden_BLW + self.attn(normal_BLW, normal_BLW, normal_BLW, attn_mask=mask_LL)[0]
        return hidden_BLW + self.mlp(self.ln_2(hidden_BLW))


def openai_text(activation: nn.Module) -> OpenAiText:
    torch.manual_seed(4)
    model = OpenAiText(SIZE, 20, 128, 2, 48, activation).eval()
    for parameter in model.parameters():  # biases of 0 and gains of 1 would show no mix-up
        nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.2)
    return model


@pytest.mark.parametrize(("activation", "module"), [("quick_gelu", QuickGelu()), ("gelu", nn.GELU())])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_in_openais_layout_becomes_a_folder_with_the_same_vectors(
    tmp_path: Path, activation: str, module: nn.Module, wrapped: bool
):
    reference = openai_text(module)
    # The rest of AudioCLIP's file, which is left out.
    others = {
        "visual.conv1.weight": torch.zeros(2),
        "audio.fc.weight": torch.zeros(2),
        "logit_scale_ai": torch.ones(()),
    }
    state = reference.state_dict() | others
    prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 3, "state_dict": prefixed} if wrapped else state, tmp_path / "clip.pt")
    write_clip_text(
        str(tmp_path / "clip.pt"),
        str(tmp_path / "m"),
        tokenizer=str(write_tokenizer(tmp_path / "tokenizer")),
        activation=activation,  # type: ignore[arg-type]
    )
    ours = encoder(tmp_path / "m")
    batch = ours.tokenize(TEXTS)
    with torch.no_grad():
        expected_BD = reference(batch["input_ids"])
    assert ours.width == 48
    torch.testing.assert_close(ours(batch), expected_BD, rtol=1e-5, atol=1e-5)
    assert torch.pdist(expected_BD).min() > 0.1


def test_the_other_activation_gives_other_vectors(tmp_path: Path):
    """So the test above can tell them apart."""
    reference = openai_text(QuickGelu())
    torch.save(reference.state_dict(), tmp_path / "clip.pt")
    tokenizer = str(write_tokenizer(tmp_path / "tokenizer"))
    write_clip_text(str(tmp_path / "clip.pt"), str(tmp_path / "m"), tokenizer=tokenizer, activation="gelu")
    ours = encoder(tmp_path / "m")
    batch = ours.tokenize(TEXTS)
    with torch.no_grad():
        assert (ours(batch) - reference(batch["input_ids"])).abs().max() > 1e-3


def test_the_tower_of_rn50_has_its_published_numbers():
    """Width 512, 8 heads, 12 layers, projection 1024: from the shapes alone, and counted by hand."""
    with torch.device("meta"):
        state = OpenAiText(49_408, 77, 512, 12, 1024, QuickGelu()).state_dict()
    config, renamed = clip_text_from_state(state, where="RN50")
    numbers = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "projection_dim")
    assert [getattr(config, name) for name in numbers] == [512, 2048, 12, 8, 1024]
    assert (config.max_position_embeddings, config.eos_token_id, config.hidden_act) == (77, 49_407, "quick_gelu")
    layer = 4 * (512 * 512 + 512) + (512 * 2048 + 2048) + (2048 * 512 + 512) + 2 * 2 * 512
    count = (49_408 + 77) * 512 + 12 * layer + 2 * 512 + 512 * 1024
    assert sum(tensor.numel() for tensor in renamed.values()) == count
    assert round(count / 1e6, 1) == 63.7
