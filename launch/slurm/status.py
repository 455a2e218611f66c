"""`slam-asr status`: how far a run is, from its own files, and what Slurm says of its jobs."""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

from data_prep.durable import read_records
from data_prep.figures import table
from data_prep.progress import clock
from data_prep.text import printable
from launch.slurm import client
from launch.slurm.lives import newest_step, read_lives
from model.errors import UserError, counted
from train.liveness.exit_status import FINISHED, STOPPED

TAIL_BYTES = 64_000
BEYOND = 1e15  # no figure of ours is larger; an integer that a damaged file holds may be too large to print
MARKERS = {
    FINISHED: "finished at step",
    STOPPED: "stopped as asked at step",
    "slurm/refusal": "not tried again:",
    "slurm/GAVE_UP": "gave up at step",
    "slurm/CANCEL": "cancelled",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print how far a run is, how fast, and what Slurm says of its jobs."
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")


def run(args: argparse.Namespace) -> int:
    state = status(client.run_folder(args.run))
    lines = [state["run"], *table([("", *row) for row in _rows(state)], left=(0, 1, 2))]
    print(json.dumps(state) if args.json else "\n".join(map(printable, lines)))
    return 0


def status(folder: Path) -> dict[str, Any]:
    metrics, lives = folder / "metrics.jsonl", read_lives(folder)
    reports = read_records(metrics, TAIL_BYTES)[::-1]
    markers = {name: folder / name for name in MARKERS if (folder / name).exists()}
    return {
        "run": str(folder),
        "checkpoint": newest_step(folder),
        "lives": len(lives),
        "last_life": lives[-1] if lives else None,
        **{kind: next((row for row in reports if row.get("kind") == kind), None) for kind in ("train", "dev")},
        "seconds_since_report": round(time.time() - metrics.stat().st_mtime) if metrics.exists() else None,
        "skipped": len(read_records(folder / "skipped.jsonl")),
        "lost": len(read_records(folder / "lost.jsonl")),
        "markers": {name: file.read_text(errors="replace").partition("\n")[0] for name, file in markers.items()},
        "jobs": [job for stage, number in client.read_jobs(folder).items() for job in _jobs(folder, stage, number)],
    }


def _jobs(folder: Path, stage: str, number: str) -> list[dict[str, Any]]:
    try:
        jobs = client.jobs(number) if shutil.which("scontrol") else [client.Job(number, "")]
    except UserError as error:  # the run's own files are still of use
        jobs = [client.Job(number, "", str(error))]
    return [{"stage": stage, **vars(job), "output": f"{folder}/slurm/{stage}-{job.number}.out"} for job in jobs]


def _rows(state: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for job in state["jobs"]:
        restarts = counted(job["restarts"], "restart") if job["restarts"] else ""
        since = job["since"] if job["state"] == "RUNNING" else ""
        parts = [job["state"] or "not known to Slurm", job["reason"], job["nodes"], restarts, since, job["output"]]
        rows.append((job["stage"], f"job {job['number']}: {', '.join(filter(None, parts))}"))
    if life := state["last_life"]:
        rows.append(("start", f"{state['lives']}, from step {life.get('step')} on {life.get('nodes')}"))
    for kind in ("train", "dev"):
        if report := state[kind]:
            numbers = {name: value for name, value in report.items() if isinstance(value, int | float)}
            figures = [f"{name} {value:.4g}" for name, value in numbers.items() if abs(value) < BEYOND]
            rows.append((kind, ", ".join(figures)))
    if state["seconds_since_report"] is not None:
        rows.append(("reported", f"{clock(state['seconds_since_report'])} ago"))
    if state["skipped"] or state["lost"]:
        rows.append(("lost", f"{counted(state['skipped'], 'step')} not finite, {state['lost']} unreadable utterances"))
    rows.append(("saved", f"at step {state['checkpoint']}" if state["checkpoint"] else "no checkpoint yet"))
    return rows + [("state", f"{MARKERS[name]} {text}".rstrip()) for name, text in state["markers"].items()]
