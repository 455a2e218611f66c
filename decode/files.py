"""Transcribes recordings: whatever soundfile reads, in the order given, a few minutes of speech at a time."""

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
from decode.dataset import plan_batches
from decode.generate import DecodeOptions, transcripts, unfit
from model.batch import pack
from model.errors import UserError, counted
from model.slam_asr import SlamAsr

READ_AHEAD_SECONDS = 300  # of speech: full batches, and the first texts still come soon
READ_AHEAD_FILES = 256


@dataclass(frozen=True)
class TranscribedFile:
    """One file and its transcript, or why there is none."""

    path: str
    seconds: float = 0.0
    text: str = ""
    note: str = ""  # "cut" if the bound on new tokens ended the answer
    error: str = ""  # one line
    wave: Tensor | None = None  # float32 [N] at 16 kHz while it waits for its batch


def recordings_in(folder: str) -> tuple[list[str], str]:
    """The recordings in a folder and those below it, by path, and a count of other files: `2 other files (.txt 2)`.
    Hidden files are ignored. UserError for a folder that cannot be read, or holds no recordings."""
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
    kinds = ", ".join(f"{extension} {count:,}" for extension, count in others.most_common(3))
    rest = f"{counted(others.total(), 'other file')} ({kinds}{', ...' * (len(others) > 3)})" if others else ""
    if not paths:
        has = f"; it has {rest}" if rest else ""
        raise UserError(f"{folder} holds no recordings ({', '.join(audio.EXTENSIONS)}){has}; give audio files")
    return sorted(paths), rest


def transcribe_files(
    model: SlamAsr, paths: Iterable[str], options: DecodeOptions | None = None
) -> Iterator[TranscribedFile]:
    """Every path's transcript, in order; a file that cannot be transcribed has an error, and the others go on."""
    options, window = options or DecodeOptions(), list[TranscribedFile]()
    for path in paths:
        window.append(_read(model, path))
        if len(window) >= READ_AHEAD_FILES or sum(file.seconds for file in window) >= READ_AHEAD_SECONDS:
            yield from _transcribe(model, window, options)
            window = []
    yield from _transcribe(model, window, options)


def _read(model: SlamAsr, path: str) -> TranscribedFile:
    assert model.encoder is not None, "audio needs an encoder"
    try:
        wave = torch.from_numpy(audio.decode(path))
    except OSError as error:
        return TranscribedFile(path, error=error.strerror or type(error).__name__)
    except audio.AudioError as error:
        return TranscribedFile(path, error=str(error))
    seconds, reason = len(wave) / audio.SAMPLE_RATE, unfit(model, model.encoder.out_len(len(wave)))
    if reason is None:
        return TranscribedFile(path, seconds, wave=wave)
    error = f"{seconds:.1f} s is too long, the LLM's input has {model.max_positions} places; cut it into parts"
    if reason == "too-short":
        least = bisect_left(range(60 * audio.SAMPLE_RATE), 1, key=lambda n: _speech_embeddings(model, n))
        error = f"{seconds:.3f} s is too short to transcribe; {least / audio.SAMPLE_RATE:.3f} s is enough"
    return TranscribedFile(path, seconds, error=error)


def _transcribe(model: SlamAsr, window: list[TranscribedFile], options: DecodeOptions) -> Iterator[TranscribedFile]:
    """The window with its texts, batched by length, in its own order."""
    waves = {i: file.wave for i, file in enumerate(window) if file.wave is not None}
    places = list(waves)
    lengths = [_speech_embeddings(model, len(wave)) for wave in waves.values()]
    for batch in plan_batches(lengths, options.batch_tokens // options.beams):
        chosen = [places[j] for j in batch]
        keys = [window[i].path for i in chosen]
        packed = pack(keys, [""] * len(keys), [[]] * len(keys), waves=[waves[i] for i in chosen])
        for i, answer in zip(chosen, transcripts(model, packed, options), strict=True):
            window[i] = replace(window[i], text=answer.text, note=answer.note, wave=None)
    yield from window


def _speech_embeddings(model: SlamAsr, samples: int) -> int:
    assert model.encoder is not None
    return model.adapter.out_len(model.encoder.out_len(samples))
