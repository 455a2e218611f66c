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
    """A file (WAV, FLAC, MP3, Ogg ...), as a path or as bytes, or samples [N] or [channels, N]: floats in -1 to 1 or
    signed integers."""


class Search(TypedDict, total=False):
    """Search options: keyword arguments of `transcribe`, with the meaning and default of DecodeOptions' fields."""

    beams: int  # hypotheses kept; 1, the default, is greedy search
    nbest: int  # hypotheses returned per window, at most `beams`; default 1
    length_penalty: float  # a hypothesis's score is its log-probability / tokens ** this; default 0
    repetition_penalty: float  # above 1: tokens already in the answer become less likely; default 1
    max_new_tokens: int | None  # maximum LLM tokens per window; default None, by its duration
    batch_tokens: int  # speech embeddings per batch, times beams: limits memory, not the text; default 2000
    strict: bool  # True: the first answer is kept, even if it is a loop; default False


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
    other_weights: bool = False,
    backend: str | None = None,
) -> Recogniser:
    """The recogniser with the adapter of a run (its best checkpoint, else its newest), a checkpoint or an export.

    `encoder` and `llm` are Hugging Face ids or folders; by default those in adapter.json, or wherever they were moved
    to. `device`: "auto" is cuda if there is a GPU, else cpu. `dtype`: "float32", "bfloat16", "float16", or "auto",
    which is bfloat16 on a GPU that supports it, else float32; `encoder_dtype` and `llm_dtype` (also "int8", "nf4") set
    that of one part. `trust_remote_code` allows Python code shipped with a model to run. UserError, a ValueError, if a
    part is missing or is not the one that the adapter was trained with; `other_weights` accepts an `encoder` or `llm`
    of the same architecture with other weights. `backend`: "vllm:URL", a vLLM server that has the LLM and decodes, as
    "vllm:http://127.0.0.1:8000"; of the LLM, only the input embeddings are then loaded here."""
    from decode.backend import load_model
    from model.loading import choose_device

    chosen = choose_device(device)
    return Recogniser(
        load_model(
            *(adapter, encoder, llm, dtype, chosen, True, trust_remote_code),
            encoder_dtype=encoder_dtype,
            llm_dtype=llm_dtype,
            other_weights=other_weights,
            backend=backend,
        )
    )


class Recogniser:
    """A loaded encoder, adapter and LLM. Not thread-safe."""

    def __init__(self, model: SlamAsr) -> None:
        self.model = model

    @overload
    def transcribe(
        self,
        audio: list[Audio] | tuple[Audio, ...],
        sample_rate: int = ...,
        *,
        longest: float | None = ...,
        vad: str = ...,
        **search: Unpack[Search],
    ) -> list[Transcript]: ...
    @overload
    def transcribe(
        self,
        audio: Audio,
        sample_rate: int = ...,
        *,
        longest: float | None = ...,
        vad: str = ...,
        **search: Unpack[Search],
    ) -> Transcript: ...
    def transcribe(
        self,
        audio: Audio | list[Audio] | tuple[Audio, ...],
        sample_rate: int = SAMPLE_RATE,
        *,
        longest: float | None = None,
        vad: str = "energy",
        **search: Unpack[Search],
    ) -> Transcript | list[Transcript]:
        """The transcript of a recording, or of each in a list, which are decoded together: faster, with the same texts.

        `sample_rate` in Hz is that of arrays; files have their own. Recordings over `longest` seconds are split at
        silences into windows of at most `longest`; silence is not decoded. None: what 95 % of the adapter's training
        utterances did not exceed, from 4 to 30 s; 30 s if it does not say. `vad` is the voice activity detector:
        "energy", by level, "silero", a network (extra `vad`), or "off", which decodes everything. UserError, a
        ValueError, for the first recording that cannot be transcribed; `transcribe_each` continues after it."""
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
        longest: float | None = None,
        vad: str = "energy",
        progress: Callable[[float], None] | None = None,
        **search: Unpack[Search],
    ) -> Iterator[Transcript]:
        """As `transcribe`, for any number of recordings: yields transcripts in order, each as soon as it is ready. One
        that cannot be transcribed has an `error`, and the others continue. `progress` is called with the seconds of
        audio decoded since its last call."""
        from decode.recordings.files import transcribe_each

        options = _options(**search)
        return transcribe_each(self.model, audio, options, sample_rate, longest, vad, progress)


def _options(**search: Unpack[Search]) -> DecodeOptions:
    from decode.options import DecodeOptions

    for name in search:
        require_known("search option", name, Search.__annotations__)
    return DecodeOptions(**search)
