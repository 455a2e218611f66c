"""Where a run's figures go: metrics.jsonl, the terminal, TensorBoard."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from data_prep.durable import records, write_durably
from data_prep.progress import Progress, clock


class Sink(Protocol):
    """Takes the figures of each report."""

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """metrics.jsonl: one object a report, `{"step": .., "kind": "train" | "dev", ...}`."""

    def __init__(self, path: Path, from_step: int) -> None:
        """Removes the records of steps after `from_step`, which the run takes again."""
        drop_records_after(path, from_step)
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 - open as long as the run

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        try:
            self._file.write(json.dumps({"step": step, "kind": kind, **finite}) + "\n")
        except OSError as error:  # a full disk names no file
            raise OSError(error.errno, error.strerror, self._file.name) from None

    def close(self) -> None:
        self._file.close()


def drop_records_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Removes the records of steps after `step` from a JSON Lines file, and torn lines; returns what is left. At step 0
    the run begins anew, and nothing is left."""

    def is_kept(record: dict[str, Any]) -> bool:
        return isinstance(record.get("step"), int | float) and 0 < step >= record["step"]

    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    kept = [(line, record) for line in lines if line.endswith(b"\n") for record in records([line]) if is_kept(record)]
    if len(kept) < len(lines):
        write_durably(path, b"".join(line for line, _ in kept))
    return [record for _, record in kept]


class TensorBoard:
    """Scalars in the run's tensorboard/ folder."""

    def __init__(self, path: Path, from_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(path), purge_step=from_step + 1)

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class Console:
    """A progress bar on a terminal, plain lines in a log; on stderr. Training goes on if the terminal goes away."""

    def __init__(self, total_steps: int, from_step: int) -> None:
        self._total = total_steps
        self._progress = Progress(total_steps, unit="steps", log_lines=False).__enter__()
        self._progress.keep(from_step)

    def say(self, text: str) -> None:
        with suppress(OSError):
            self._progress.say(text)

    def advance(self) -> None:
        with suppress(OSError):
            self._progress.advance()

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        words = (f"{SHORT_NAMES.get(name, name)} {shown(name, value)}" for name, value in figures.items())
        self.say(f"step {step}/{self._total}  {kind + ' ' if kind != 'train' else ''} {'  '.join(words)}")

    def close(self) -> None:
        self._progress.__exit__(None, None, None)


def shown(name: str, value: float) -> str:
    """A figure as people read it: 71.2% of a WER of 0.712."""
    return clock(value) if name in ("seconds", "seconds_left") else FORMATS.get(name, "{:.4g}").format(value)


SHORT_NAMES = {  # on the console
    "audio_hours_per_hour": "audio-h/h",
    "useful_share": "useful",
    "waited_for_data": "waited",
    "memory_gb": "memory",
    "steps_per_second": "steps/s",
    "seconds_left": "left",
    "seconds": "took",
    "hallucinated_words": "words on silence",
    "silent_utterances": "silent",
}
FORMATS = {
    **dict.fromkeys(("accuracy", "wer", "cer", "useful_share"), "{:.1%}"),
    "waited_for_data": "{:.1f} s",
    "memory_gb": "{:.1f} GB",
}
