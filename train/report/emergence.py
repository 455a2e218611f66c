"""Tells from token accuracy and audio gap whether the LLM ignores the audio, is on a plateau, or begins to transcribe.

At first token accuracy (teacher-forced) stays where knowledge of the language alone carries it. Then the LLM begins to
use the speech, and accuracy rises in a few hundred steps (capability emergence of SLAM-ASR, arXiv 2402.08846; others
report plateaus at 0.30 to 0.50 of 4,000 steps and more). The audio gap is how much worse the loss is if each utterance
gets another's speech: 0 if the audio is ignored."""

import math
from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import Any

IGNORED_NATS, USED_NATS = 0.02, 0.1  # gaps below and from which on the LLM ignores and uses the audio
CHECKS = 3  # whose median counts, so that one odd micro-batch does not
CHECKS_BEFORE_REPEAT = 25  # after which a gap that stays closed is reported again
RISE = 0.01  # the least rise of the token accuracy that counts as one
EMERGED_ACCURACY, EMERGED_RISE = 0.7, 0.15  # beyond what knowledge of the language alone reaches
ENOUGH_ACCURACY = 0.9  # from here on little is left to gain, and a standstill is no plateau

BEFORE_EMERGENCE = (
    "usual before emergence, which took the paper some thousand steps; if it stays so, see that transcripts belong to "
    "their recordings and that model.prompt suits the LLM, and try another optim.lr or a longer warm-up"
)
AFTER_EMERGENCE = "lower optim.lr or let it decay (optim.schedule), or give it more data or a larger adapter"
AFTER_A_FALL = "lower optim.lr, and go on from a checkpoint before it fell"


class Emergence:
    """Follows one run's training figures; the methods return lines to print. It influences nothing."""

    def __init__(self, patience_steps: int, warmup_steps: int) -> None:
        """Accuracy is on a plateau after `patience_steps` without a rise, not counting the warm-up."""
        self.emerged_at: int | None = None  # the step at which accuracy had risen beyond what language alone explains
        self._patience, self._warmup = patience_steps, warmup_steps
        self._window = patience_steps / 20  # steps over which accuracy is smoothed
        self._smoothing = f"(smoothed over {self._window:g} steps)"
        self._reports: deque[tuple[int, float]] = deque()  # of the window: (step, accuracy)
        self._rises: list[tuple[int, float]] = []  # (step, smoothed accuracy), each RISE or more above the one before
        self._gaps: deque[float] = deque(maxlen=CHECKS)
        self._plateau_reported = self._uses_audio = False
        self._closed_since: int | None = None
        self._checks_until_repeat = 0

    @classmethod
    def from_metrics(cls, records: Iterable[dict[str, Any]], patience_steps: int, warmup_steps: int) -> "Emergence":
        """As it was after these records of metrics.jsonl, so that a resumed run does not repeat lines."""
        watch = cls(patience_steps, warmup_steps)
        for record in records:
            if record.get("kind") == "train" and isinstance(step := record.get("step"), int):
                values = (record.get(name) for name in ("audio_gap", "accuracy", "loss"))
                gap, accuracy, loss = (value if isinstance(value, int | float) else math.nan for value in values)
                watch.gap(step, gap)
                watch.accuracy(step, accuracy, loss)
        return watch

    def gap(self, step: int, nats_per_token: float) -> list[str]:
        """After a check at `step`: the loss with exchanged speech minus the true one."""
        if not math.isfinite(nats_per_token):
            return []
        self._gaps.append(nats_per_token)
        middle = median(self._gaps)
        words = f"another utterance's speech in place of its own changes the loss by {middle:+.3f} nats a token"
        if len(self._gaps) < CHECKS or IGNORED_NATS <= middle < USED_NATS:
            self._closed_since = None
            return []
        if middle >= USED_NATS:
            opened, self._uses_audio = not self._uses_audio, True
            self._closed_since, self._checks_until_repeat = None, 0
            return [f"step {step}: the LLM uses the audio: {words}"] if opened else []
        self._closed_since = step if self._closed_since is None else self._closed_since
        self._checks_until_repeat = max(0, self._checks_until_repeat - 1)
        if step - max(self._closed_since, self._warmup) < self._patience / 2 or self._checks_until_repeat:
            return []
        what, advice = ("stopped using", AFTER_A_FALL) if self._uses_audio else ("does not use", BEFORE_EMERGENCE)
        self._uses_audio, self._checks_until_repeat = False, CHECKS_BEFORE_REPEAT
        return [f"step {step}: the LLM {what} the audio: {words}; {advice}"]

    def accuracy(self, step: int, accuracy: float, loss: float) -> list[str]:
        """After a report at `step` of token accuracy (0 to 1) and loss (nats a token); that step's gap goes first."""
        if not math.isfinite(accuracy):
            return []
        self._reports.append((step, accuracy))
        while self._reports[0][0] < step - self._window:
            self._reports.popleft()
        smoothed = sum(value for _, value in self._reports) / len(self._reports)
        if not self._rises or smoothed >= self._rises[-1][1] + RISE:
            self._rises.append((step, smoothed))
            self._plateau_reported = False
        return self._emerged(step) + self._plateau(step, smoothed, loss)

    def _emerged(self, step: int) -> list[str]:
        uses_audio = median(self._gaps) >= IGNORED_NATS if self._gaps else step >= self._patience / 10
        wanted = max(EMERGED_ACCURACY, self._rises[0][1] + EMERGED_RISE)
        reached = [rise for rise in self._rises if rise[1] >= wanted]
        if self.emerged_at is not None or not uses_audio or not reached:
            return []
        self.emerged_at, high = reached[0]
        start, low = next(rise for rise in reversed(self._rises) if rise[1] <= high - EMERGED_RISE)
        rose = f"rose from {low:.2f} at step {start} to {high:.2f} at step {self.emerged_at}"
        return [f"step {step}: the LLM transcribes: token accuracy {self._smoothing} {rose}"]

    def _plateau(self, step: int, now: float, loss: float) -> list[str]:
        at, top = self._rises[-1]
        steps, fallen = step - max(at, self._warmup), now <= top - EMERGED_RISE
        good = max(now, 0 if fallen else top) >= ENOUGH_ACCURACY
        if self._plateau_reported or good or steps < self._patience:
            return []
        self._plateau_reported = True
        advice = AFTER_A_FALL if fallen else AFTER_EMERGENCE if top >= EMERGED_ACCURACY else BEFORE_EMERGENCE
        figures = f"token accuracy {self._smoothing} {now:.2f}, loss {loss:.2f}, at best {top:.2f} at step {at}"
        return [f"step {step}: no progress in {steps:,} steps: {figures}; {advice}"]
