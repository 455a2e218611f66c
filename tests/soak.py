"""`python -m tests.soak --kills 50`: a training that is killed again and again ends as if it never was.

1. A tiny recipe (dropout, SpecAugment, validation) trains to its end, with a checkpoint of every step.
2. The same recipe trains again, and each time something befalls it: kill -9 of a rank, of all, of the launcher, or a
   request to stop (SIGTERM, SIGUSR1), while it starts, trains, saves or validates. One start in eight goes through the
   real `deepspeed` command, the others through a forked stand-in for it.
3. After each, no process may be left; then the same command is given again. What it goes on from must be, bit for bit,
   what the first training had at that step.
4. In the end adapter and optimizer must be bit-identical, and metrics.jsonl must tell each step once, and the same.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import ranks

MOMENTS = {"start-up": 2, "training": 5, "saving": 3, "validating": 2}  # and how often each
VICTIMS = {"a rank": 4, "all": 2, "the launcher": 2, "SIGTERM": 1, "SIGUSR1": 1}
SAVE_EVERY, VALIDATE_EVERY = 3, 7
STEPS_A_KILL = 6  # how far the run may get between two, on average
ONE_IN = 8  # starts through the real launcher
SECONDS_TO_END = 900.0
OVERRIDES = [
    *("augment.time_masks=2", "augment.feature_masks=1", "log.every_steps=1", "watch.every_steps=10"),
    *("data.max_dev_samples=4", f"eval.every_steps={VALIDATE_EVERY}", "save.best=loss"),
]


@dataclass
class Start:
    """One start of the command, and what befell it."""

    moment: str
    victim: str
    launcher: str
    """ "deepspeed" or "forked"."""
    log: Path
    from_step: int
    began: float
    seconds: float = 0.0
    step: int = 0
    """Reached."""
    torn: int = 0
    """Temporary folders of a save that it left."""

    def reached(self) -> int:
        """The last step that its log tells of."""
        steps = re.findall(r"^step (\d+)/", self.log.read_text(), re.MULTILINE)
        return int(steps[-1]) if steps else 0

    def __str__(self) -> str:
        far = f"steps {self.from_step} to {self.step}" if self.step else f"at {self.from_step}, no step"
        return f"{self.moment:10}  {self.victim:12}  {self.launcher:9}  {far:20}  {self.seconds:5.1f} s"


@dataclass
class Soak:
    """A training under fire."""

    folder: Path
    world: int
    kills: int
    random: random.Random
    starts: list[Start] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    resumed: int = 0
    """Starts that went on from a checkpoint."""
    start_up_seconds: float = 3.0
    """From the command to the first step, as last seen."""

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def straight(self) -> Path:
        return self.folder / "straight"

    @property
    def steps(self) -> int:
        return STEPS_A_KILL * self.kills + 20

    def command(self, run: Path, *overrides: str) -> list[str]:
        ground = self.folder / "ground"
        limits = [f"optim.max_steps={self.steps}", "run.stall_seconds=120", "run.collective_timeout_seconds=150"]
        where = [f"data.dev={ground / 'dev'}", f"run.dir={run}"]
        return [str(ground / "recipe.yaml"), *OVERRIDES, *limits, *where, *overrides]

    def __call__(self) -> bool:
        """Whether all is well in the end."""
        from tests.train.conftest import make_ground

        (self.folder / "ground").mkdir(parents=True)
        make_ground(self.folder / "ground")
        began = time.monotonic()
        ranks.train(self.command(self.straight, "save.every_steps=1"), self.world, self.folder / "straight.log")
        say(f"{self.steps} steps on {self.world} ranks, uninterrupted: {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        for number in range(self.kills):
            self._one(number)
            left = (time.monotonic() - began) / (number + 1) * (self.kills - number - 1)
            say(f"{number + 1:3}/{self.kills}  {self.starts[-1]}  {left:4.0f} s left")
            if (self.run / "FINISHED").exists():
                self.faults.append(f"finished before all {self.kills} had befallen it")
                break
        log, saved = self.folder / "last.log", digests(self.run)
        ranks.train(self._command(), self.world, log)
        self._check_resumed(log, saved)
        self._compare()
        return not self.faults

    def _command(self) -> list[str]:
        return self.command(self.run, f"save.every_steps={SAVE_EVERY}", "save.total_limit=3")

    def _one(self, number: int) -> None:
        launcher = "deepspeed" if number % ONE_IN == ONE_IN - 1 else "forked"
        moment, victim = (self.random.choices([*odds], [*odds.values()])[0] for odds in (MOMENTS, VICTIMS))
        saved, log = digests(self.run), self.folder / f"start-{number:03}.log"
        start = Start(moment, victim, launcher, log, max(saved, default=0), time.monotonic())
        self.starts.append(start)
        log.touch()
        launch = ranks.launch if launcher == "deepspeed" else ranks.start_under_launcher
        process = launch(self._command(), self.world, log)
        try:
            self._wait_for(start, process.pid)
            self._strike(start, process.pid)
        finally:
            self._see_it_end(process, log)
        start.seconds, start.step = time.monotonic() - start.began, start.reached()
        start.torn = len(list(self.run.glob("checkpoints/.tmp-step*")))
        self._check_resumed(log, saved)

    def _wait_for(self, start: Start, pid: int) -> None:
        """Until the moment has come, or nothing runs any more."""
        if start.moment == "start-up":
            return time.sleep(self.random.uniform(0, 1.1 * self.start_up_seconds))
        old = set(self.run.glob("checkpoints/.tmp-step*"))
        target = start.from_step + self.random.randint(1, 2 * STEPS_A_KILL)
        came: Callable[[], bool] = {
            "training": lambda: start.reached() >= target,
            "saving": lambda: bool(set(self.run.glob("checkpoints/.tmp-step*")) - old),
            "validating": lambda: start.reached() % VALIDATE_EVERY == 0,
        }[start.moment]
        self._poll(start, pid, lambda: start.reached() > start.from_step)
        self.start_up_seconds = time.monotonic() - start.began
        self._poll(start, pid, came)
        time.sleep(self.random.uniform(0, 0.004 if start.moment == "saving" else 0.03))

    def _poll(self, start: Start, pid: int, came: Callable[[], bool]) -> None:
        while not came() and not (self.run / "FINISHED").exists():
            late = time.monotonic() - start.began > SECONDS_TO_END
            if late or not alive(pid):
                self.faults.append(f"{start.log.name}: {'stands still' if late else 'ended by itself'}")
                return
            time.sleep(0.001)

    def _strike(self, start: Start, pid: int) -> None:
        launchers = [pid, *(ranks.children(pid) if start.launcher == "deepspeed" else [])]
        running = ranks.children(launchers[-1])
        one = self.random.sample(running, min(1, len(running)))
        if not running and start.victim != "all":
            start.victim = "the launcher"
        victims = {"a rank": one, "all": launchers + running, "the launcher": self.random.sample(launchers, 1)}
        number = signal.Signals[start.victim] if start.victim.startswith("SIG") else signal.SIGKILL
        for victim in victims.get(start.victim, self.random.choice([one, running])) or [pid]:
            with suppress(ProcessLookupError):
                os.kill(victim, number)

    def _see_it_end(self, process: Any, log: Path) -> None:
        try:
            process.wait(SECONDS_TO_END) if isinstance(process, subprocess.Popen) else process.join(SECONDS_TO_END)
            ranks.wait_until_none_is_left(log, SECONDS_TO_END)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            self.faults.append(f"{log.name}: {str(error).splitlines()[0]}")
        finally:
            for pid in ranks.writers(log):
                os.kill(pid, signal.SIGKILL)

    def _check_resumed(self, log: Path, saved: dict[int, str]) -> None:
        """What a start went on from: the newest checkpoint, which has the bits of the uninterrupted run's."""
        text = log.read_text()
        found = re.search(r"resuming from \S*step-(\d+)", text)
        if "is damaged" in text:
            self.faults.append(f"{log.name}: a torn checkpoint under a final name")
        if saved and not found and "\nstep " in text:
            self.faults.append(f"{log.name}: started anew")
        if not found:
            return
        step = int(found[1])
        self.resumed += 1
        if step != max(saved) or saved[step] != digest(self.straight, step):
            self.faults.append(f"{log.name}: went on from step {step} of {sorted(saved)}, or from other bits")

    def _compare(self) -> None:
        """The end of both runs."""
        if digest(self.run, self.steps) != digest(self.straight, self.steps):
            self.faults.append("the adapter or the optimizer differs from the uninterrupted run's")
        if told(self.run) != told(self.straight):
            self.faults.append("metrics.jsonl does not tell each step once, or not the same")

    def summary(self) -> str:
        """A table of what befell, and the figures."""
        counts = Counter((start.victim, start.moment) for start in self.starts)
        rows = [f"{'':14}" + "".join(f"{moment:>12}" for moment in MOMENTS)]
        rows += [f"{victim:14}" + "".join(f"{counts[victim, moment]:12}" for moment in MOMENTS) for victim in VICTIMS]
        following = [start.from_step for start in self.starts[1:]] + [self.starts[-1].step]
        again = sum(max(0, start.step - after) for start, after in zip(self.starts, following, strict=True))
        real = sum(start.launcher == "deepspeed" for start in self.starts)
        rows.append(
            f"{len(self.starts)} kills and stops, {real} of them under the real launcher; {self.resumed} times it went "
            f"on from a checkpoint, {again} steps were taken again; {sum(start.torn for start in self.starts)} times a "
            "save was cut short"
        )
        return "\n".join(rows)


def alive(pid: int) -> bool:
    """Whether a process runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def digest(run: Path, step: int) -> str:
    """sha256 of a checkpoint's adapter and moments."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    data = [(folder / name).read_bytes() for name in ("adapter.safetensors", "optimizer.safetensors")]
    return hashlib.sha256(b"".join(data)).hexdigest()


def digests(run: Path) -> dict[int, str]:
    """Of all checkpoints, by step; "" for one that is being removed."""
    found = {}
    for path in run.glob("checkpoints/step-*"):
        step = int(path.name[5:])
        found[step] = digest(run, step) if (path / "MANIFEST.json").exists() else ""
    return found


def told(run: Path) -> list[tuple[str, int, float]]:
    """What metrics.jsonl tells, but for times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["kind"], line["step"], line["loss"]) for line in lines]


def say(text: str) -> None:
    print(text, flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m tests.soak", description="Kill a training again and again."
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="an empty one, kept (default: temporary, kept if something fails)")
    args = parser.parse_args(arguments)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    began = time.monotonic()
    soak = Soak(folder, args.ranks, args.kills, random.Random(args.seed))
    well = soak()
    say(f"{soak.summary()}\n{time.monotonic() - began:.0f} s in all")
    for fault in soak.faults:
        say(f"FAULT {fault}")
    if well and args.folder is None:
        shutil.rmtree(folder)
    say("bit-identical to the uninterrupted run" if well else f"see {folder}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
