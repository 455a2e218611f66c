"""Speech to text from Python: `load` an adapter, then `transcribe` files or arrays. Imports no torch before `load`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, overload

from decode.recordings.transcript import Transcript
from model.errors import UserError, require_known
from model.sample_rate import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from decode.options import DecodeOptions
    from model.slam_asr import SlamAsr

    Audio = str | Path | bytes | np.ndarray | Tensor
    """A file (WAV, FLAC, MP3, Ogg ...) by its path or its content, or samples [N] or [channels, N]: floats in -1 to 1
    or signed integers."""


class Search(TypedDict, total=False):
    """How to search: keyword arguments of `transcribe`, with the meaning and default of DecodeOptions' fields."""

    beams: int  # hypotheses kept; 1, the default, is greedy search
    nbest: int  # texts given of each window, at most `beams`; default 1
    length_penalty: float  # a hypothesis's score is its log-probability / tokens ** this; default 0
    repetition_penalty: float  # above 1, the default: tokens that the answer already has become less likely
    max_new_tokens: int | None  # most LLM tokens of a window; default None, by its length
    batch_tokens: int  # speech embeddings decoded at a time, times beams; bounds memory, changes no text; default 2000
    strict: bool  # True: the first answer stands, even if it is a loop; default False


def load(
    adapter: str | Path,
    *,
    encoder: str | None = None,
    llm: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    encoder_dtype: str | None = None,
    llm_dtype: str | None = None,
    trust_remote_code: bool = False,
) -> Recogniser:
    """The recogniser of an adapter: of a run (its best checkpoint, else its newest), a checkpoint or an export.

    `encoder` and `llm` are Hugging Face ids or folders; by default those in adapter.json, or wherever they were moved
    to. `device`: "auto" is cuda if there is a GPU, else cpu. `dtype`: "float32", "bfloat16", "float16", or "auto",
    bfloat16 on a GPU that has it, else float32; `encoder_dtype` and `llm_dtype` (also "int8", "nf4") are that of one
    part. `trust_remote_code` allows Python code that comes with a model to run. UserError, a ValueError, for what is
    not there or does not belong together."""
    from model.loading import choose_device
    from model.weights import load_for_decoding

    chosen = choose_device(device)
    return Recogniser(
        load_for_decoding(
            *(adapter, encoder, llm, dtype, chosen, True, trust_remote_code),
            encoder_dtype=encoder_dtype,
            llm_dtype=llm_dtype,
        )
    )


class Recogniser:
    """A loaded encoder, adapter and LLM. Not for several threads at once."""

    def __init__(self, model: SlamAsr) -> None:
        self.model = model

    @overload
    def transcribe(
        self,
        audio: list[Audio] | tuple[Audio, ...],
        sample_rate: int = ...,
        *,
        longest: float = ...,
        vad: str = ...,
        **search: Unpack[Search],
    ) -> list[Transcript]: ...
    @overload
    def transcribe(
        self, audio: Audio, sample_rate: int = ..., *, longest: float = ..., vad: str = ..., **search: Unpack[Search]
    ) -> Transcript: ...
    def transcribe(
        self,
        audio: Audio | list[Audio] | tuple[Audio, ...],
        sample_rate: int = SAMPLE_RATE,
        *,
        longest: float = 30.0,
        vad: str = "energy",
        **search: Unpack[Search],
    ) -> Transcript | list[Transcript]:
        """The transcript of a recording, or of each in a list, which are decoded together: faster, with the same texts.

        `sample_rate` in Hz is that of arrays; a file has its own. Recordings over `longest` seconds are split at
        silences into windows of at most that; silence is not decoded. `vad` says what is silence: "energy", a rule on
        levels, "silero", a network (extra `vad`), or "off", nothing is. UserError, a ValueError, for the first
        recording that cannot be transcribed; `transcribe_each` goes on."""
        if not isinstance(audio, list | tuple):
            [transcript] = self.transcribe_each([audio], sample_rate, longest=longest, vad=vad, **search)
            if transcript.error:
                raise UserError(f"{transcript.path}: {transcript.error}".removeprefix(": "))
            return transcript
        transcripts = []
        for transcript in self.transcribe_each(audio, sample_rate, longest=longest, vad=vad, **search):
            if transcript.error:
                raise UserError(f"{transcript.path or f'recording {len(transcripts)}'}: {transcript.error}")
            transcripts.append(transcript)
        return transcripts

    def transcribe_each(
        self,
        audio: Iterable[Audio],
        sample_rate: int = SAMPLE_RATE,
        *,
        longest: float = 30.0,
        vad: str = "energy",
        progress: Callable[[float], None] | None = None,
        **search: Unpack[Search],
    ) -> Iterator[Transcript]:
        """As `transcribe`, of any number of recordings: transcripts come in order, as soon as they are ready. That of a
        recording which cannot be transcribed has an `error`, and the others go on. `progress` gets the seconds of audio
        decoded since its last call."""
        from decode.recordings.files import transcribe_each

        options = _options(**search)
        return transcribe_each(self.model, audio, options, sample_rate, longest, vad, progress)


def _options(**search: Unpack[Search]) -> DecodeOptions:
    from decode.options import DecodeOptions

    for name in search:
        require_known("search option", name, Search.__annotations__)
    return DecodeOptions(**search)
