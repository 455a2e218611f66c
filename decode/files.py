"""Transcribe recordings: whatever soundfile reads, in the order given, a few minutes of speech at a time."""

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from data_prep.audio import decode as audio
from data_prep.importers.parsing.files import walked
from decode.dataset import DecodeOptions, plan_batches
from decode.generate import max_positions, transcripts, unfit
from model.batch import pack
from model.errors import UserError
from model.slam_asr import SlamAsr

READ_AHEAD_SECONDS = 300  # of speech: full batches, and the first texts still come soon
READ_AHEAD_FILES = 256


@dataclass(frozen=True)
class Recording:
    """One file and its transcript, or why there is none."""

    path: str
    seconds: float = 0.0
    text: str = ""
    note: str = ""
    """ "cut" if the bound on new tokens ended the answer."""
    error: str = ""
    """One line; empty if all went well."""
    wave: Tensor | None = None
    """float32 [N] at 16 kHz while it waits for its batch."""


@dataclass(frozen=True)
class Recordings:
    """The recordings of a folder."""

    paths: list[str]
    others: Counter[str]
    """Files of other kinds, counted by extension."""


def recordings_in(folder: str) -> Recordings:
    """The recordings in a folder and those below it, in the order of their paths; hidden files are not looked at.

    UserError for a folder that cannot be read, or holds none.
    """
    paths, others = [], Counter[str]()
    for place, names in walked(Path(folder)):
        if any(part.startswith(".") for part in Path(place).relative_to(folder).parts):
            continue
        for name in names:
            extension = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if extension[1:] in audio.EXTENSIONS:
                paths.append(os.path.join(place, name))
            else:
                others[extension or "no extension"] += 1
    if not paths:
        kinds = f"; it has {in_words(others)}" if others else ""
        raise UserError(f"{folder} holds no recordings ({', '.join(audio.EXTENSIONS)}){kinds}; give audio files")
    return Recordings(sorted(paths), others)


def in_words(others: Counter[str]) -> str:
    """`12 other files (.txt 10, .json 2)`."""
    kinds = ", ".join(f"{extension} {count:,}" for extension, count in others.most_common(3))
    return f"{others.total():,} other file{'s' * (others.total() > 1)} ({kinds}{', ...' * (len(others) > 3)})"


def transcribe_files(model: SlamAsr, paths: Iterable[str], options: DecodeOptions | None = None) -> Iterator[Recording]:
    """A Recording for every path, in order; a file that cannot be transcribed has an error and stops nothing."""
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
            least = shortest_samples(model) / audio.SAMPLE_RATE
            return Recording(
                path, seconds, error=f"{seconds:.3f} s is too short to transcribe; {least:.3f} s is enough"
            )
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
        answers = transcripts(model, packed, options.beams, options.max_new_tokens)
        for (i, _), answer in zip(chosen, answers, strict=True):
            done[i] = replace(window[i], text=answer.text, note="cut" if answer.cut else "", wave=None)
    yield from done


def _speech(model: SlamAsr, wave: Tensor) -> int:
    return _speech_embeddings(model, len(wave))


def _speech_embeddings(model: SlamAsr, samples: int) -> int:
    assert model.encoder is not None
    return model.adapter.out_len(model.encoder.out_len(samples))


def shortest_samples(model: SlamAsr) -> int:
    """Samples at 16 kHz of the shortest recording that gives a speech embedding."""
    return bisect_left(range(60 * audio.SAMPLE_RATE), 1, key=lambda samples: _speech_embeddings(model, samples))
