"""Errors that do not end a run, counted and named: steps that are skipped and utterances that are lost.

skipped.jsonl   {"step", "loss", "grad_norm", "keys"}     a step whose loss or gradient was not finite
lost.jsonl      {"step", "key", "reason"}                 an utterance that could not be read, again in every epoch
"""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from model.errors import counted
from train.data.loader import Lost
from train.dist.collectives import AgreedError, World
from train.report.metrics import Report
from train.report.sinks import drop_records_after

MAX_SKIPPED_IN_A_ROW = 3
NAMED = 8


class Mishaps:
    """The run's counts, the same on every rank; rank 0 writes the files."""

    def __init__(
        self, world: World, folder: Path, report: Report, max_lost: int, step: int, skipped: int, lost: int
    ) -> None:
        """For a run that resumes at `step`; records of later steps are removed from the files. A collective."""
        self.world, self.folder, self.report = world, folder, report
        self.max_lost = max_lost
        self.skipped, self.lost = skipped, lost
        self._in_a_row = 0
        records: list[dict[str, Any]] = []
        if world.first:
            with suppress(OSError):
                drop_records_after(folder / "skipped.jsonl", step)
                records = drop_records_after(folder / "lost.jsonl", step)
        self._lost_keys = set(world.agree([record["key"] for record in records]))

    def step_was_fine(self) -> None:
        self._in_a_row = 0

    def skip(self, step: int, loss: float, norm: float, keys: Sequence[str], scale_lowered: bool) -> None:
        """Counts step `step` (from 1) as skipped; `keys` are this rank's utterances. A collective.

        AgreedError for the third in a row; steps that a lower loss scale may mend do not count for that.
        """
        self.skipped += 1
        if not scale_lowered or not math.isfinite(loss):
            self._in_a_row += 1
        every = [key for part in self.world.gather(list(keys)) for key in part]
        named = ", ".join(every[:NAMED]) + (" ..." if len(every) > NAMED else "")
        self._append("skipped.jsonl", [{"step": step, "loss": str(loss), "grad_norm": str(norm), "keys": every}])
        self.report.say(
            f"step {step} is skipped: its loss is {loss:g} and its gradient has norm {norm:g} (utterances {named})"
        )
        if self._in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise AgreedError(
                f"{MAX_SKIPPED_IN_A_ROW} steps in a row are not finite, the last of them step {step} (utterances "
                f"{named}); lower optim.lr, look at the recordings in {self.folder / 'skipped.jsonl'}, or give "
                "model.dtype: bfloat16 or float32"
            )

    def lose(self, step: int, lost: Sequence[Lost]) -> None:
        """Counts utterances that step `step` (from 1) lacks on this rank. A collective; AgreedError for too many."""
        every = [tuple(pair) for part in self.world.gather([(one.key, one.reason) for one in lost]) for pair in part]
        new = {key for key, _ in every} - self._lost_keys
        self._lost_keys |= new
        self.lost += len(new)
        self._append("lost.jsonl", [{"step": step, "key": key, "reason": reason} for key, reason in every])
        key, reason = every[0]
        unread = f"{counted(len(every), 'utterance')} that cannot be read"
        self.report.say(f"step {step} is without {unread}: {key}: {reason}")
        if self.lost > self.max_lost:
            raise AgreedError(
                f"{counted(self.lost, 'utterance')} could not be read, data.max_lost allows {self.max_lost}; the last: "
                f"{key}: {reason}; mend the shards, or raise data.max_lost"
            )

    def _append(self, name: str, records: Sequence[dict[str, Any]]) -> None:
        if not self.world.first:
            return
        try:
            with open(self.folder / name, "a") as file:
                file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        except OSError as error:
            self.report.say(f"cannot write {name}: {error.strerror}")
