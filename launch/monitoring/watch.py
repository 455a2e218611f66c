"""`slam-asr watch RUN`: a run on the terminal, live, from the files it writes; from any host that sees them."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.figures import counted

if TYPE_CHECKING:
    from launch.monitoring.story import Story

SECONDS_A_LOOK = 1.0
BLOCKS, PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", ".:-=+*%#"
SPARKS = 48  # wide


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Show how far a run is, live, until it ends or Ctrl-C. It only reads the run's files. "
        "Without a terminal, or with --once, it prints one look as plain lines."
    )
    parser.add_argument("folder", metavar="RUN", type=Path, help="run.dir of a training")
    parser.add_argument("--once", action="store_true", help="print once, as plain text, and exit")


def run(args: argparse.Namespace) -> int:
    from launch.monitoring.story import open_story

    story = open_story(args.folder)
    if args.once or not sys.stdout.isatty():
        for label, text, _ in rows(story, time.time()):
            print(f"{label:<9}{text}")
        return 0
    try:
        _live(story)
    except KeyboardInterrupt:  # how one leaves
        pass
    return 0


def _live(story: Story) -> None:
    from rich.live import Live

    # Nobody else prints; and what rich puts in stdout's place does not know its encoding, which `_blocks` asks for.
    with Live(_panel(story), auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        while not story.ended():
            time.sleep(SECONDS_A_LOOK)
            story.read_on()
            live.update(_panel(story), refresh=True)
        story.read_on()  # the end may have come since it was last shown
        live.update(_panel(story), refresh=True)


def _panel(story: Story) -> Any:
    """The rows under a bar; as Text, so that nothing in them is taken for rich's own markup."""
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for label, text, style in rows(story, time.time()):
        grid.add_row(Text(label, style="dim"), Text(text, style=style))
        if label == "step":
            bar = ProgressBar(story.total_steps or 1, story.step, width=SPARKS, complete_style="cyan")
            grid.add_row("", bar)
    return Panel(grid, title=Text("slam-asr watch"), title_align="left")


def rows(story: Story, now: float) -> list[tuple[str, str, str]]:
    """What there is to say: label, text and style (rich's)."""
    from data_prep.text import printable

    said = [("run", printable(str(story.folder)), "bold"), ("state", *_state(story, now))]
    said += [("step", _progress(story), "")]
    last, dev = story.last, story.dev
    if last:
        shown = [_shown(last, "loss", "{:.4g}"), _shown(last, "accuracy", "accuracy {:.1%}")]
        shown += [_shown(last, "audio_gap", "audio gap {:.3g}"), _shown(last, "lr", "lr {:.3g}")]
        said.append(("loss", _joined(*shown, _shown(last, "grad_norm", "gradient {:.3g}")), ""))
        said.append(("", sparkline(story.losses, SPARKS, _blocks()), "cyan"))
    if dev:
        best = f"best {story.best_wer:.1%} at step {story.best_wer_step:,}" if story.best_wer is not None else ""
        shown = [_shown(dev, "loss", "loss {:.4g}"), _shown(dev, "accuracy", "accuracy {:.1%}")]
        figures = _joined(*shown, _shown(dev, "wer", "WER {:.1%}"), best)
        said.append(("dev", f"at step {int(dev['step']):,}: {figures}", ""))
    if last:
        shown = [_shown(last, "audio_hours_per_hour", "{:.4g} h of audio an hour")]
        shown += [_shown(last, "useful_share", "useful {:.1%}"), _shown(last, "memory_gb", "memory {:.1f} GB")]
        said.append(("speed", _joined(*shown, _shown(last, "waited_for_data", "waited {:.1f} s for data")), ""))
    if story.skipped or story.lost:
        said.append(
            ("mishaps", f"{counted(story.skipped, 'step')} skipped, {counted(story.lost, 'reading')} lost", "yellow")
        )
    return said


def _state(story: Story, now: float) -> tuple[str, str]:
    from data_prep.progress import clock

    if ended := story.ended():
        return ended, "green" if ended.startswith("finished") else "yellow"
    age = story.age(now)
    if age is None:
        return "has not reported yet", ""
    if story.is_silent(now):
        return f"SILENT: the last report is {clock(age)} old; look at its log and at stacks/", "bold red"
    return f"at work, the last report is {clock(age)} old", ""


def _progress(story: Story) -> str:
    from data_prep.progress import clock

    total, left = story.total_steps, story.last.get("seconds_left")
    if not total or left is None:
        return f"{story.step:,}"
    epoch = f"epoch {int(story.last['epoch'])}" if "epoch" in story.last else ""
    ends = "" if story.ended() else f"{clock(left)} left"
    return _joined(f"{story.step:,} of {total:,}", f"{story.step / total:.1%}", epoch, ends)


def _shown(figures: dict[str, float], name: str, form: str) -> str:
    return form.format(figures[name]) if name in figures else ""


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _blocks() -> str:
    return BLOCKS if (sys.stdout.encoding or "").lower().startswith("utf") else PLAIN_BLOCKS


def sparkline(values: list[float | None], width: int, blocks: str) -> str:
    """The course of the values in at most `width` characters, each the mean of its part; "!" where none is finite."""
    width = min(width, len(values))
    parts = [values[len(values) * i // width : len(values) * (i + 1) // width] for i in range(width)]
    known = [[value for value in part if value is not None] for part in parts]
    means = [sum(part) / len(part) if part else None for part in known]
    finite = [mean for mean in means if mean is not None]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(blocks) - 1) / ((high - low) or 1.0)
    return "".join("!" if mean is None else blocks[round((mean - low) * scale)] for mean in means)
