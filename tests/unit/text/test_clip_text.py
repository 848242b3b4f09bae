"""CLIP's text tower: which folders are read, what is left out, and what is refused. Numbers: tests/parity."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from raysem import storage
from raysem.errors import ConfigError, DataError
from raysem.models.importers.clip_text import clip_text_from_state, write_clip_text
from raysem.text.encoder import TextEncoder, TextEncoderSettings

TEXTS = ["dog", "an audio clip of a dog", "rain"]
_LETTERS = sorted(ByteLevel.alphabet())
VOCABULARY = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS), "do", "dog</w>", "<|startoftext|>", "<|endoftext|>"]
SIZE = len(VOCABULARY)
NUMBERS: dict[str, Any] = {
    "vocab_size": SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 20,
    "bos_token_id": SIZE - 2,
    "eos_token_id": SIZE - 1,
}
IMAGES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGES |= {"image_size": 8, "patch_size": 4}
SMALL_FILES = ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json")


def write_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(VOCABULARY)}))
    (folder / "merges.txt").write_text("#version: 0.2\nd o\ndo g</w>\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))


def build(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "model":
        return CLIPModel(CLIPConfig(text_config=NUMBERS, vision_config=IMAGES, projection_dim=24))
    if kind == "projected":
        return CLIPTextModelWithProjection(CLIPTextConfig(**NUMBERS, projection_dim=24))
    return CLIPTextModel(CLIPTextConfig(**NUMBERS))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("clip")
    for kind in ("model", "projected", "bare"):
        build(kind).save_pretrained(root / kind)
        write_tokenizer(root / kind)
    return {kind: root / kind for kind in ("model", "projected", "bare")}


@pytest.fixture(params=["model", "projected", "bare"])
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def encoder(folder: Path | str, **settings: object) -> TextEncoder:
    values = {"name": str(folder), "pooling": "eos", "max_tokens": 20} | settings
    return TextEncoder(TextEncoderSettings.model_validate(values))


def copy_with(folder: Path, to: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    shutil.copytree(folder, to)
    weights = load_file(to / "model.safetensors")
    change(weights)
    save_file(weights, to / "model.safetensors", {"format": "pt"})
    return to


def configured(folder: Path, to: Path, **changes: object) -> Path:
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_only_the_weights_that_count_are_held(folders: dict[str, Path]):
    tower = set(build("bare").state_dict())
    projected = {f"text_model.{name}" for name in tower} | {"text_projection.weight"}
    assert set(encoder(folders["model"]).base.state_dict()) == projected
    assert set(encoder(folders["projected"]).base.state_dict()) == projected
    assert set(encoder(folders["bare"]).base.state_dict()) == tower
    assert [encoder(folders[kind]).width for kind in ("model", "projected", "bare")] == [24, 24, 32]


def test_a_folder_behind_a_uri_is_read_as_one_on_the_disk(folder: Path):
    for file in folder.iterdir():
        storage.write_bytes(f"memory://clip/{folder.name}/{file.name}", file.read_bytes())
    ours, other = encoder(folder), encoder(f"memory://clip/{folder.name}")
    assert torch.equal(other(other.tokenize(TEXTS)), ours(ours.tokenize(TEXTS)))
    assert other.files_digest() == ours.files_digest()


def test_a_saved_state_and_the_small_files_bring_the_encoder_back(folder: Path, tmp_path: Path):
    first = encoder(folder, trained=True)
    with torch.no_grad():
        for parameter in first.base.parameters():
            parameter.mul_(1.5)
    for name, content in first.files.items():
        (tmp_path / name).write_bytes(content)
    assert sorted(first.files) == sorted(SMALL_FILES)
    again = TextEncoder(first.settings, location=str(tmp_path), weights=first.base.state_dict())
    assert again.width == first.width
    assert again.files_digest() == first.files_digest()
    state = again.base.state_dict()
    assert list(state) == list(first.base.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in first.base.state_dict().items())
    assert torch.equal(again(again.tokenize(TEXTS)), first(first.tokenize(TEXTS)))


def test_the_saved_state_is_a_folder_of_its_own_as_well(folder: Path, tmp_path: Path):
    first = encoder(folder)
    for name, content in first.files.items():
        (tmp_path / name).write_bytes(content)
    save_file(first.base.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    again = encoder(tmp_path)
    assert torch.equal(again(again.tokenize(TEXTS)), first(first.tokenize(TEXTS)))


def test_given_weights_that_do_not_fit_are_named(folder: Path):
    settings = TextEncoderSettings(name=str(folder), pooling="eos", max_tokens=20)
    state = dict(encoder(folder).base.state_dict())
    norm = next(name for name in state if name.endswith("final_layer_norm.bias"))
    with pytest.raises(DataError, match=r"missing \['text_model.final_layer_norm.bias'\], left over \[\]"):
        TextEncoder(settings, weights={name: tensor for name, tensor in state.items() if name != norm})
    with pytest.raises(DataError, match=r"missing \[\], left over \['text_model.adapter'\]"):
        TextEncoder(settings, weights=state | {"adapter": torch.zeros(2)})


def test_missing_and_left_over_weights_of_a_folder_are_named(folders: dict[str, Path], tmp_path: Path):
    broken = copy_with(folders["model"], tmp_path / "a", lambda w: w.pop("text_model.encoder.layers.1.mlp.fc1.bias"))
    with pytest.raises(DataError, match=r"missing \['text_model.encoder.layers.1.mlp.fc1.bias'\], left over \[\]"):
        encoder(broken)
    broken = copy_with(folders["model"], tmp_path / "b", lambda w: w.update(adapter=torch.zeros(2)))
    with pytest.raises(DataError, match=r"missing \[\], left over \['adapter'\]"):
        encoder(broken)
    broken = copy_with(
        folders["model"], tmp_path / "c", lambda w: w.update({"text_projection.weight": torch.zeros(7, 32)})
    )
    with pytest.raises(DataError, match=r"the weights cannot be loaded .*"):
        encoder(broken)


def test_position_numbers_of_older_versions_are_left_out(folders: dict[str, Path], tmp_path: Path):
    numbers = torch.arange(20)[None]
    for kind, name in (("model", "text_model.embeddings.position_ids"), ("bare", "embeddings.position_ids")):
        older = copy_with(folders[kind], tmp_path / kind, lambda w, name=name: w.update({name: numbers.clone()}))
        ours, same = encoder(folders[kind]), encoder(older)
        assert torch.equal(same(same.tokenize(TEXTS)), ours(ours.tokenize(TEXTS)))


@pytest.mark.parametrize("kind", ["model", "projected"])
def test_a_model_that_must_have_a_projection_is_refused_without(folders: dict[str, Path], tmp_path: Path, kind: str):
    broken = copy_with(folders[kind], tmp_path / "m", lambda w: w.pop("text_projection.weight"))
    with pytest.raises(DataError, match=r"missing \['text_projection.weight'\], left over \[\]"):
        encoder(broken)


def test_a_projection_is_left_over_in_a_model_that_says_it_has_none(folders: dict[str, Path], tmp_path: Path):
    odd = configured(folders["projected"], tmp_path / "m", architectures=["CLIPTextModel"])
    with pytest.raises(DataError, match=r"missing \[\], left over \['text_projection.weight'\]"):
        encoder(odd)


def test_where_the_configuration_names_no_class_the_weights_decide(folders: dict[str, Path], tmp_path: Path):
    for kind, width in (("projected", 24), ("bare", 32)):
        assert encoder(configured(folders[kind], tmp_path / kind, architectures=None)).width == width


def test_the_tokenizers_two_files_are_enough(folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "tokenizer_config.json").unlink()
    assert torch.equal(
        encoder(tmp_path / "m").tokenize(TEXTS)["input_ids"], encoder(folder).tokenize(TEXTS)["input_ids"]
    )


def test_long_texts_are_cut_and_still_end(folder: Path):
    ours = encoder(folder, max_tokens=6)
    ids_BL = ours.tokenize(["dog " * 40, "dog"])["input_ids"]
    assert ids_BL[0].tolist() == [SIZE - 2, *[VOCABULARY.index("dog</w>")] * 4, SIZE - 1]
    assert torch.isfinite(encoder(folder)(encoder(folder).tokenize(["dog " * 40]))).all()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_any_other_pooling_is_refused(folder: Path, pooling: str):
    with pytest.raises(ConfigError, match=rf"^text.pooling: .* is a CLIP model, .*: expected eos, got {pooling}$"):
        encoder(folder, pooling=pooling)


def test_the_defaults_of_other_encoders_are_refused_with_both_keys(folder: Path):
    message = rf"^text.pooling: .*: expected eos, got mean; text.max_tokens: {folder} reads at most 20 tokens, got 100$"
    with pytest.raises(ConfigError, match=message):
        TextEncoder(TextEncoderSettings(name=str(folder)))


def test_a_tokenizer_that_ends_texts_otherwise_is_refused(folders: dict[str, Path], tmp_path: Path):
    """Else transformers pools at the first token: one vector for all texts, since attention is causal."""
    odd = configured(folders["projected"], tmp_path / "m", eos_token_id=1)
    reference = CLIPTextModelWithProjection.from_pretrained(odd).eval()
    with torch.no_grad():
        text_BD = reference(**encoder(folders["projected"]).tokenize(TEXTS)).text_embeds
    torch.testing.assert_close(text_BD[1:], text_BD[:1].expand(2, -1))
    message = "the model pools at token 1 (eos_token_id 1), the tokenizer writes an empty text as"
    with pytest.raises(DataError, match=re.escape(message)):
        encoder(odd)


def test_a_frozen_encoder_has_no_gradient_and_a_trained_one_has_it_in_every_weight(folder: Path):
    frozen = encoder(folder).train()
    assert not frozen.base.training
    assert not frozen(frozen.tokenize(TEXTS)).requires_grad
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    trained = encoder(folder, trained=True).train()
    trained(trained.tokenize(TEXTS)).square().sum().backward()
    assert [name for name, parameter in trained.named_parameters() if parameter.grad is None] == []


def openai_state(**changes: Tensor | None) -> dict[str, Tensor]:
    """A tower of one layer in OpenAI's layout, all zeros; None takes a tensor away."""
    width, layer = 64, "transformer.resblocks.0."
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (SIZE, width),
        "positional_embedding": (20, width),
        "text_projection": (width, 24),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        f"{layer}attn.in_proj_weight": (3 * width, width),
        f"{layer}attn.in_proj_bias": (3 * width,),
        f"{layer}attn.out_proj.weight": (width, width),
        f"{layer}attn.out_proj.bias": (width,),
        f"{layer}mlp.c_fc.weight": (4 * width, width),
        f"{layer}mlp.c_fc.bias": (4 * width,),
        f"{layer}mlp.c_proj.weight": (width, 4 * width),
        f"{layer}mlp.c_proj.bias": (width,),
    }
    shapes |= {f"{layer}ln_{place}.{kind}": (width,) for place in (1, 2) for kind in ("weight", "bias")}
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    return {name: tensor for name, tensor in (state | changes).items() if tensor is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"text_projection": None},
            r"no text tower in OpenAI's layout, the matrices \['text_projection'\] are missing",
        ),
        ({"ln_final.bias": None}, r"missing \['text_model.final_layer_norm.bias'\], left over \[\]"),
        ({"adapter": torch.zeros(2)}, r"missing \[\], left over \['adapter'\]"),
        (
            {"transformer.resblocks.0.attn.in_proj_bias": torch.zeros(191)},
            r"in_proj_bias \(191,\) is not query, key and",
        ),
        ({"transformer.resblocks.0.ln_1.bias": torch.zeros(9)}, r"layer_norm1.bias \(9,\) instead of \(64,\)"),
        ({"transformer.resblocks.2.ln_1.bias": torch.zeros(64)}, r"missing \['text_model.encoder.layers.1"),
        ({"token_embedding.weight": torch.zeros(SIZE, 63)}, "is 63 wide, expected a multiple of 64"),
    ],
)
def test_a_state_in_openais_layout_that_does_not_fit_is_refused(changes: dict[str, Tensor | None], message: str):
    clip_text_from_state(openai_state(), where="clip.pt")
    with pytest.raises(DataError, match=rf"^clip.pt: .*{message}"):
        clip_text_from_state(openai_state(**changes), where="clip.pt")


def test_a_folder_to_take_the_tokenizer_from_must_have_one(tmp_path: Path):
    torch.save(openai_state(), tmp_path / "clip.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"^tokenizer: .*empty has none: one of tokenizer.json"):
        write_clip_text(str(tmp_path / "clip.pt"), str(tmp_path / "m"), tokenizer=str(tmp_path / "empty"))
    assert not (tmp_path / "m").exists()
