"""What goes wrong without ending a run: steps that are skipped and utterances that are lost. Counted, named, bounded.

skipped.jsonl   {"step", "loss", "grad_norm", "keys"}     a step whose loss or gradient was not finite
lost.jsonl      {"step", "key", "reason"}                 an utterance that could not be read, in every epoch again
"""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from data_prep.durable import write_durably
from model.errors import counted
from train.data.loader import Lost
from train.dist.collectives import AgreedError, World
from train.report.metrics import Report

MAX_SKIPPED_IN_A_ROW = 3
NAMED = 8


class Mishaps:
    """The run's counts, the same on every rank; rank 0 writes the names."""

    def __init__(
        self, world: World, folder: Path, report: Report, max_lost: int, step: int, skipped: int, lost: int
    ) -> None:
        """Of a run that goes on from `step`; what the files tell of later steps is taken out. A collective."""
        self.world, self.folder, self.report = world, folder, report
        self.max_lost = max_lost
        self.skipped, self.lost = skipped, lost
        self._in_a_row = 0
        if world.first:
            self._keep("skipped.jsonl", step)
        told = self._keep("lost.jsonl", step) if world.first else []
        self._lost_keys = set(world.agree([line["key"] for line in told]))

    def step_was_fine(self) -> None:
        self._in_a_row = 0

    def skip(self, step: int, loss: float, norm: float, keys: Sequence[str], scale_lowered: bool) -> None:
        """Step number `step` (from 1) did not update the adapter, `keys` were this rank's part of it. A collective.

        AgreedError for the third in a row. What a lower loss scale may mend is not held against the data.
        """
        self.skipped += 1
        if not scale_lowered or not math.isfinite(loss):
            self._in_a_row += 1
        every = [key for part in self.world.gather(list(keys)) for key in part]
        named = ", ".join(every[:NAMED]) + (" ..." if len(every) > NAMED else "")
        said = f"step {step} is skipped: its loss is {loss:g} and its gradient has norm {norm:g} (utterances {named})"
        self._note("skipped.jsonl", [{"step": step, "loss": str(loss), "grad_norm": str(norm), "keys": every}])
        self.report.say(said)
        if self._in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise AgreedError(
                f"{MAX_SKIPPED_IN_A_ROW} steps in a row are not finite, the last of them step {step} (utterances "
                f"{named}); lower optim.lr, look at the recordings in {self.folder / 'skipped.jsonl'}, or give "
                "model.dtype: bfloat16 or float32"
            )

    def lose(self, step: int, lost: Sequence[Lost]) -> None:
        """This rank's part of step `step` (from 1) is without `lost`. A collective; AgreedError past the bound."""
        every = [tuple(one) for part in self.world.gather([(one.key, one.reason) for one in lost]) for one in part]
        new = {key for key, _ in every} - self._lost_keys
        self._lost_keys |= new
        self.lost += len(new)
        self._note("lost.jsonl", [{"step": step, "key": key, "reason": reason} for key, reason in every])
        key, reason = every[0]
        self.report.say(
            f"step {step} is without {counted(len(every), 'utterance')} that cannot be read: {key}: {reason}"
        )
        if self.lost > self.max_lost:
            raise AgreedError(
                f"{counted(self.lost, 'utterance')} could not be read, data.max_lost allows {self.max_lost}; the last: "
                f"{key}: {reason}; mend the shards, or raise data.max_lost"
            )

    def _keep(self, name: str, step: int) -> list[dict[str, Any]]:
        """The lines about steps up to `step`: later ones, which are taken again, go, as does what a crash left torn."""
        told, path = [], self.folder / name
        with suppress(OSError):
            lines = path.read_text(errors="replace").splitlines()
            for line in lines:
                with suppress(ValueError):
                    told.append(json.loads(line))
            told = [line for line in told if line["step"] <= step]
            if len(told) < len(lines):
                write_durably(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in told).encode())
        return told

    def _note(self, name: str, lines: Sequence[dict[str, Any]]) -> None:
        if not self.world.first:
            return
        try:
            with open(self.folder / name, "a") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        except OSError as error:
            self.report.say(f"cannot write {name}: {error.strerror}")
