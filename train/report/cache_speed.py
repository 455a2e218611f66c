"""Warns if cached frames are read more slowly than the encoder would compute them: the cache then costs time.

`speed.json` beside the features' index has the seconds of audio that a rank encoded in a second when they were made. A
rank that waits longer than that for its frames would be faster with audio, which is a seventh of the size of bfloat16
frames.
"""

from collections.abc import Sequence
from pathlib import Path

from data_prep.features.build import read_speed
from train.report.step_sums import StepSums

WINDOW_STEPS = 50  # steps judged at a time, so that one slow start does not count


class CacheSpeed:
    """Adds up the ranks' waiting times and warns once."""

    def __init__(self, folders: Sequence[str], step: int) -> None:
        """`folders`: of cached features (may be empty); `step`: where the run starts or resumes."""
        speeds = [speed for folder in folders if (speed := read_speed(Path(folder)))]
        self._slowest = min(speeds, key=lambda speed: speed.audio_seconds_per_second) if speeds else None
        self._since, self._waited, self._audio = step, 0.0, 0.0

    def step(self, step: int, sums: StepSums) -> list[str]:
        """The warning, if it is due after optimizer step `step` (from 1)."""
        if self._slowest is None:
            return []
        self._waited += sum(sums.waited)
        self._audio += sums.seconds
        steps = len(sums.waited) * (step - self._since)  # each rank counts its own
        if step - self._since < WINDOW_STEPS:
            return []
        waited, encoding = self._waited, self._audio / self._slowest.audio_seconds_per_second
        device, self._since, self._waited, self._audio = self._slowest.device, step, 0.0, 0.0
        if waited <= encoding:
            return []
        self._slowest = None
        return [
            f"cached frames come too slowly: a rank waits {waited / steps:.2f} s a step for them, {device} encoded as "
            f"much audio in {encoding / steps:.2f} s; train on the audio shards, cache as int8, or use a faster disk"
        ]
