"""Importers against straightforward forwards, on random checkpoints of exactly the published names and shapes."""

# Shapes: B clips, T samples, S samples of a window, W bins, N frames, F mel bins, C channels, D width.

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig, BertModel

from raysem.errors import ConfigError, DataError
from raysem.models.clap import Clap, ClapSettings
from raysem.models.importers import clap2022
from raysem.models.importers.clap2022 import load_clap2022
from raysem.models.importers.panns import load_panns
from raysem.models.pretrained import EncoderSource, load_encoder
from raysem.models.start import build_clap
from raysem.models.teacher import TeacherSource, load_teacher
from raysem.text.encoder import TextEncoderSettings

STFT = "spectrogram_extractor.stft"
CHANNELS = (1, 64, 128, 256, 512, 1024, 2048)


def panns_state(seed: int) -> dict[str, Tensor]:
    """The 84 tensors of Cnn14; kernels that are no Fourier transform, so that a recomputed one would show."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    def batch_norm(name: str, width: int) -> dict[str, Tensor]:
        return {
            f"{name}.weight": 1 + random(width, scale=0.1),
            f"{name}.bias": random(width, scale=0.1),
            f"{name}.running_mean": random(width, scale=0.1),
            f"{name}.running_var": 1 + random(width, scale=0.1).abs(),
            f"{name}.num_batches_tracked": torch.tensor(1000),
        }

    state = {
        f"{STFT}.conv_real.weight": random(513, 1, 1024, scale=0.5),
        f"{STFT}.conv_imag.weight": random(513, 1, 1024, scale=0.5),
        "logmel_extractor.melW": random(513, 64, scale=0.01).abs(),
        **batch_norm("bn0", 64),
    }
    state["bn0.running_mean"] += 10  # dB
    state["bn0.running_var"] *= 30
    for block in range(1, 7):
        for conv, inputs in (("1", CHANNELS[block - 1]), ("2", CHANNELS[block])):
            width = CHANNELS[block]
            name = f"conv_block{block}"
            state[f"{name}.conv{conv}.weight"] = random(width, inputs, 3, 3, scale=(2 / (9 * inputs)) ** 0.5)
            state |= batch_norm(f"{name}.bn{conv}", width)
    for name, width in (("fc1", 2048), ("fc_audioset", 527)):
        state[f"{name}.weight"] = random(width, 2048, scale=0.02)
        state[f"{name}.bias"] = random(width, scale=0.02)
    return state


def reference_logmel(state: dict[str, Tensor], waveform_BT: Tensor) -> Tensor:
    """torchlibrosa: the STFT as two convolutions over the padded waveform."""
    padded_B1T = F.pad(waveform_BT[:, None], (512, 512), mode="reflect")
    real_BWN = F.conv1d(padded_B1T, state[f"{STFT}.conv_real.weight"], stride=320)
    imag_BWN = F.conv1d(padded_B1T, state[f"{STFT}.conv_imag.weight"], stride=320)
    mel_BNF = (real_BWN**2 + imag_BWN**2).transpose(1, 2) @ state["logmel_extractor.melW"]
    return 10 * torch.log10(torch.clamp(mel_BNF, min=1e-10))


def reference_cnn14(state: dict[str, Tensor], logmel_BNF: Tensor) -> Tensor:
    """Cnn14 in evaluation, written from its description."""

    def batch_norm(x: Tensor, name: str) -> Tensor:
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, variance, weight, bias = (
            state[f"{name}.{part}"].reshape(shape) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias

    x = batch_norm(logmel_BNF.transpose(1, 2), "bn0").transpose(1, 2)[:, None]
    for block in range(1, 7):
        for conv in "12":
            x = F.conv2d(x, state[f"conv_block{block}.conv{conv}.weight"], padding=1)
            x = torch.relu(batch_norm(x, f"conv_block{block}.bn{conv}"))
        if block < 6:
            x = F.avg_pool2d(x, kernel_size=(2, 2))
    x = torch.mean(x, dim=3)
    x = torch.max(x, dim=2).values + torch.mean(x, dim=2)
    return torch.relu(x @ state["fc1.weight"].T + state["fc1.bias"])


def reference_projection(state: dict[str, Tensor], prefix: str, embedding_BW: Tensor) -> Tensor:
    first_BD = embedding_BW @ state[f"{prefix}.linear1.weight"].T
    sum_BD = first_BD + F.gelu(first_BD) @ state[f"{prefix}.linear2.weight"].T
    weight, bias = state[f"{prefix}.layer_norm.weight"], state[f"{prefix}.layer_norm.bias"]
    return F.normalize(F.layer_norm(sum_BD, (len(weight),), weight, bias), dim=-1)


def clips(num_samples: int, num_clips: int = 2) -> Tensor:
    return torch.randn(num_clips, num_samples, generator=torch.Generator().manual_seed(3)) * 0.05


@pytest.fixture(scope="module")
def panns_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the sampler's NumPy arrays beside the weights, as PANNs saves them."""
    file = tmp_path_factory.mktemp("panns") / "Cnn14_mAP=0.431.pth"
    sampler = {"indexes": np.arange(20), "queue": [1, 2], "pointer": np.int64(3), "seed": np.random.rand(2)}
    torch.save({"iteration": 600_000, "model": panns_state(0), "sampler": sampler}, file)
    return file


def rewritten(file: Path, to: Path, change) -> Path:
    content = torch.load(file, weights_only=False)
    change(content["model"])
    torch.save({"model": content["model"]}, to)
    return to


def test_a_panns_checkpoint_gives_its_own_log_mel_embedding_and_classes(panns_file: Path):
    state, waveform_BT = panns_state(0), clips(32_000)
    panns = load_panns(str(panns_file))
    logmel_BNF = panns.log_mel(waveform_BT)
    torch.testing.assert_close(logmel_BNF, reference_logmel(state, waveform_BT), rtol=0, atol=1e-3)
    expected_BW = reference_cnn14(state, logmel_BNF)
    with torch.no_grad():
        embedding_BW = panns.encoder(logmel_BNF)
        classes_BK = panns.encoder.class_probabilities(embedding_BW)
    assert expected_BW.std() > 0.01
    torch.testing.assert_close(embedding_BW, expected_BW, rtol=1e-4, atol=1e-4)
    expected_BK = torch.sigmoid(expected_BW @ state["fc_audioset.weight"].T + state["fc_audioset.bias"])
    torch.testing.assert_close(classes_BK, expected_BK, rtol=1e-4, atol=1e-4)
    kernels, learned = 2 * 513 * 1024 + 513 * 64, sum(p.numel() for p in panns.encoder.parameters())
    assert len(state) == 84
    assert round(learned / 1e6, 2) == 80.75
    assert sum(buffer.numel() for buffer in panns.log_mel.state_dict().values()) == kernels


def test_panns_is_an_encoder_of_waveforms_too(panns_file: Path):
    panns, waveform_BT = load_panns(str(panns_file)), clips(32_000)
    source = EncoderSource(kind="panns", location=str(panns_file))
    whole, bare = load_encoder(source), load_encoder(source, with_classes=False)
    assert (bare.sample_rate, bare.crop_samples, bare.embedding_width) == (32_000, 320_000, 2048)
    with torch.no_grad():
        expected_BW = panns.encoder(panns.log_mel(waveform_BT))
        encoded = whole(waveform_BT)
        probability_BK = torch.sigmoid(whole.class_logits(encoded))
        bare_BW = bare(waveform_BT).embedding_BW
    assert torch.equal(encoded.embedding_BW, expected_BW)
    assert torch.equal(bare_BW, expected_BW)
    assert encoded.map_BWFN.shape == (2, 2048, 2, 3)
    torch.testing.assert_close(probability_BK, panns.encoder.class_probabilities(expected_BW))
    assert whole.state_dict().keys() - bare.state_dict().keys() == {
        "network.fc_audioset.weight",
        "network.fc_audioset.bias",
    }


def test_a_clap_model_starts_from_panns_with_its_kernels_at_its_own_sample_rate(panns_file: Path, bert_folder: Path):
    text = TextEncoderSettings(name=str(bert_folder), max_tokens=30)
    model = build_clap(ClapSettings(audio_weights=str(panns_file), text=text, embedding_width=16), seed=0).eval()
    assert (model.sample_rate, model.settings.log_mel.kernels) == (44_100, "stored")
    state, waveform_BT = panns_state(0), clips(44_100, 1)
    torch.testing.assert_close(model.log_mel.melW, state["logmel_extractor.melW"])
    with torch.no_grad():
        embedding_BW = model.audio_encoder(model.log_mel(waveform_BT))
    expected_BW = reference_cnn14(state, reference_logmel(state, waveform_BT))
    torch.testing.assert_close(embedding_BW, expected_BW, rtol=1e-3, atol=1e-3)
    assert not [name for name in model.state_dict() if "fc_audioset" in name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("logmel_extractor.melW"), r"missing \['logmel_extractor.melW'\], left over \[\]"),
        (lambda m: m.update(extra=torch.zeros(1)), r"missing \[\], left over \['extra'\]"),
        (lambda m: m.update({"fc1.bias": torch.zeros(3)}), r"of another shape \['fc1.bias \(3,\) instead of \(2048,\)"),
    ],
)
def test_a_panns_checkpoint_that_does_not_fit_is_refused(panns_file: Path, tmp_path: Path, change, message: str):
    with pytest.raises(DataError, match=message):
        load_panns(str(rewritten(panns_file, tmp_path / "x.pth", change)))


class Touch:
    """What an attacker would put into a pickle: a call that runs while it is read."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.marker,))


def test_a_pth_with_code_in_it_is_refused_and_not_run(tmp_path: Path):
    marker = tmp_path / "ran"
    torch.save({"model": {"x": torch.zeros(1)}, "code": Touch(marker)}, tmp_path / "evil.pth")
    with pytest.raises(DataError, match="cannot be read with weights_only=True"):
        load_panns(str(tmp_path / "evil.pth"))
    assert not marker.exists()


def test_a_pth_that_is_no_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="audio_weights: no file"):
        load_panns(str(tmp_path / "nothing.pth"))
    for content in (b"hello", b"", b"PK\x03\x04" + bytes(99), b"\x80\x02}q\x00", bytes(500)):
        (tmp_path / "text.pth").write_bytes(content)
        with pytest.raises(DataError, match="cannot be read with weights_only=True"):
            load_panns(str(tmp_path / "text.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(DataError, match="expected names with tensors"):
        load_panns(str(tmp_path / "list.pth"))


def clap_state(bert: BertModel) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    state = {f"audio_encoder.base.{name}": tensor for name, tensor in panns_state(1).items()}
    state |= {f"caption_encoder.base.{name}": tensor for name, tensor in bert.state_dict().items()}
    for encoder, width in (("audio_encoder", 2048), ("caption_encoder", 768)):
        prefix = f"{encoder}.projection"
        state[f"{prefix}.linear1.weight"] = torch.randn(1024, width, generator=generator) * width**-0.5
        state[f"{prefix}.linear2.weight"] = torch.randn(1024, 1024, generator=generator) / 32
        state[f"{prefix}.layer_norm.weight"] = 1 + torch.randn(1024, generator=generator) * 0.1
        state[f"{prefix}.layer_norm.bias"] = torch.randn(1024, generator=generator) * 0.1
    return {"logit_scale": torch.tensor(3.3)} | state


def bert_base_folder(folder: Path) -> Path:
    """Configuration and tokenizer of a BERT-base, without weights."""
    folder.mkdir()
    words = ["a", "dog", "barks", "this", "is", "the", "sound", "of", "rain", "siren"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    BertConfig().save_pretrained(folder)
    return folder


def test_a_clap_2022_checkpoint_gives_the_embeddings_of_its_equations(tmp_path: Path):
    """The one test at real size: 292 tensors, 196.30 M numbers."""
    torch.manual_seed(0)
    bert = BertModel(BertConfig()).eval()
    state = clap_state(bert)
    assert len(state) == 292
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    numbers = sum(tensor.numel() for name, tensor in state.items() if not name.endswith(statistics))
    assert round(numbers / 1e6, 2) == 196.30
    text_folder = bert_base_folder(tmp_path / "bert-base")
    # An older transformers stored these numbers too.
    positions = {"caption_encoder.base.embeddings.position_ids": torch.arange(512)[None]}
    torch.save({"epoch": 20, "model": state | positions}, tmp_path / "clap.pth")

    source = TeacherSource(kind="clap2022", location=str(tmp_path / "clap.pth"), text_encoder=str(text_folder))
    teacher = load_teacher(source)
    (tmp_path / "clap.pth").unlink()

    assert isinstance(teacher, Clap)
    assert (teacher.sample_rate, teacher.crop_samples, teacher.embedding_width) == (44_100, 220_500, 1024)
    assert teacher.scale().item() == pytest.approx(np.exp(3.3), rel=1e-6)
    waveform_BT = clips(44_100)
    base = {n.removeprefix("audio_encoder.base."): t for n, t in state.items() if n.startswith("audio_encoder.base.")}
    audio_BW = reference_cnn14(base, reference_logmel(base, waveform_BT))
    audio_BD = reference_projection(state, "audio_encoder.projection", audio_BW)
    np.testing.assert_allclose(teacher.embed_waveforms(waveform_BT.numpy()), audio_BD.numpy(), rtol=0, atol=2e-5)

    texts = ["a dog barks", "this is the sound of rain", "siren"]
    text_BD = torch.cat([_caption(bert, state, teacher, text) for text in texts])
    np.testing.assert_allclose(teacher.embed_texts(texts), text_BD.numpy(), rtol=0, atol=1e-5)


def _caption(bert: BertModel, state: dict[str, Tensor], teacher: Clap, text: str) -> Tensor:
    """[CLS] of one text padded to 100 tokens, as CLAP-2022 feeds it."""
    words = teacher.text_encoder.tokenize([text])["input_ids"]
    padded = F.pad(words, (0, 100 - words.shape[1]))
    with torch.no_grad():
        cls_BW = bert(input_ids=padded, attention_mask=(padded > 0).long()).last_hidden_state[:, 0]
    return reference_projection(state, "caption_encoder.projection", cls_BW)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("audio_encoder.base.bn0.bias", "pop"),
        ("audio_encoder.projection.linear2.weight", "pop"),
        ("caption_encoder.projection.layer_norm.bias", "pop"),
        ("caption_encoder.base.pooler.dense.bias", "pop"),
        ("caption_encoder.base.encoder.layer.0.output.dense.bias", "pop"),
        ("logit_scale", "pop"),
        ("audio_encoder.base.more", "add"),
        ("caption_encoder.base.more", "add"),
        ("caption_encoder.projection.more", "add"),
        ("more", "add"),
    ],
)
def test_a_clap_2022_checkpoint_that_does_not_fit_is_refused(
    bert_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: str
):
    """At a small text encoder; the file itself is left out, its reading is tested above."""
    state = _small_clap_state(bert_folder)
    if change == "pop":
        state.pop(name)
    else:
        state[name] = torch.zeros(2)
    monkeypatch.setattr(clap2022, "read_state_dict", lambda location, key: state)
    _shrink(monkeypatch)
    last = name.rsplit("base.", 1)[-1].removeprefix("audio_encoder.projection.")
    last = last.removeprefix("caption_encoder.projection.")
    word = "missing" if change == "pop" else "left over"
    with pytest.raises(DataError, match=rf"{word} \['(caption_encoder.base.)?{last}'\]"):
        load_clap2022("clap.pth", text_encoder=str(bert_folder))


def _shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = clap2022.TextEncoderSettings
    monkeypatch.setattr(clap2022, "TextEncoderSettings", lambda **options: settings(**(options | {"max_tokens": 30})))


def _small_clap_state(bert_folder: Path) -> dict[str, Tensor]:
    """Real names; only the text encoder is small, so that building it takes no time."""
    state = {f"audio_encoder.base.{name}": tensor for name, tensor in _panns_once().items()}
    bert = BertModel.from_pretrained(bert_folder)
    state |= {f"caption_encoder.base.{name}": tensor for name, tensor in bert.state_dict().items()}
    for encoder, width in (("audio_encoder", 2048), ("caption_encoder", 32)):
        prefix = f"{encoder}.projection"
        state[f"{prefix}.linear1.weight"] = torch.zeros(1024, width)
        state[f"{prefix}.linear2.weight"] = torch.zeros(1024, 1024)
        state[f"{prefix}.layer_norm.weight"] = torch.ones(1024)
        state[f"{prefix}.layer_norm.bias"] = torch.zeros(1024)
    return {"logit_scale": torch.tensor(3.3)} | state


@cache
def _panns_once() -> dict[str, Tensor]:
    return panns_state(0)
