"""What every encoder family offers: waveforms to frames, frozen.

No utterance depends on the others of its batch. On a CPU utterances are encoded one by one, so that each has the same
bits in any batch. On a GPU a family whose attention is transformers' shared one reads all frames packed
(model/packing.py): the same frames up to rounding.

B utterances, N samples, T frames, D width of a layer's output, L layers."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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
    what differs of the rest."""

    reads: ClassVar[tuple[str, ...]] = ()
    """What the family reads of the checkpoint's feature extractor, beside its sampling rate."""
    windows: ClassVar[tuple[str, ...]] = ()
    """Values of model.encoder_window, the default first; empty for a family that reads audio of any length at once."""
    own_attention: ClassVar[tuple[str, ...]] = ()
    """Model types whose attention is not transformers' shared one: always encoded one by one."""
    depth_name: ClassVar[str] = "num_hidden_layers"
    """Where the configuration has the number of layers."""
    key_mapping: ClassVar[dict[str, str]] = {}
    """{pattern in the checkpoint's names of weights: its replacement}, where it holds more than the encoder."""

    def __init__(self, model: Any, extractor: Any, layer: int | str | None, weights: str, window: str | None = None):
        """`model` and `extractor` are transformers', as `open` and AutoFeatureExtractor load them; `layer` as in
        model/encoder_layers.py; `weights` is the sha256 of all the model's; `window` is of `windows`, or None.

        A layer's output is what the next layer gets; the last one's comes with the norm after it, if there is one. A
        mean is over the outputs without that norm, added up in float32, cast to the dtype; weighted ones are those
        outputs side by side. Layers that are not read do not compute. UserError for a layer or window it lacks."""
        super().__init__()
        self.source = self.dtype_note = ""
        """The folder or id that it was loaded from; why it computes in another dtype than asked for, if it does."""
        self.model, self.weights = model, weights
        depth = self.depth(model.config)
        self.layers = read_layers(layer, depth)
        self.layer = self.layers.name
        self.dim = int(model.config.hidden_size) * layers_in_frame(self.layer)
        """Width of a frame: D, or L x D of weighted layers."""
        self.sample_rate: int = extractor.sampling_rate
        self.window = chosen_window(type(self), model.config.model_type, window)
        self.packs: bool = model.config.model_type not in self.own_attention and switch_to_packed(model) is None
        """Whether the transformer can read the utterances of a batch at once."""
        self.packed: bool = self.packs and self.device.type == "cuda"
        """Whether it does. On a CPU it is no faster, and one by one an utterance has the same bits in any batch."""
        self.body.layers = self.body.layers[: self.layers.last]
        if self.layers.several or self.layers.last < depth:
            self.drop_final_norm()
        self.prepare(extractor)

    def prepare(self, extractor: Any) -> None:
        """Keeps what the family reads of the feature extractor; the last part of making one. UserError where it does
        not fit the model."""
        raise NotImplementedError

    @classmethod
    def own_config(cls, config: Any) -> Any:
        """The encoder's own configuration in that of a checkpoint."""
        return config

    @classmethod
    def depth(cls, config: Any) -> int:
        """Transformer layers of the encoder's own configuration."""
        return int(getattr(config, cls.depth_name))

    @classmethod
    def architecture(cls, model_type: str) -> Any:
        """The transformers class of the encoder alone."""
        from transformers import AutoModel

        return AutoModel

    @classmethod
    def open(cls, config: Any, source: str, place: str, trust_remote_code: bool) -> Any:
        """The pretrained model of the encoder's own `config` at `place` (as open_pretrained), and nothing else of the
        checkpoint. UserError if it lacks weights."""
        options = {"config": config, "key_mapping": cls.key_mapping} if cls.key_mapping else {}
        made, never_read = cls.architecture(config.model_type), ("masked_spec_embed",)
        with _only_errors() if options else nullcontext():  # transformers warns of every weight that is left out
            return open_pretrained(made, "encoder", source, place, trust_remote_code, never_read, options)

    @classmethod
    def build(cls, config: Any, dtype: torch.dtype | None = None, trust_remote_code: bool = False) -> Any:
        """The model of the encoder's own `config` with random weights, on torch's current device."""
        made, options = cls.architecture(config.model_type), {} if dtype is None else {"dtype": dtype}
        if hasattr(made, "from_config"):
            return made.from_config(config, trust_remote_code=trust_remote_code, **options)
        return made._from_config(config, **options)

    @classmethod
    def usual_extractor(cls, config: Any) -> Any:
        """The feature extractor that checkpoints of this configuration come with, for an encoder without weights."""
        from transformers import Wav2Vec2FeatureExtractor

        return Wav2Vec2FeatureExtractor(do_normalize=True)

    @property
    def body(self) -> Any:
        """The module that has the list `layers`."""
        return self.model.encoder

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer's layers that are computed."""
        return self.body.layers

    @property
    def device(self) -> torch.device:
        """Of the layers; transformers' own `device` may be that of a weight that no layer reads."""
        return next(self.blocks.parameters()).device

    def drop_final_norm(self) -> None:
        """Takes away what comes after the last layer, which is not read."""
        self.body.layer_norm = nn.Identity()

    def out_len(self, num_samples: Length) -> Length:
        """Frames of an utterance of so many samples; below 1 if it is too short for `forward`."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, audio: Tensor, audio_cu: Tensor) -> tuple[Tensor, Tensor]:
        """audio [sum N] with audio_cu [B + 1] -> frames [sum T, dim] in the encoder's dtype, with frame_cu [B + 1]."""
        waves = audio.split(audio_cu.diff().tolist())
        frame_cu = cumulative(self.out_len(audio_cu.diff()))
        if self.packed:
            return self.encode_packed(waves, frame_cu.diff()), frame_cu
        with torch.random.fork_rng(devices=[]):  # transformers draws numbers for layer drop even without one; the
            # adapter's dropout must not depend on whether frames are cached
            return torch.cat([self.encode_one(wave) for wave in waves]), frame_cu

    def encode_one(self, wave: Tensor) -> Tensor:
        """[N] -> [T, dim]."""
        raise NotImplementedError

    def encode_packed(self, waves: tuple[Tensor, ...], lengths: Tensor) -> Tensor:
        """B waves [N], lengths [B] of T on the CPU -> [sum T, dim]; of families that pack."""
        raise NotImplementedError

    def outputs(self, hidden: Tensor, **options: Any) -> Iterator[Tensor]:
        """hidden [1, T, D] -> every layer's output, in order; `options` are those of the layers."""
        for block in self.blocks:
            hidden = block(hidden, **options)
            yield hidden

    def read(self, outputs: Iterator[Tensor]) -> Tensor:
        """The outputs [1, T, D] of all layers, in order -> [1, T, dim] of those that are read."""
        wanted = islice(outputs, self.layers.first - 1, None)
        if not self.layers.several:
            return next(wanted)
        if self.layers.kind == "weighted":
            return torch.cat(list(wanted), -1)
        total: Any = 0.0
        for output in wanted:
            total = total + output.float()
        return (total / (self.layers.last + 1 - self.layers.first)).to(self.model.dtype)

    def preprocessing(self) -> dict[str, Any]:
        """What of the audio's preparation decides the frames, for the fingerprint."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """All that determines the frames of a waveform; cached features of another fingerprint are refused."""
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
    """transformers logs errors alone."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def chosen_window(family: type[Encoder], model_type: str, asked: str | None) -> str | None:
    """The window that is used where `asked` is asked for, None being the family's default. UserError for one that the
    family does not have."""
    if asked is not None and asked not in family.windows:
        if not family.windows:
            raise UserError(
                f"encoder window {asked!r}: an encoder of family {model_type} reads audio of any length, without a "
                "window; leave model.encoder_window (--window) out"
            )
        raise UserError(f"encoder window {asked!r} is not known; give {' or '.join(family.windows)}")
    return asked or next(iter(family.windows), None)
