"""Whether cached frames are read more slowly than the encoder would compute them: then the cache costs time.

A cache pays while its frames are there before the step that needs them. `speed.json` beside its index says how many
seconds of audio a rank encoded in a second when it was made; a rank that waits longer than that for its frames would be
faster with audio, which takes a seventh of the bytes of bfloat16 frames.
"""

from collections.abc import Sequence
from pathlib import Path

from data_prep.features.speed import Speed, read_speed
from train.report.step_sums import Tally

WINDOW_STEPS = 50  # judged at a time: a disk that wakes up is not one that is slow


class Reading:
    """Adds up what the ranks wait, and says it once."""

    def __init__(self, folders: Sequence[str], step: int) -> None:
        """`folders` are those of cached features (none: nothing is said), `step` is where the run goes on."""
        speeds = [speed for folder in folders if (speed := read_speed(Path(folder)))]
        self._slowest = min(speeds, key=lambda speed: speed.audio_seconds_per_second) if speeds else None
        self._said, self._since = False, step
        self._waited = self._seconds = 0.0

    def step(self, step: int, tally: Tally) -> list[str]:
        """Lines to say after optimizer step `step` (from 1)."""
        if self._slowest is None or self._said:
            return []
        self._waited += sum(tally.waited)
        self._seconds += tally.seconds
        if step - self._since < WINDOW_STEPS:
            return []
        line = slow_line(self._waited, self._seconds, self._slowest, len(tally.waited) * (step - self._since))
        self._since, self._waited, self._seconds, self._said = step, 0.0, 0.0, bool(line)
        return [line] if line else []


def slow_line(waited: float, seconds: float, speed: Speed, steps: int) -> str:
    """What to say of `waited` seconds for the frames of `seconds` of audio, over all ranks; "" where all is well.

    `steps` counts each rank's own.
    """
    encoding = seconds / speed.audio_seconds_per_second
    if waited <= encoding:
        return ""
    return (
        f"cached frames come too slowly: a rank waits {waited / steps:.2f} s a step for them, {speed.device} encoded "
        f"as much audio in {encoding / steps:.2f} s; train on the audio shards, cache as int8, or use a faster disk"
    )
