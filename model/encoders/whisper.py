"""Whisper's encoder (Radford et al., arXiv 2212.04356), and Voxtral's (2507.13264), which has the same architecture:
log-mel spectrograms of 30 s to 50 frames a second, frozen. The decoder is not loaded.

Audio is encoded in windows of 30 s: longer audio is split every 30 s, and each window is encoded independently. 30 s
are exactly 1,500 frames, so N samples always give ceil(N / 320) frames. A window is

- `padded`: silence (zeros) is appended to the audio up to 30 s and encoded with it, as in training; only the frames of
  the audio are kept;
- `cut`: only the part of that spectrogram that belongs to the audio is encoded, with the positions of its frames. This
  takes less time, but the encoder was not trained for it.

Either way the spectrogram is that of the whole window, silence included: values more than 8 (80 dB) below its maximum
are raised to that floor, as in WhisperFeatureExtractor.

W windows, N samples, M mel bins, F spectrogram frames (100 a second), T encoder frames."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.batch import Length
from model.encoders.encoder import Encoder
from model.errors import UserError
from model.packing import packed_lengths

STRIDE = 2  # spectrogram frames an encoder frame
FLOOR = 1e-10  # of the power in a mel bin; its log10 is -10


class WhisperEncoder(Encoder):
    """A WhisperEncoder or VoxtralEncoder of transformers."""

    reads = ("n_fft", "hop_length", "n_samples", "mel_filters")
    windows = ("padded", "cut")
    key_mapping = {r"^(model\.)?(encoder|audio_tower)\.": ""}

    @classmethod
    def own_config(cls, config: Any) -> Any:
        return getattr(config, "audio_config", config)

    @classmethod
    def architecture(cls, model_type: str) -> Any:
        if model_type == "whisper":
            from transformers.models.whisper.modeling_whisper import WhisperEncoder as Whisper

            return Whisper
        from transformers.models.voxtral.modeling_voxtral import VoxtralEncoder

        return VoxtralEncoder

    @classmethod
    def usual_extractor(cls, config: Any) -> Any:
        from transformers import WhisperFeatureExtractor

        seconds = config.max_source_positions * STRIDE // 100
        return WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=seconds)

    @property
    def body(self) -> Any:
        return self.model

    def prepare(self, extractor: Any) -> None:
        config = self.model.config
        self.hop, self.n_fft = int(extractor.hop_length), int(extractor.n_fft)
        self.frames = int(config.max_source_positions)
        self.samples = self.frames * STRIDE * self.hop  # of a window
        filters = torch.from_numpy(extractor.mel_filters).to(torch.float32).T.contiguous()  # [M, n_fft / 2 + 1]
        made, needed = (len(filters), int(extractor.n_samples)), (config.num_mel_bins, self.samples)
        if made != needed:
            raise UserError(
                f"the encoder's preprocessor_config.json gives {made[0]} mel bins of {made[1]:,} samples, its "
                f"config.json expects {needed[0]} of {needed[1]:,}; use a checkpoint with files that belong together"
            )
        if getattr(extractor, "dither", 0.0):
            raise UserError("the encoder's preprocessor_config.json adds noise (dither); set dither to 0.0 in it")
        self.register_buffer("filters", filters.to(self.device), persistent=False)
        self.register_buffer("hann", torch.hann_window(self.n_fft, device=self.device), persistent=False)

    def preprocessing(self) -> dict[str, Any]:
        log_mel = f"{len(self.get_buffer('filters'))} bins, {self.n_fft} points, hop {self.hop}"
        return {"log_mel": log_mel, "window": self.window, "window_seconds": self.samples // self.sample_rate}

    def out_len(self, num_samples: Length) -> Length:
        """ceil(N / 320): one frame at least."""
        return (num_samples + STRIDE * self.hop - 1) // (STRIDE * self.hop)

    def encode_one(self, wave: Tensor) -> Tensor:
        return torch.cat([self._encode([window], packed=False) for window in wave.split(self.samples)])

    def encode_packed(self, waves: tuple[Tensor, ...], lengths: Tensor) -> Tensor:
        return self._encode([window for wave in waves for window in wave.split(self.samples)], packed=True)

    def _encode(self, windows: list[Tensor], packed: bool) -> Tensor:
        """W windows [N] -> [sum T, dim]; more than one only when packed."""
        mels, counts = self.log_mel(windows).to(self.model.dtype), [int(self.out_len(len(wave))) for wave in windows]
        if self.window == "cut":
            parts = [self._embed(mel[None, :, : STRIDE * count])[0] for mel, count in zip(mels, counts, strict=True)]
        else:
            parts = list(self._embed(mels))
        hidden, options = torch.cat(parts)[None], {}  # [1, T of all windows, D]
        if packed:
            options["packing"] = packed_lengths(torch.tensor([len(part) for part in parts]), hidden.device)
        frames = self.model.layer_norm(self.read(self.outputs(hidden, attention_mask=None, **options)))[0]
        if self.window == "cut":
            return frames
        return torch.cat([window[:count] for window, count in zip(frames.split(self.frames), counts, strict=True)])

    def _embed(self, mels: Tensor) -> Tensor:  # [W, M, F] -> [W, F / 2, D]
        hidden = F.gelu(self.model.conv2(F.gelu(self.model.conv1(mels)))).permute(0, 2, 1)
        return hidden + self.model.embed_positions.weight[: hidden.shape[1]]

    def log_mel(self, windows: list[Tensor]) -> Tensor:
        """W waveforms [N] of at most one window -> [W, M, F] float32 of whole windows, as WhisperFeatureExtractor.

        The STFT ends n_fft samples after the longest waveform: there is no power in the silence after that."""
        length = min(self.samples, -(-(max(map(len, windows)) + self.n_fft) // self.hop) * self.hop)
        padded = torch.stack([F.pad(wave.to(torch.float32), (0, length - len(wave))) for wave in windows])
        spectrum = torch.stft(padded, self.n_fft, self.hop, window=self.get_buffer("hann"), return_complex=True)
        power = spectrum[..., :-1].abs() ** 2  # [W, n_fft / 2 + 1, F]
        logs = (self.get_buffer("filters") @ power).clamp(min=FLOOR).log10()
        logs = F.pad(logs, (0, STRIDE * self.frames - logs.shape[-1]), value=-10.0)
        return (torch.maximum(logs, logs.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0
