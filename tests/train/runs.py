"""Trainings of the recipe in `ground` (conftest.py), and what is asked of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import ranks


def command(ground: Path, folder: Path, *arguments: str, stage: int = 0) -> list[str]:
    """The arguments of `python -m train` for a run in `folder`."""
    return ["--deepspeed", f"zero{stage}", str(ground / "recipe.yaml"), f"run.dir={folder}", *arguments]


def run(
    ground: Path,
    folder: Path,
    *arguments: str,
    world: int = 1,
    stage: int = 0,
    expected: int = 0,
    before: Callable[[int], None] | None = None,
    log: Path | None = None,
) -> str:
    """Trains, and returns what the ranks wrote, which goes into `log` or `folder`.log; see ranks.train."""
    log = log or folder.with_suffix(".log")
    log.unlink(missing_ok=True)
    return ranks.train(command(ground, folder, *arguments, stage=stage), world, log, expected, before)


def refuse(ground: Path, folder: Path, *arguments: str, **given: Any) -> str:
    """The one line that a training says before it exits with 2."""
    return refusal(run(ground, folder, *arguments, expected=2, **given))


def refusal(text: str) -> str:
    """The one line that was said, with no traceback."""
    lines = {line for line in text.splitlines() if line.startswith("train: ")}
    assert len(lines) == 1 and "Traceback" not in text, text
    return lines.pop()


def assert_same(folder: Path, straight: Path, step: int = 8) -> None:
    """Finished with the same adapter and optimizer; metrics.jsonl tells each step once, and the same.

    Nothing under a temporary name is left.
    """
    assert (folder / "FINISHED").read_text() == f"{step}\n" and not (folder / "STOPPED").exists()
    assert not list((folder / "checkpoints").glob(".tmp*"))
    for name in ("adapter.safetensors", "optimizer.safetensors"):
        ours, theirs = (path / "checkpoints" / f"step-{step:08d}" / name for path in (folder, straight))
        assert ours.read_bytes() == theirs.read_bytes()
    assert ranks.losses(folder, figure="step") == [*range(1, step + 1)]
    assert ranks.losses(folder) == ranks.losses(straight)
