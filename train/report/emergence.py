"""The emergence watch: tells a plateau, an LLM that ignores the audio, and the moment it begins to transcribe.

At first a frozen LLM learns from the adapter only that a transcript is wanted: token accuracy (teacher-forced) stands
where knowledge of the language alone carries it. Then it finds the speech, and accuracy rises in a few hundred steps
(SLAM-ASR, arXiv 2402.08846, on capability emergence; others report plateaus at 0.30 to 0.50, of 4,000 steps and more).
The gap is how much worse the loss is when each utterance gets another's speech: 0 where the audio is ignored.

Figures in, lines for a person out. Nothing is computed here, and nothing depends on what is said.
"""

import json
import math
from collections import deque
from collections.abc import Iterable
from statistics import median

IGNORED_NATS = 0.02
"""A gap below this is no more than chance: the LLM does not use the audio."""
HEARD_NATS = 0.1
"""A gap from this on is one: the LLM listens. Between the two nothing changes."""
CHECKS = 3
"""Checks whose median counts, so that one odd micro-batch says nothing."""
CHECKS_BEFORE_REPEAT = 25
"""Checks after which a gap that stays closed is said again."""
RISE = 0.01
"""The least rise of the token accuracy that counts as one."""
EMERGED_ACCURACY, EMERGED_RISE = 0.7, 0.15
"""Token accuracy that knowledge of the language alone does not reach, and how far it must have risen in this run."""
ENOUGH_ACCURACY = 0.9
"""From here on a standstill is no plateau: little is left to gain."""

BEFORE_EMERGENCE = (
    "usual before emergence, which took the paper some thousand steps; if it stays so, see that transcripts belong to "
    "their recordings and that model.prompt suits the LLM, and try another optim.lr or a longer warm-up"
)
AFTER_EMERGENCE = "lower optim.lr or let it decay (optim.schedule), or give it more data or a larger adapter"
AFTER_A_FALL = "lower optim.lr, and go on from a checkpoint before it fell"


class Emergence:
    """The watch over one run. Only figures of training go in, none of a dev set."""

    def __init__(self, patience_steps: int, warmup_steps: int) -> None:
        """`patience_steps`: without a rise for so long, accuracy is on a plateau. Nothing is held against a run before
        `warmup_steps`."""
        self.emerged_at: int | None = None
        """The step at which token accuracy had risen to where only hearing takes it; None before, and for a run that
        began there."""
        self._patience, self._warmup = patience_steps, warmup_steps
        self._window = patience_steps / 20  # steps over which accuracy is smoothed
        self._smoothing = f"(smoothed over {self._window:g} steps)"
        self._reports: deque[tuple[int, float]] = deque()  # of so many steps
        self._rises: list[tuple[int, float]] = []  # (step, smoothed accuracy), each RISE or more above the one before
        self._plateau_said = False
        self._gaps: deque[float] = deque(maxlen=CHECKS)
        self._listens = False
        self._closed_since: int | None = None
        self._checks_until_said = 0

    @classmethod
    def from_metrics(cls, lines: Iterable[str], patience_steps: int, warmup_steps: int) -> "Emergence":
        """The watch as it stood after these lines of metrics.jsonl: what was said is not said again.

        Lines that are torn, or not of training, are passed over. The gap of a line is taken in before its accuracy.
        """
        watch = cls(patience_steps, warmup_steps)
        for line in lines:
            try:
                record = json.loads(line)
                kind, step = record["kind"], int(record["step"])
            except (ValueError, TypeError, KeyError):
                continue
            if kind == "train":
                watch.gap(step, _figure(record, "audio_gap"))
                watch.accuracy(step, _figure(record, "accuracy"), _figure(record, "loss"))
        return watch

    def gap(self, step: int, nats_per_token: float) -> list[str]:
        """What to say after an ablation check at `step`: the loss with the speech exchanged minus the true one."""
        if not math.isfinite(nats_per_token):
            return []
        self._gaps.append(nats_per_token)
        middle = median(self._gaps)
        if len(self._gaps) < CHECKS or IGNORED_NATS <= middle < HEARD_NATS:
            self._closed_since = None
            return []
        if middle >= HEARD_NATS:
            opened, self._listens = not self._listens, True
            self._closed_since, self._checks_until_said = None, 0
            return [f"step {step}: the LLM listens to the audio: {_gap_in_words(middle)}"] if opened else []
        self._closed_since = step if self._closed_since is None else self._closed_since
        return self._ignored(step, middle)

    def _ignored(self, step: int, middle: float) -> list[str]:
        self._checks_until_said = max(0, self._checks_until_said - 1)
        waited = step - max(self._closed_since or 0, self._warmup)
        if waited < self._patience / 2 or self._checks_until_said:
            return []
        stopped, self._listens, self._checks_until_said = self._listens, False, CHECKS_BEFORE_REPEAT
        what, tries = ("has stopped using", AFTER_A_FALL) if stopped else ("does not use", BEFORE_EMERGENCE)
        return [f"step {step}: the LLM {what} the audio: {_gap_in_words(middle)}; {tries}"]

    def accuracy(self, step: int, accuracy: float, loss: float) -> list[str]:
        """What to say after a report at `step` of the token accuracy (0 to 1) and the loss a token (nats).

        At a step with both, the gap goes in first.
        """
        if not math.isfinite(accuracy):
            return []
        now = self._smoothed(step, accuracy)
        if not self._rises:
            self._rises.append((step, now))
        if now >= self._rises[-1][1] + RISE:
            self._rises.append((step, now))
            self._plateau_said = False
        return self._emerged(step) + self._plateau(step, now, loss)

    def _smoothed(self, step: int, accuracy: float) -> float:
        self._reports.append((step, accuracy))
        while self._reports[0][0] < step - self._window:
            self._reports.popleft()
        return sum(value for _, value in self._reports) / len(self._reports)

    def _emerged(self, step: int) -> list[str]:
        hears = median(self._gaps) >= IGNORED_NATS if self._gaps else step >= self._patience / 10
        wanted = max(EMERGED_ACCURACY, self._rises[0][1] + EMERGED_RISE)
        reached = [rise for rise in self._rises if rise[1] >= wanted]
        if self.emerged_at is not None or not hears or not reached:
            return []
        self.emerged_at, high = reached[0]
        start, low = next(rise for rise in reversed(self._rises) if rise[1] <= high - EMERGED_RISE)
        climb = f"from {low:.2f} at step {start} to {high:.2f} at step {self.emerged_at}"
        return [f"step {step}: the LLM transcribes: token accuracy {self._smoothing} rose {climb}"]

    def _plateau(self, step: int, now: float, loss: float) -> list[str]:
        at, top = self._rises[-1]
        stood = step - max(at, self._warmup)
        fallen = now <= top - EMERGED_RISE
        good = max(now, 0 if fallen else top) >= ENOUGH_ACCURACY
        if self._plateau_said or good or stood < self._patience:
            return []
        self._plateau_said = True
        tries = AFTER_A_FALL if fallen else AFTER_EMERGENCE if top >= EMERGED_ACCURACY else BEFORE_EMERGENCE
        stands = f"token accuracy {self._smoothing} {now:.2f}, loss {loss:.2f}, at best {top:.2f} at step {at}"
        return [f"step {step}: no progress in {stood:,} steps: {stands}; {tries}"]


def _figure(record: dict[str, object], name: str) -> float:
    value = record.get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def _gap_in_words(nats: float) -> str:
    return f"another utterance's speech in place of its own changes the loss by {nats:+.3f} nats a token"
