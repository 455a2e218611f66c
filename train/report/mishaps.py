"""Errors that do not end a run, counted and named: steps that are skipped and utterances that are lost.

skipped.jsonl   {"step", "loss", "grad_norm", "keys"}     a step whose loss or gradient was not finite
lost.jsonl      {"step", "key", "reason"}                 an utterance that could not be read, again in every epoch"""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from model.errors import counted
from train.data.loader import Lost
from train.dist.collectives import AgreedError, World
from train.engine.checkpoint import State
from train.report.metrics import Report
from train.report.sinks import drop_records_after

MAX_SKIPPED_IN_A_ROW = 3
NAMED = 8


class Mishaps:
    """The run's counts, the same on every rank; rank 0 writes the files."""

    def __init__(self, world: World, folder: Path, report: Report, max_lost: int, state: State) -> None:
        """For a run that resumes from `state`; records of later steps are removed from the files. A collective."""
        self.world, self.folder, self.report, self.max_lost = world, folder, report, max_lost
        self.skipped, self.lost, self._in_a_row = state.skipped, state.lost, 0
        records: list[dict[str, Any]] = []
        if world.first:
            with suppress(OSError):
                drop_records_after(folder / "skipped.jsonl", state.step)
                records = drop_records_after(folder / "lost.jsonl", state.step)
        self._lost_keys = set(world.agree([record["key"] for record in records]))

    def step_was_fine(self) -> None:
        self._in_a_row = 0

    def skip(self, step: int, loss: float, norm: float, keys: Sequence[str], scale_lowered: bool) -> None:
        """Counts step `step` (from 1) as skipped; `keys` are this rank's utterances. A collective; AgreedError for the
        third in a row, of which steps that a lower loss scale may mend are none."""
        self.skipped += 1
        if not scale_lowered or not math.isfinite(loss):
            self._in_a_row += 1
        every = [key for part in self.world.gather(list(keys)) for key in part]
        named = ", ".join(every[:NAMED]) + (" ..." if len(every) > NAMED else "")
        self._append("skipped.jsonl", [{"step": step, "loss": str(loss), "grad_norm": str(norm), "keys": every}])
        numbers = f"its loss is {loss:g} and its gradient has norm {norm:g}"
        self.report.say(f"step {step} is skipped: {numbers} (utterances {named})")
        if self._in_a_row >= MAX_SKIPPED_IN_A_ROW:
            last = f"{MAX_SKIPPED_IN_A_ROW} steps in a row are not finite, the last is step {step} (utterances {named})"
            recordings = f"look at the recordings in {self.folder / 'skipped.jsonl'}"
            raise AgreedError(f"{last}; lower optim.lr, {recordings}, or give model.dtype: bfloat16 or float32")

    def lose(self, step: int, lost: Sequence[Lost]) -> None:
        """Counts utterances that step `step` (from 1) lacks on this rank. A collective; AgreedError for too many."""
        every = [tuple(pair) for part in self.world.gather([(u.key, u.reason) for u in lost]) for pair in part]
        new = {key for key, _ in every} - self._lost_keys
        self._lost_keys |= new
        self.lost += len(new)
        self._append("lost.jsonl", [{"step": step, "key": key, "reason": reason} for key, reason in every])
        one = f"{every[0][0]}: {every[0][1]}"
        self.report.say(f"step {step} is without {counted(len(every), 'utterance')} that cannot be read: {one}")
        if self.lost > self.max_lost:
            unread = f"{counted(self.lost, 'utterance')} could not be read, data.max_lost allows {self.max_lost}"
            raise AgreedError(f"{unread}; the last: {one}; mend the shards, or raise data.max_lost")

    def _append(self, name: str, records: Sequence[dict[str, Any]]) -> None:
        try:
            if self.world.first:
                with open(self.folder / name, "a") as file:
                    file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        except OSError as error:
            self.report.say(f"cannot write {name}: {error.strerror}")
