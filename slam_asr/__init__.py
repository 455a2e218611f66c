"""Transcribe speech from Python with a trained adapter.

    >>> from slam_asr import load
    >>> recogniser = load("model/stand_in/adapter")  # a run, a checkpoint or an export
    >>> transcript = recogniser.transcribe("recording.wav")
    >>> print(transcript.text)
    red lamp near seven doors
    >>> [(segment.start, segment.end, segment.text) for segment in transcript.segments]
    [(0.0, 1.9, 'red lamp near seven doors')]

Several recordings at once are decoded faster, with the same texts:

    >>> transcripts = recogniser.transcribe(["one.wav", "two.flac"], beams=4)

Arrays work too: floats in -1 to 1, [samples] or [channels, samples], of any sample rate:

    >>> text = recogniser.transcribe(samples, sample_rate=44_100).text

An argument or a recording that is wrong raises UserError, a ValueError with a one-line message."""

from decode.recogniser import Recogniser, load
from decode.recordings.transcript import Segment, Transcript
from model.errors import UserError

__all__ = ["Recogniser", "Segment", "Transcript", "UserError", "load"]
