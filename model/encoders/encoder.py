"""The interface of every encoder family: waveforms to frames, frozen.

No utterance depends on the others of its batch. On a CPU utterances are encoded one by one, so that the frames are
bit-identical in any batch. On a GPU, families that use transformers' common attention interface encode a batch packed
(model/packing.py): the same frames up to rounding.

B utterances, N samples, T frames, D width of a layer's output, L layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model.batch import Length, cumulative
from model.encoder_layers import layers_in_frame, read_layers
from model.errors import UserError
from model.loading import open_pretrained
from model.packing import switch_to_packed


class Encoder(nn.Module):
    """A transformers model behind `out_len` and `forward`.

    A family defines prepare, preprocessing, out_len and encode_one; encode_packed, if its layers can be packed; and
    overrides other methods where it differs."""

    reads: ClassVar[tuple[str, ...]] = ()
    """Attributes of the checkpoint's feature extractor that the family needs, besides the sampling rate."""
    windows: ClassVar[tuple[str, ...]] = ()
    """Values of model.encoder_window, the default first; empty if the family encodes audio of any length at once."""
    own_attention: ClassVar[tuple[str, ...]] = ()
    """Model types that do not use transformers' common attention interface: always encoded one by one."""
    depth_name: ClassVar[str] = "num_hidden_layers"
    """The configuration's key for the number of layers."""
    samples_per_frame: ClassVar[int] = 320
    """Samples at 16 kHz from one frame to the next."""
    key_mapping: ClassVar[dict[str, str]] = {}
    """{pattern in the checkpoint's weight names: replacement}, if the checkpoint holds more than the encoder."""

    def __init__(self, model: Any, extractor: Any, layer: int | str | None, weights: str, window: str | None = None):
        """`model` and `extractor` are transformers', as `open` and AutoFeatureExtractor load them; `layer` as in
        model/encoder_layers.py; `weights` is the sha256 of the model's weights; `window` is one of `windows`, or None.

        The output of the last layer includes the final layer norm, if there is one, other layers' outputs do not. A
        mean is over outputs without the final norm, summed in float32, then cast to the dtype; `weighted` layers are
        the same outputs, concatenated. Layers above the last one used are removed. UserError for a layer or window that
        does not exist."""
        super().__init__()
        self.source = self.dtype_note = ""
        """The folder or id it was loaded from; the reason if it is computed in another dtype than requested."""
        self.model, self.weights = model, weights
        depth = self.depth(model.config)
        self.layers = read_layers(layer, depth)
        self.layer = self.layers.name
        self.dim = int(model.config.hidden_size) * layers_in_frame(self.layer)
        """Width of a frame: D, or D times the number of weighted layers."""
        self.sample_rate: int = extractor.sampling_rate
        self.window = chosen_window(type(self), model.config.model_type, window)
        self.packs: bool = model.config.model_type not in self.own_attention and switch_to_packed(model) is None
        """Whether the transformer can encode the utterances of a batch packed."""
        self.packed: bool = self.packs and self.device.type == "cuda"
        """Whether it does. On a CPU that is no faster, and one by one the frames are bit-identical in any batch."""
        self.body.layers = self.body.layers[: self.layers.last]
        if self.layers.several or self.layers.last < depth:
            self.drop_final_norm()
        self.prepare(extractor)

    def prepare(self, extractor: Any) -> None:
        """Takes over the family's settings of the feature extractor, at the end of `__init__`. UserError if they do not
        fit the model."""
        raise NotImplementedError

    @classmethod
    def own_config(cls, config: Any) -> Any:
        """The encoder's configuration within that of a checkpoint."""
        return config

    @classmethod
    def depth(cls, config: Any) -> int:
        """Number of transformer layers in the encoder's configuration."""
        return int(getattr(config, cls.depth_name))

    @classmethod
    def architecture(cls, model_type: str) -> Any:
        """The transformers class of the encoder, without a decoder."""
        from transformers import AutoModel

        return AutoModel

    @classmethod
    def open(cls, config: Any, source: str, place: str, trust_remote_code: bool) -> Any:
        """The pretrained encoder with configuration `config` at `place` (as open_pretrained), without the rest of the
        checkpoint. UserError if it lacks weights."""
        options = {"config": config, "key_mapping": cls.key_mapping} if cls.key_mapping else {}
        made, never_read = cls.architecture(config.model_type), ("masked_spec_embed",)
        with _only_errors():  # transformers warns of weights that are not loaded, such as decoders and CTC heads
            return open_pretrained(made, "encoder", source, place, trust_remote_code, never_read, options)

    @classmethod
    def build(cls, config: Any, dtype: torch.dtype | None = None, trust_remote_code: bool = False) -> Any:
        """The encoder with configuration `config` and random weights, on torch's current device."""
        made, options = cls.architecture(config.model_type), {} if dtype is None else {"dtype": dtype}
        if hasattr(made, "from_config"):
            return made.from_config(config, trust_remote_code=trust_remote_code, **options)
        return made._from_config(config, **options)

    @classmethod
    def usual_extractor(cls, config: Any) -> Any:
        """The usual feature extractor of checkpoints with this configuration, for an encoder without a checkpoint."""
        from transformers import Wav2Vec2FeatureExtractor

        return Wav2Vec2FeatureExtractor(do_normalize=True)

    @property
    def body(self) -> Any:
        """The module with the ModuleList `layers`."""
        return self.model.encoder

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer layers that are computed."""
        return self.body.layers

    @property
    def device(self) -> torch.device:
        """Device of the layers; transformers' own `device` may be that of a weight that is never used."""
        return next(self.blocks.parameters()).device

    def drop_final_norm(self) -> None:
        """Removes the final layer norm, if the output of the last layer is not used by itself."""
        self.body.layer_norm = nn.Identity()

    def out_len(self, num_samples: Length) -> Length:
        """Number of frames of an utterance with `num_samples` samples; below 1 if it is too short for `forward`."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, audio: Tensor, audio_cu: Tensor) -> tuple[Tensor, Tensor]:
        """audio [sum N] with audio_cu [B + 1] -> frames [sum T, dim] in the encoder's dtype, with frame_cu [B + 1]."""
        waves = audio.split(audio_cu.diff().tolist())
        frame_cu = cumulative(self.out_len(audio_cu.diff()))
        if self.packed:
            return self.encode_packed(waves, frame_cu.diff()), frame_cu
        with torch.random.fork_rng(devices=[]):  # transformers draws a random number for LayerDrop even in eval mode;
            # the adapter's dropout must not depend on whether frames are cached
            return torch.cat([self.encode_one(wave) for wave in waves]), frame_cu

    def encode_one(self, wave: Tensor) -> Tensor:
        """[N] -> [T, dim]."""
        raise NotImplementedError

    def encode_packed(self, waves: tuple[Tensor, ...], lengths: Tensor) -> Tensor:
        """B waves [N], lengths [B] of T on the CPU -> [sum T, dim]; for families that can be packed."""
        raise NotImplementedError

    def outputs(self, hidden: Tensor, **options: Any) -> Iterator[Tensor]:
        """hidden [1, T, D] -> every layer's output, in order; `options` are passed to the layers."""
        for block in self.blocks:
            hidden = block(hidden, **options)
            yield hidden

    def read(self, outputs: Iterator[Tensor]) -> Tensor:
        """The outputs [1, T, D] of all layers, in order -> frames [1, T, dim] of the selected layers."""
        selected = islice(outputs, self.layers.first - 1, None)
        if not self.layers.several:
            return next(selected)
        if self.layers.kind == "weighted":
            return torch.cat(list(selected), -1)
        total: Any = 0.0
        for output in selected:
            total = total + output.float()
        return (total / (self.layers.last + 1 - self.layers.first)).to(self.model.dtype)

    def preprocessing(self) -> dict[str, Any]:
        """The preprocessing settings that influence the frames, for the fingerprint."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """Everything that determines the frames of a waveform; cached features of another fingerprint are refused."""
        return {
            "family": self.model.config.model_type,
            "weights": self.weights,
            "layer": self.layer,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            **self.preprocessing(),
            "sample_rate": self.sample_rate,
            "dim": self.dim,
        }


@contextmanager
def _only_errors() -> Iterator[None]:
    """Inside, transformers logs errors only."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def chosen_window(family: type[Encoder], model_type: str, requested: str | None) -> str | None:
    """The requested window, or the family's default if that is None. UserError for one that the family does not
    have."""
    if requested is not None and requested not in family.windows:
        if not family.windows:
            raise UserError(
                f"encoder window {requested!r}: encoders of family {model_type} encode audio of any length, without a "
                "window; leave model.encoder_window (--window) out"
            )
        raise UserError(f"encoder window {requested!r} is not known; give {' or '.join(family.windows)}")
    return requested or next(iter(family.windows), None)
