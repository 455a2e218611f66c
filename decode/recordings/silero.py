"""Silero VAD (github.com/snakers4/silero-vad, MIT): the probability that each frame of 32 ms is speech.

Its weights are read from the package `silero-vad` as safetensors. The package itself is not imported: it would set
torch to one thread for the whole process, and load TorchScript or need onnxruntime."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from model.errors import UserError

FRAME, CONTEXT = 512, 64  # samples at 16 kHz: of a frame, and of the input before it
STFT, HOP, BINS = 256, 128, 129
STRIDES = (1, 2, 2, 1)  # of its convolutions
WIDTH = 128  # of the LSTM


class Silero:
    """The network, for the frames of one recording in order. UserError if the package is missing or too old."""

    def __init__(self) -> None:
        import torch

        self.weights, self.lstm = load_weights()
        self.context = torch.zeros(CONTEXT)
        self.state = (torch.zeros(1, 1, WIDTH), torch.zeros(1, 1, WIDTH))  # h, c

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Probabilities of speech, float32 [n], of the next frames, float32 [n, FRAME]."""
        import torch
        import torch.nn.functional as F

        with torch.inference_mode():
            samples = torch.cat([self.context, torch.from_numpy(frames).reshape(-1)])
            self.context = samples[-CONTEXT:].clone()
            inputs = samples.unfold(0, CONTEXT + FRAME, FRAME)
            hidden = F.pad(inputs, (0, CONTEXT), "reflect")[:, None]  # [n, 1, samples]
            hidden = F.conv1d(hidden, self.weights["stft_conv.weight"], stride=HOP)
            hidden = (hidden[:, :BINS].square() + hidden[:, BINS:].square()).sqrt()
            for i, stride in enumerate(STRIDES, 1):
                weight, bias = self.weights[f"conv{i}.weight"], self.weights[f"conv{i}.bias"]
                hidden = F.conv1d(hidden, weight, bias, stride, padding=1).relu()
            hidden, self.state = self.lstm(hidden[None, :, :, 0], self.state)  # [1, n, WIDTH]
            hidden = hidden[0].relu() @ self.weights["final_conv.weight"][0] + self.weights["final_conv.bias"]  # [n, 1]
            return hidden.sigmoid()[:, 0].numpy()


def weights_path() -> Path:
    """The file of the weights; UserError if the package is missing or too old."""
    package = find_spec("silero_vad")
    if package is None or package.origin is None:
        raise UserError("vad 'silero' needs the package silero-vad: pip install 'slam-asr[vad]'; or use vad 'energy'")
    path = Path(package.origin).parent / "data" / "silero_vad_16k.safetensors"
    if not path.is_file():
        raise UserError(f"there is no {path}; install silero-vad 6.2 or later, or use vad 'energy'")
    return path


def load_weights() -> tuple[dict[str, Any], Any]:
    """The network's weights, and its LSTM as torch's."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(weights_path())
    lstm = torch.nn.LSTM(WIDTH, WIDTH, batch_first=True)
    parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    lstm.load_state_dict({f"{part}_l0": weights[f"lstm_cell.{part}"] for part in parts})
    return weights, lstm.requires_grad_(False)
