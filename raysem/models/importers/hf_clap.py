"""LAION's CLAP (HTS-AT and RoBERTa) in the layout of Hugging Face: `ClapModel` by name or folder."""

# Shapes: B clips or texts in the batch, T samples, W bins of the Fourier transform, N frames, F mel bins, D width.

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysem.errors import ConfigError, DataError
from raysem.models.clap import weights_digest
from raysem.models.protocol import by_length, checked_waveforms, exact_evaluation
from raysem.text.base import pickled_code
from raysem.text.encoder import quiet_transformers, read_small_files
from raysem.text.hub import model_folder

MAX_TOKENS = 77  # as LAION trained; longer texts are cut
AMIN = 1e-10


class HfClap(nn.Module):
    """A `ClapModel` behind the interface of `Clap`: waveforms and tokens in, unit vectors out.

    The features are those of `ClapFeatureExtractor`, computed as a batch on the model's device, except for one thing:
    for a model with fusion the extractor marks one clip of each batch, drawn at random, as longer than it is, and its
    embedding then depends on the draw. Here no clip is marked. Clips are crops of at most `crop_samples`: shorter ones
    are repeated or padded as the extractor's settings say, longer ones are an error.

    Args:
        model: a `transformers.ClapModel`.
        extractor, tokenizer: its `ClapFeatureExtractor` and its tokenizer.
        files_digest: digest of the files that configure the two.
    """

    mel_WF: Tensor
    window: Tensor

    def __init__(self, model: Any, extractor: Any, tokenizer: Any, *, files_digest: str = ""):
        super().__init__()
        self.model = model
        self._extractor, self._tokenizer, self._files_digest = extractor, tokenizer, files_digest
        mel_WF = extractor.mel_filters if extractor.truncation == "fusion" else extractor.mel_filters_slaney
        self.register_buffer("mel_WF", torch.from_numpy(np.asarray(mel_WF, dtype=np.float64)), persistent=False)
        self.register_buffer(
            "window", torch.hann_window(extractor.fft_window_size, dtype=torch.float64), persistent=False
        )

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms."""
        return int(self._extractor.sampling_rate)

    @property
    def crop_samples(self) -> int:
        """Length of a crop, 10 s for the published models."""
        return int(self._extractor.nb_max_samples)

    @property
    def embedding_width(self) -> int:
        """D, the width of the shared space."""
        return int(self.model.config.projection_dim)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.logit_scale_a.device

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token numbers and their mask, padded to the longest text."""
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def encode_audio(self, waveform_BT: Tensor) -> Tensor:
        """Unit vectors audio_BD."""
        logmel_BNF = self._log_mel(self._padded(waveform_BT.to(self.device)))
        channels = 4 if self._extractor.truncation == "fusion" else 1
        logmel_BCNF = logmel_BNF[:, None].expand(-1, channels, -1, -1)
        is_longer = torch.zeros(len(logmel_BCNF), 1, dtype=torch.bool, device=self.device)
        output = self.model.get_audio_features(input_features=logmel_BCNF, is_longer=is_longer)
        return F.normalize(output.pooler_output.float(), dim=-1)

    def encode_text(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Unit vectors text_BD from `tokenize(texts)`."""
        output = self.model.get_text_features(**{name: tensor.to(self.device) for name, tensor in tokens.items()})
        return F.normalize(output.pooler_output.float(), dim=-1)

    def scale(self) -> Tensor:
        """The factor of the similarities, audio to text."""
        return self.model.logit_scale_a.exp()

    def embed_waveforms(self, waveforms_BT: np.ndarray) -> np.ndarray:
        """Unit vectors (B, D), float32, of mono waveforms at `sample_rate`."""
        waveform_BT = checked_waveforms(waveforms_BT)
        with exact_evaluation(self):
            return self.encode_audio(waveform_BT).cpu().numpy()

    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """Unit vectors (B, D), float32, of texts."""
        result_BD = np.empty((len(texts), self.embedding_width), dtype=np.float32)
        with exact_evaluation(self):
            for index_B in by_length(texts, batch_size):
                result_BD[index_B] = self.encode_text(self.tokenize([texts[i] for i in index_B])).cpu().numpy()
        return result_BD

    def fingerprint(self) -> str:
        """SHA-256 over weights, front end, tokenizer and how they are used."""
        extractor = {k: v for k, v in self._extractor.to_dict().items() if isinstance(v, int | float | str | bool)}
        parts = [json.dumps([extractor, MAX_TOKENS], sort_keys=True), self._files_digest, weights_digest(self.model)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _padded(self, waveform_BT: Tensor) -> Tensor:
        length, full = waveform_BT.shape[1], self.crop_samples
        if length > full or not length:
            raise ValueError(f"this model takes crops of 1 to {full} samples, got {length}: crop the clips first")
        if self._extractor.padding in ("repeat", "repeatpad"):
            whole = self._extractor.padding == "repeatpad"
            repeats = full // length if whole else math.ceil(full / length)
            waveform_BT = waveform_BT.repeat(1, repeats)[:, :full]
        return F.pad(waveform_BT, (0, full - waveform_BT.shape[1]))

    def _log_mel(self, waveform_BT: Tensor) -> Tensor:
        size, hop = self._extractor.fft_window_size, self._extractor.hop_length
        # In float64 as the extractor: beside a pure tone, float32 has a noise floor that shows in the embedding.
        with torch.autocast(waveform_BT.device.type, enabled=False):
            spectrum_BWN = torch.stft(
                waveform_BT.double(), size, hop, window=self.window, pad_mode="reflect", return_complex=True
            )
            power_BNW = torch.view_as_real(spectrum_BWN).square().sum(-1).transpose(1, 2)
            return (10 * (power_BNW @ self.mel_WF).clamp(min=AMIN).log10()).float()


def load_hf_clap(name: str, *, device: str | torch.device = "cpu", key: str = "teacher.location") -> HfClap:
    """The model by name on the Hub or by folder, in evaluation mode; missing or left-over weights are a DataError."""
    from transformers import AutoConfig, AutoTokenizer, ClapFeatureExtractor, ClapModel

    with model_folder(name, key=key) as folder, quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            if config.model_type != "clap":
                raise ConfigError(f"{key}: {name} is a {config.model_type} model, expected clap")
            extractor = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{key}: {name} cannot be read as a ClapModel ({_one_line(error)})") from error
        try:
            loaded: Any = ClapModel.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        except pickle.UnpicklingError as error:
            raise pickled_code(name) from error
        except (OSError, ValueError, RuntimeError, EOFError) as error:
            raise DataError(f"{name}: the weights cannot be loaded ({_one_line(error)})") from error
        files = read_small_files(folder)
    model, info = loaded
    missing, left_over = sorted(info["missing_keys"]), sorted(k for k in info["unexpected_keys"] if not _is_left_out(k))
    if missing or left_over:
        raise DataError(f"{name}: weights do not fit ClapModel: missing {missing}, left over {left_over}")
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
    return HfClap(model, extractor, tokenizer, files_digest=digest).to(device).eval()


def _is_left_out(key: str) -> bool:
    """Position numbers of RoBERTa, which older versions stored, and which hold no knowledge."""
    return key == "text_model.embeddings.position_ids"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__
