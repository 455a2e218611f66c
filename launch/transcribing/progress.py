"""The progress of transcribing recordings, in seconds of audio."""

from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING

from data_prep.progress import Progress, Silent

if TYPE_CHECKING:
    from decode.recordings.transcript import Transcript

SHOWN_SECONDS = 60  # minimum audio for progress to be shown


class AudioProgress:
    """A bar or lines on stderr with the speed and the time left; nothing for less than SHOWN_SECONDS of audio, or if
    texts are printed `to_terminal`, where a bar would come between them."""

    def __init__(self, paths: list[str], to_terminal: bool) -> None:
        self.lengths = [0.0 if to_terminal else _length(path) for path in paths]  # seconds
        total = int(sum(self.lengths))
        kind = Silent if to_terminal or total < SHOWN_SECONDS else Progress
        self.bar = kind(total, unit="s of audio", label="transcribe")
        self.seconds, self.began = 0.0, monotonic()

    def __enter__(self) -> "AudioProgress":
        self.bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.__exit__(*error)  # pyright: ignore

    def advance(self, seconds: float) -> None:
        """Adds seconds of audio that are decoded."""
        self._reach(self.seconds + seconds)

    def over(self, transcripts: Iterator["Transcript"]) -> Iterator["Transcript"]:
        """Yields the transcripts; with each, its whole recording counts as done, silence and errors included."""
        done = 0.0
        for length, transcript in zip(self.lengths, transcripts, strict=True):
            done += length
            self._reach(max(self.seconds, done))
            yield transcript

    def _reach(self, seconds: float) -> None:
        self.seconds = seconds
        rate = self.seconds / max(monotonic() - self.began, 1e-3)
        self.bar.advance(max(0, min(int(self.seconds), self.bar.total) - self.bar.done), at=f"{rate:,.1f} x real time")


def _length(path: str) -> float:
    """Seconds, from the header; 0 for a file that cannot be read, which is reported later."""
    from data_prep.audio.cuts import AudioError
    from data_prep.audio.decode import probe

    try:
        return probe(path).seconds
    except (AudioError, OSError):
        return 0.0
