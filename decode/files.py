"""Transcribe recordings: whatever soundfile reads, in the order given, a few minutes of speech at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data_prep import audio
from decode.dataset import DecodeOptions, plan_batches
from decode.generate import max_positions, transcripts, unfit
from model.batch import pack
from model.slam_asr import SlamAsr

READ_AHEAD_SECONDS = 300  # of speech: full batches, and the first texts still come soon
READ_AHEAD_FILES = 256


@dataclass(frozen=True)
class Recording:
    """One file and what was heard in it, or why nothing was."""

    path: str
    seconds: float = 0.0
    text: str = ""
    note: str = ""
    """ "cut" if the bound on new tokens ended the answer."""
    error: str = ""
    """One line; empty if all went well."""
    wave: Tensor | None = None
    """float32 [N] at 16 kHz while it waits for its batch."""


def transcribe_files(model: SlamAsr, paths: Iterable[str], options: DecodeOptions | None = None) -> Iterator[Recording]:
    """A Recording for every path, in order; a file that cannot be heard has an error and stops nothing."""
    window: list[Recording] = []
    for path in paths:
        window.append(_read(model, path))
        if len(window) >= READ_AHEAD_FILES or sum(one.seconds for one in window) >= READ_AHEAD_SECONDS:
            yield from _transcribe(model, window, options or DecodeOptions())
            window = []
    yield from _transcribe(model, window, options or DecodeOptions())


def _read(model: SlamAsr, path: str) -> Recording:
    assert model.encoder is not None, "audio needs an encoder"
    try:
        wave = torch.from_numpy(audio.decode(path))
    except OSError as error:
        return Recording(path, error=error.strerror or type(error).__name__)
    except audio.AudioError as error:
        return Recording(path, error=str(error))
    seconds = len(wave) / audio.SAMPLE_RATE
    match unfit(model, model.encoder.out_len(len(wave))):
        case "too-short":
            return Recording(path, seconds, error=f"{seconds:.3f} s is too short for one speech embedding")
        case "too-long":
            limit = f"the LLM's input has {max_positions(model)} places"
            return Recording(path, seconds, error=f"{seconds:.1f} s is too long, {limit}; cut it into parts")
    return Recording(path, seconds, wave=wave)


def _transcribe(model: SlamAsr, window: list[Recording], options: DecodeOptions) -> Iterator[Recording]:
    """The window with its texts; its recordings are batched by length and come back in their own order."""
    done = list(window)
    waiting = [(i, one.wave) for i, one in enumerate(window) if one.wave is not None]
    for batch in plan_batches([_speech(model, wave) for _, wave in waiting], options.batch_tokens // options.beams):
        chosen = [waiting[j] for j in batch]
        keys = [window[i].path for i, _ in chosen]
        packed = pack(keys, [""] * len(keys), [[]] * len(keys), waves=[wave for _, wave in chosen])
        heard = transcripts(model, packed, options.beams, options.max_new_tokens)
        for (i, _), one in zip(chosen, heard, strict=True):
            done[i] = replace(window[i], text=one.text, note="cut" if one.cut else "", wave=None)
    yield from done


def _speech(model: SlamAsr, wave: Tensor) -> int:
    assert model.encoder is not None
    return model.adapter.out_len(model.encoder.out_len(len(wave)))
