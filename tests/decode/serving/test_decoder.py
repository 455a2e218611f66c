"""Whose windows are decoded next, and what becomes of recordings that are too long."""

import time
from threading import Event

import numpy as np

from data_prep.audio.decode import AudioError, encode_flac
from decode.options import DecodeOptions
from decode.recordings.files import Recording
from decode.recordings.segments import Stretch
from decode.serving.decoder import Decoder, Job, chosen
from decode.serving.metrics import Metrics


def job(turn: int, *lengths: int) -> Job:
    made = Job(Recording(""), iter(()), print, print, turn=turn)
    made.waiting.extend((n, Stretch(0, k, np.zeros(k, np.float32), (0, k))) for n, k in enumerate(lengths))
    return made


def test_a_batch_is_the_next_in_the_queue_and_windows_of_about_its_length():
    long, short, other = job(5, 30, 30, 30), job(3, 9), job(4, 8)
    batch = chosen([long, short, other], lambda stretch: stretch.samples, 20)
    assert [(j.turn, s.samples) for j, _, s in batch] == [(3, 9), (4, 8)]
    assert [j.turn for j, _, _ in chosen([long, short, other], lambda stretch: stretch.samples, 5)] == [3]
    long.turn = 2
    batch = chosen([long, short, other], lambda stretch: stretch.samples, 1000)
    assert [s.samples for _, _, s in batch] == [30, 30, 30]  # the others would wait for these


def test_silence_counts_as_length_and_ends_when_nobody_waits(model):
    decoder, ended, results = Decoder(model, DecodeOptions(), Metrics(), max_seconds=60.0), Event(), []

    def on_end(result):
        results.append(result)
        ended.set()

    silence = encode_flac(np.zeros(3600 * 16_000, np.float32))
    decoder.submit(silence, print, on_end)
    assert ended.wait(30) and isinstance(results[0], AudioError) and "longer than 60 s" in str(results[0])
    decoder.max_seconds = 7200.0
    left = decoder.submit(silence, print, on_end)
    decoder.cancel(left)
    deadline = time.monotonic() + 10
    while left.reading and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left.reading and left.recording.seconds < 3600 and len(results) == 1
    decoder.close()
