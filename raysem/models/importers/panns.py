"""PANNs Cnn14 checkpoints (`Cnn14_mAP=0.431.pth` and its kind): 84 tensors under `model`.

The published one was trained at 32 kHz. CLAP-2022 runs it at 44.1 kHz with the mel matrix and STFT it came with, so
they are taken from the file and never computed anew.
"""

# Shapes: W bins of the Fourier transform, S samples of a window, F mel bins.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from raysem.audio.logmel import LogMel, LogMelSettings
from raysem.models.checkpoint import check_keys
from raysem.models.clap import Clap
from raysem.models.cnn14 import Cnn14, Cnn14Settings
from raysem.models.encoder import WaveformEncoder
from raysem.models.importers.network import NUM_CLASSES, load_network
from raysem.models.importers.pth import read_state_dict

# Name in the file: name in `LogMel`.
FRONT_END = {
    "logmel_extractor.melW": "melW",
    "spectrogram_extractor.stft.conv_real.weight": "stft_real",
    "spectrogram_extractor.stft.conv_imag.weight": "stft_imag",
}
# How the published checkpoint was trained; the mel band is that of its matrix and computed nowhere.
LOG_MEL = LogMelSettings(sample_rate=32_000, kernels="stored")


@dataclass(frozen=True)
class PannsCnn14:
    """A front end and an encoder with its classifier, as they lie in a PANNs checkpoint."""

    log_mel: LogMel
    encoder: Cnn14


def load_panns(location: str, *, log_mel: LogMelSettings = LOG_MEL, key: str = "audio_weights") -> PannsCnn14:
    """Read a PANNs Cnn14 `.pth`; every tensor is used, anything else is a DataError.

    Args:
        log_mel: sample rate at which the kernels of the file are to run, and their hop.
    """
    return panns_from_state(read_state_dict(location, key=key), log_mel=log_mel, where=location)


def load_panns_encoder(location: str, *, with_classes: bool = True, key: str = "encoder.location") -> WaveformEncoder:
    """The same as an encoder of waveforms in evaluation mode; without its classifier where asked for."""
    panns = load_panns(location, key=key)
    network = load_network(
        panns.encoder.settings, panns.encoder.state_dict(), with_classes=with_classes, where=location
    )
    return WaveformEncoder(panns.log_mel, network, crop_seconds=10.0).eval()


def panns_from_state(state: Mapping[str, Tensor], *, log_mel: LogMelSettings, where: str) -> PannsCnn14:
    """The same from the tensors, under the names that PANNs gives them."""
    front_end = LogMel(log_mel.model_copy(update={"kernels": "stored"}))
    encoder = Cnn14(Cnn14Settings(num_mels=log_mel.num_mels, num_classes=NUM_CLASSES))
    kernels = {source: front_end.get_buffer(name) for source, name in FRONT_END.items()}
    expected = dict(encoder.state_dict())
    # torchlibrosa's kernels are those of a convolution: (W, 1, S).
    expected |= {source: kernel[:, None] if "stft" in source else kernel for source, kernel in kernels.items()}
    check_keys(state, expected, where)
    encoder.load_state_dict({name: state[name] for name in encoder.state_dict()})
    mel_WF, real_WS, imag_WS = (state[source] for source in FRONT_END)
    return PannsCnn14(LogMel.from_kernels(log_mel, mel_WF, real_WS, imag_WS), encoder.eval())


def start_audio_encoder(model: Clap, panns: PannsCnn14) -> None:
    """Copy front end and encoder into a CLAP model; the classifier stays behind. The model's settings must fit."""
    encoder = {name: t for name, t in panns.encoder.state_dict().items() if not name.startswith("fc_audioset.")}
    check_keys(encoder, model.audio_encoder.state_dict(), "audio_encoder")
    check_keys(panns.log_mel.state_dict(), model.log_mel.state_dict(), "log_mel")
    model.audio_encoder.load_state_dict(encoder)
    model.log_mel.load_state_dict(panns.log_mel.state_dict())
