"""espeak-ng through ctypes: text to a waveform and the time of every phoneme in it.

The library and its data come with the `espeakng-loader` wheel, an optional extra (GPL-3, so never shipped here).
A process holds one synthesiser, whose output depends on everything it has spoken before: the same sentence spoken twice
differs. The same bytes need a new process and the same texts in the same order (espeak-ng draws its jitter from a
generator that it seeds by the clock; here it gets a constant seed). Follows espeak-ng's `speak_lib.h`."""

import ctypes
from collections.abc import Callable
from functools import cache
from itertools import takewhile

import numpy as np

SAMPLE_RATE = 22_050  # Hz, espeak-ng's own
_RETRIEVAL, _PHONEME_EVENTS, _UTF8, _SEED = 1, 1, 1, 1
_RATE, _PITCH = 1, 3
_EVENT_END_OF_LIST, _EVENT_PHONEME = 0, 7

Phonemes = list[tuple[str, float]]
"""(espeak's name of the phoneme, its start in seconds), in order; a pause is named "_:" or "_"."""


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        *(("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int)),
        *(("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int)),
        *(("user_data", ctypes.c_void_p), ("id", _EventId)),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def speak(text: str, voice: str, words_per_minute: int = 175, pitch: int = 50) -> tuple[np.ndarray, Phonemes]:
    """Waveform [samples] float32 in -1..1 at 22,050 Hz, and the phonemes with their start times.

    `voice` is a language and a variant, such as "en-us+m3"; `pitch` is 0 to 100. ImportError when the extra is missing,
    ValueError for a voice that espeak-ng does not know."""
    library, pieces, phonemes, _ = _synthesiser()
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f'espeak-ng has no voice "{voice}"; voices look like "en-us+m3"')
    library.espeak_SetParameter(_RATE, words_per_minute, 0)
    library.espeak_SetParameter(_PITCH, pitch, 0)
    pieces.clear()
    phonemes.clear()
    data = text.encode() + b"\0"
    if library.espeak_Synth(data, len(data), 0, 0, 0, _UTF8, None, None) != 0 or library.espeak_Synchronize() != 0:
        raise RuntimeError(f'espeak-ng failed on "{text}" in the voice "{voice}"')
    return np.frombuffer(b"".join(pieces), np.int16).astype(np.float32) / 32768, list(phonemes)


@cache
def _synthesiser() -> tuple[ctypes.CDLL, list[bytes], Phonemes, Callable]:
    """The process's one: its library, two lists that the callback fills, and that, to which C holds no reference."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise ImportError("synthetic speech needs espeak-ng: pip install 'slam-asr[synth]'") from error
    library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
    library.espeak_Synth.argtypes = [
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int),
        *(ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p),
    ]
    data = str(espeakng_loader.get_data_path()).encode()
    rate = library.espeak_Initialize(_RETRIEVAL, 0, data, _PHONEME_EVENTS)
    if rate != SAMPLE_RATE:
        raise RuntimeError(f"espeak-ng could not start on {data.decode()}: it answered {rate} instead of {SAMPLE_RATE}")
    library.espeak_ng_SetRandSeed(ctypes.c_long(_SEED))
    ctypes.CDLL(None).srand(_SEED)  # its Klatt voices draw from C's own generator
    pieces: list[bytes] = []
    phonemes: Phonemes = []

    def receive(samples, count: int, events) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        for event in takewhile(lambda event: event.type != _EVENT_END_OF_LIST, events):
            if event.type == _EVENT_PHONEME:
                phonemes.append((event.id.string.decode("utf-8", "replace"), event.sample / SAMPLE_RATE))
        return 0

    callback = _Callback(receive)
    library.espeak_SetSynthCallback(callback)
    return library, pieces, phonemes, callback
