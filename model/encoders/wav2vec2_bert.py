"""w2v-BERT 2.0 (Seamless Communication, arXiv 2312.05187): Kaldi filter banks to 50 frames a second, frozen.

A Conformer with relative positions inside its attention, which cannot be packed: utterances are encoded one by one."""

from threading import Lock
from typing import Any

import torch
from torch import Tensor

from model.batch import Length
from model.encoders.encoder import Encoder
from model.errors import UserError

LENGTH, HOP, POINTS = 400, 160, 512  # samples: frame length, frame shift, FFT length
PREEMPHASIS, FLOOR = 0.97, 1.192092955078125e-07

_positions = Lock()
"""transformers caches the position embeddings of the last length in the model, which threads share."""


class Wav2Vec2BertEncoder(Encoder):
    """A Wav2Vec2BertModel of transformers."""

    reads = ("mel_filters", "window", "stride")

    @classmethod
    def usual_extractor(cls, config: Any) -> Any:
        from transformers import SeamlessM4TFeatureExtractor

        bins = config.feature_projection_input_dim // 2
        return SeamlessM4TFeatureExtractor(feature_size=bins, num_mel_bins=bins)

    def drop_final_norm(self) -> None:
        """There is none."""

    def prepare(self, extractor: Any) -> None:
        filters = torch.from_numpy(extractor.mel_filters).to(torch.float64)  # [POINTS / 2 + 1, bins]
        self.stride, needed = int(extractor.stride), self.model.config.feature_projection_input_dim
        if filters.shape[1] * self.stride != needed:
            raise UserError(
                f"the encoder's preprocessor_config.json gives {filters.shape[1]} mel bins, {self.stride} frames "
                f"stacked, its config.json expects {needed} values; use a checkpoint with files that belong together"
            )
        self.register_buffer("filters", filters.to(self.device), persistent=False)
        povey = torch.from_numpy(extractor.window).to(torch.float64)
        self.register_buffer("povey", povey.to(self.device), persistent=False)

    def preprocessing(self) -> dict[str, Any]:
        return {"fbank": f"{self.get_buffer('filters').shape[1]} bins, {self.stride} frames"}

    def out_len(self, num_samples: Length) -> Length:
        """Pairs of 25 ms filter bank frames, one every 10 ms; an odd frame at the end is dropped. The shortest
        utterance has 35 ms."""
        return ((num_samples - LENGTH) // HOP + 1) // self.stride

    def encode_one(self, wave: Tensor) -> Tensor:
        body = self.model.encoder
        hidden, _ = self.model.feature_projection(self.fbank(wave)[None].to(self.model.dtype))
        options: dict[str, Any] = {"attention_mask": None, "conv_attention_mask": None}
        if body.embed_positions is not None:
            with _positions:
                options["relative_position_embeddings"] = body.embed_positions(hidden)
        return self.read(self.outputs(hidden, **options))[0]

    def fbank(self, wave: Tensor) -> Tensor:
        """[N] -> [T, stride x bins] float32, as SeamlessM4TFeatureExtractor: log mel filter banks, each bin with mean 0
        and variance 1 over the utterance. In float64, as there."""
        frames = (wave.to(torch.float64) * 2**15).unfold(0, LENGTH, HOP)  # [F, LENGTH], in the range of 16-bit integers
        frames = frames - frames.mean(1, keepdim=True)
        before = torch.cat([frames[:, :1], frames[:, :-1]], 1)
        spectrum = torch.fft.rfft((frames - PREEMPHASIS * before) * self.get_buffer("povey"), POINTS)
        logs = (spectrum.abs() ** 2 @ self.get_buffer("filters")).clamp(min=FLOOR).log().to(torch.float32)
        logs = (logs - logs.mean(0)) / torch.sqrt(logs.var(0) + 1e-7)
        count = len(logs) // self.stride
        return logs[: count * self.stride].reshape(count, -1)
