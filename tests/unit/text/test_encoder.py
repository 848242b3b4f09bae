from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from raysem.errors import ConfigError, DataError
from raysem.text.encoder import TextEncoder, TextEncoderSettings

TEXTS = ["a dog barks", "this is the sound of rain", "siren"]


def encoder(folder: Path, **settings: object) -> TextEncoder:
    return TextEncoder(TextEncoderSettings.model_validate({"name": str(folder), "max_tokens": 30} | settings))


def copy_with(folder: Path, to: Path, change) -> Path:
    shutil.copytree(folder, to)
    weights = load_file(to / "model.safetensors")
    change(weights)
    save_file(weights, to / "model.safetensors", {"format": "pt"})
    return to


@pytest.fixture(params=["bert", "roberta"])
def folder(request: pytest.FixtureRequest, bert_folder: Path, roberta_folder: Path) -> Path:
    return {"bert": bert_folder, "roberta": roberta_folder}[request.param]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_each_text_has_the_vector_that_transformers_gives_it_alone(folder: Path, pooling: str):
    """The slow twin: one text at a time, no padding, plain mean."""
    model = encoder(folder, pooling=pooling)
    reference, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    text_BW = model(model.tokenize(TEXTS))
    assert text_BW.shape == (3, model.width) == (3, 32)
    for text, vector_W in zip(TEXTS, text_BW, strict=True):
        with torch.no_grad():
            hidden_LW = reference(**tokenizer([text], return_tensors="pt")).last_hidden_state[0]
        expected_W = hidden_LW[0] if pooling == "cls" else hidden_LW.mean(0)
        torch.testing.assert_close(vector_W, expected_W, rtol=0, atol=2e-6)


def test_a_frozen_encoder_has_no_gradient_and_no_dropout_even_in_training(folder: Path):
    model = encoder(folder).train()
    tokens = model.tokenize(TEXTS)
    assert model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model(tokens).requires_grad
    assert torch.equal(model(tokens), model(tokens))


def test_a_trained_encoder_has_gradients_in_every_weight(folder: Path):
    model = encoder(folder, trained=True, pooling="cls").train()
    model(model.tokenize(TEXTS)).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert not torch.equal(model(model.tokenize(TEXTS)), model(model.tokenize(TEXTS)))


def test_long_texts_are_cut_to_max_tokens(folder: Path):
    model = encoder(folder, max_tokens=6)
    tokens = model.tokenize(["dog " * 50, "dog"])
    assert tokens["input_ids"].shape == (2, 6)
    assert tokens["attention_mask"].sum(1)[0] == 6


def test_more_tokens_than_the_encoder_has_positions_are_refused(folder: Path):
    assert encoder(folder, max_tokens=40).tokenize(["dog " * 90])["input_ids"].shape == (1, 40)
    with pytest.raises(ConfigError, match=r"text.max_tokens: .* reads at most 40 tokens, got 41"):
        encoder(folder, max_tokens=41)


def test_the_end_of_text_is_clips_alone(folder: Path):
    with pytest.raises(ConfigError, match=r"^text.pooling: eos is CLIP's, .* is a (ro)?bert(a)? model: expected mean"):
        encoder(folder, pooling="eos")


def test_every_setting_that_does_not_fit_is_named_at_once(bert_folder: Path):
    settings = TextEncoderSettings(name=str(bert_folder), pooling="eos", max_tokens=41)
    with pytest.raises(
        ConfigError, match=r"^model.text.pooling: .*; model.text.max_tokens: .* at most 40 tokens, got 41$"
    ):
        TextEncoder(settings, key="model.text.name")
    with pytest.raises(ConfigError, match=r"^teacher.text_encoder: eos .*; teacher.text_encoder: .* at most 40"):
        TextEncoder(settings, key="teacher.text_encoder")


def test_the_longest_text_fits_the_positions(folder: Path):
    model = encoder(folder, max_tokens=40)
    assert torch.isfinite(model(model.tokenize(["dog " * 90]))).all()


@pytest.mark.parametrize("texts", [[], "a dog"])
def test_anything_but_a_list_of_texts_is_refused(bert_folder: Path, texts: object):
    with pytest.raises(ValueError, match="list of at least one text"):
        encoder(bert_folder).tokenize(texts)


def test_a_missing_weight_is_an_error_that_names_it(bert_folder: Path, tmp_path: Path):
    broken = copy_with(bert_folder, tmp_path / "m", lambda w: w.pop("encoder.layer.1.output.dense.weight"))
    with pytest.raises(DataError, match=r"missing \['encoder.layer.1.output.dense.weight'\], left over \[\]"):
        encoder(broken)


def test_a_left_over_weight_is_an_error_that_names_it(bert_folder: Path, tmp_path: Path):
    broken = copy_with(bert_folder, tmp_path / "m", lambda w: w.update(adapter=torch.zeros(2)))
    with pytest.raises(DataError, match=r"missing \[\], left over \['adapter'\]"):
        encoder(broken)


def test_a_weight_of_another_shape_is_an_error(bert_folder: Path, tmp_path: Path):
    name = "encoder.layer.0.output.dense.bias"
    broken = copy_with(bert_folder, tmp_path / "m", lambda w: w.update({name: torch.zeros(3)}))
    with pytest.raises(DataError, match="the weights cannot be loaded"):
        encoder(broken)


def test_heads_of_pretraining_and_the_pooler_are_left_out(bert_folder: Path, tmp_path: Path):
    head = {"cls.predictions.bias": torch.zeros(64), "embeddings.position_ids": torch.arange(40)[None]}
    published = copy_with(bert_folder, tmp_path / "m", lambda w: w.update(head))
    model = encoder(published)
    assert not [name for name in model.state_dict() if "pooler" in name or "cls." in name]
    torch.testing.assert_close(model(model.tokenize(TEXTS)), encoder(bert_folder)(model.tokenize(TEXTS)))


def test_weights_in_half_precision_are_read_as_float32(bert_folder: Path, tmp_path: Path):
    half = copy_with(bert_folder, tmp_path / "m", lambda w: w.update({name: t.half() for name, t in w.items()}))
    assert {tensor.dtype for tensor in encoder(half).state_dict().values()} == {torch.float32}


def test_given_weights_replace_those_of_the_folder(bert_folder: Path, tmp_path: Path):
    weights = {name: tensor * 2 for name, tensor in encoder(bert_folder).base.state_dict().items()}
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "vocab.txt", "tokenizer_config.json"):
        shutil.copy(bert_folder / name, bare / name)
    model = TextEncoder(TextEncoderSettings(name=str(bare), max_tokens=30), weights=weights)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.base.state_dict().items())
    weights.pop("embeddings.word_embeddings.weight")
    with pytest.raises(DataError, match=r"missing \['embeddings.word_embeddings.weight'\]"):
        TextEncoder(TextEncoderSettings(name=str(bare), max_tokens=30), weights=weights)


@pytest.mark.parametrize(
    ("absent", "message"), [("config.json", "has no config.json"), ("vocab.txt", "has no tokenizer")]
)
def test_a_folder_without_a_needed_file_is_refused(bert_folder: Path, tmp_path: Path, absent: str, message: str):
    shutil.copytree(bert_folder, tmp_path / "m")
    (tmp_path / "m" / absent).unlink()
    (tmp_path / "m" / "tokenizer.json").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match=message):
        encoder(tmp_path / "m")


def test_a_model_that_is_no_text_encoder_is_refused(tmp_path: Path, bert_folder: Path):
    from transformers import T5Config

    shutil.copytree(bert_folder, tmp_path / "m")
    T5Config().save_pretrained(tmp_path / "m")
    with pytest.raises(ConfigError, match="is a t5 model, expected a text encoder"):
        encoder(tmp_path / "m")


def test_a_model_that_reads_no_tokens_is_refused(tmp_path: Path, bert_folder: Path):
    from transformers import CLIPVisionConfig

    shutil.copytree(bert_folder, tmp_path / "m")
    CLIPVisionConfig().save_pretrained(tmp_path / "m")
    with pytest.raises(ConfigError, match="is a clip_vision_model model, expected a text encoder"):
        encoder(tmp_path / "m")


def test_a_configuration_that_contradicts_itself_is_one_line(tmp_path: Path, bert_folder: Path):
    shutil.copytree(bert_folder, tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "clip_text_model", "hidden_size": "wide"}')
    with pytest.raises(ConfigError, match=r"^text.name: .* cannot be read as a Hugging Face model \(.*hidden_size"):
        encoder(tmp_path / "m")


def test_given_weights_of_another_shape_are_an_error(bert_folder: Path):
    weights = encoder(bert_folder).base.state_dict() | {"encoder.layer.0.output.dense.bias": torch.zeros(3)}
    with pytest.raises(DataError, match=r"weights cannot be loaded .*encoder.layer.0.output.dense.bias"):
        TextEncoder(TextEncoderSettings(name=str(bert_folder), max_tokens=30), weights=weights)
