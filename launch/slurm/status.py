"""`slam-asr status`: how far a run is, from its own files, and what Slurm says of its jobs."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

from data_prep.figures import counted
from data_prep.text import printable
from launch.slurm import client
from launch.slurm.folder import folder_of, read_jobs
from launch.slurm.lives import newest_step, read_lives
from model.errors import UserError
from train.liveness.exit_status import FINISHED, STOPPED

TAIL_BYTES = 64_000
MARKERS = {
    FINISHED: "finished at step",
    STOPPED: "stopped as asked at step",
    "slurm/refusal": "not tried again:",
    "slurm/GAVE_UP": "gave up at step",
    "slurm/CANCEL": "cancelled",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Say how far a run is, how fast, and what Slurm says of its jobs."
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")


def run(args: argparse.Namespace) -> int:
    said = status(folder_of(args.run))
    if args.json:
        print(json.dumps(said))
        return 0
    for line in _lines(said):
        print(printable(line))
    return 0


def status(folder: Path) -> dict[str, Any]:
    """Everything, as plain values."""
    reports = _reports(folder / "metrics.jsonl")
    lives = read_lives(folder)
    said: dict[str, Any] = {"run": str(folder), "checkpoint": newest_step(folder), "lives": len(lives)}
    said["last_life"] = lives[-1] if lives else None
    for kind in ("train", "dev"):
        said[kind] = next((report for report in reversed(reports) if report.get("kind") == kind), None)
    metrics = folder / "metrics.jsonl"
    said["seconds_since_report"] = round(time.time() - metrics.stat().st_mtime) if metrics.exists() else None
    said["markers"] = {name: _first_line(folder / name) for name in MARKERS if (folder / name).exists()}
    said["jobs"] = _jobs(folder)
    return said


def _jobs(folder: Path) -> list[dict[str, Any]]:
    submitted = read_jobs(folder)
    here = shutil.which("scontrol") is not None
    found = []
    for stage, number in submitted.items():
        try:
            jobs = client.jobs(number) if here else [client.Job(number, "")]
        except UserError as error:  # the run's own files still tell
            jobs = [client.Job(number, "", str(error))]
        found += [{"stage": stage, **job.__dict__} for job in jobs]
    return found


def _lines(said: dict[str, Any]) -> list[str]:
    lines = [said["run"]]
    for job in said["jobs"]:
        state = job["state"] or "not known to Slurm"
        more = [job["reason"], job["nodes"], job["since"] if state == "RUNNING" else ""]
        more += [f"{counted(job['restarts'], 'restart')}" if job["restarts"] else ""]
        lines.append(f"  {job['stage']:9} job {job['number']}  {state}  " + "  ".join(part for part in more if part))
    if said["lives"]:
        life = said["last_life"]
        lines.append(f"  life {said['lives']}, from step {life.get('step')} on {life.get('nodes')}")
    if report := said["train"]:
        lines.append(f"  {_report(report)}; {_clock(said['seconds_since_report'])} ago")
    if dev := said["dev"]:
        figures = {name: value for name, value in dev.items() if name not in ("step", "kind") and value is not None}
        lines.append(
            f"  dev at step {dev['step']}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        )
    lines.append(f"  newest checkpoint: step {said['checkpoint']}" if said["checkpoint"] else "  no checkpoint yet")
    lines += [f"  {MARKERS[name]} {text}" for name, text in said["markers"].items()]
    return lines


def _report(report: dict[str, Any]) -> str:
    left = report.get("seconds_left")
    parts = [f"step {report.get('step')}"]
    parts += [f"loss {report['loss']:.4g}"] if report.get("loss") is not None else []
    parts += [f"{report['audio_hours_per_hour']:.4g} audio-h/h"] if report.get("audio_hours_per_hour") else []
    parts += [f"{_clock(left)} left"] if left is not None else []
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    seconds = int(seconds)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _first_line(file: Path) -> str:
    text = file.read_text(errors="replace").strip()
    return text.splitlines()[0] if text else ""


def _reports(path: Path) -> list[dict[str, Any]]:
    """The last of them; torn lines are passed over."""
    if not path.exists():
        return []
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    found = []
    for line in lines:
        try:
            report = json.loads(line)
        except ValueError:
            continue
        if isinstance(report, dict):
            found.append(report)
    return found
