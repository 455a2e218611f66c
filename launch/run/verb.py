"""A request carried out: its stages in order, each command printed, then run."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from data_prep.progress import clock
from launch.run import folder, scores
from launch.run.request import Request, config_of, read_request
from launch.run.running import Running
from launch.run.stages import Command, Stage, caches, said_of_caching, scored, stages
from train.dist.lock import holder
from train.liveness.exit_status import AGAIN, FINISHED, MISTAKE, STOPPED

FAILED = 1
SECONDS_TO_SAVE = 60.0
"""For a training of an earlier start that was killed, to save and leave."""


def carry_out(args: argparse.Namespace) -> int:
    """The exit code, as `slam-asr run --help` has it."""
    request = read_request(args)
    begun = folder.require_ours(request)
    if not begun:
        _require_models(request)
    if args.dry_run:
        _show(request)
        return 0
    with folder.claim(request.out):
        folder.require_ours(request)  # whatever was done while another process held it
        folder.remember(request)
        return _Work(request)()


def _require_models(request: Request) -> None:
    """UserError where encoder or LLM is none, before anything is made."""
    from model.skeleton import read_config

    model = config_of(request).model
    for what, source in (("encoder", model.encoder), ("LLM", model.llm)):
        read_config(what, source, model.trust_remote_code)


def _show(request: Request) -> None:
    """A dry run: each command that would be run, as far as it is known."""
    all_stages = stages(request)
    for number, stage in enumerate(all_stages, 1):
        print(_title(number, all_stages))
        for command in stage.commands(request):
            print(f"$ {command}" + (f"  # {command.done}" if command.done else ""))


def _title(number: int, all_stages: list[Stage]) -> str:
    stage = all_stages[number - 1]
    return f"=== {number} of {len(all_stages)} {stage.name}: {stage.what}"


class _Work:
    """The stages of one start, and the seconds of each."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.running = Running()
        self.seconds: dict[str, float] = {}

    def __call__(self) -> int:
        all_stages = stages(self.request)
        with self.running.passing_on_signals():
            for number, stage in enumerate(all_stages, 1):
                print(f"\n{_title(number, all_stages)}" if number > 1 else _title(number, all_stages), flush=True)
                began = time.monotonic()
                code = self._stage(stage)
                self.seconds[stage.name] = round(time.monotonic() - began, 1)
                if code:
                    return code
        self._close()
        return 0

    def _stage(self, stage: Stage) -> int:
        if stage.name == "features":
            cached = caches(self.request)
            folder.remember(self.request, cached)
            if not cached:
                print(f"not cached: {said_of_caching(self.request)}")
        for command in stage.commands(self.request):
            print(f"$ {command}" + (f"  # {command.done}" if command.done else ""), flush=True)
            code = 0 if command.done else self._run(stage, command)
            if code or self.running.asked:
                return self._ended(stage, code)
        return 0

    def _run(self, stage: Stage, command: Command) -> int:
        for path in command.replaces:
            path.unlink(missing_ok=True)
        if stage.name != "train":
            return self.running(command.words)
        self._wait_for_former_training()
        code = self.running(command.words)
        finished, stopped = ((self.request.run / name).exists() for name in (FINISHED, STOPPED))
        if code == 0 and not finished:  # no exit code proves anything
            return AGAIN if stopped else FAILED
        return code

    def _wait_for_former_training(self) -> None:
        """One that was started by a process that has been killed is saving now, and leaves."""
        deadline = time.monotonic() + SECONDS_TO_SAVE
        told = False
        while (by := holder(self.request.run)) and time.monotonic() < deadline and not self.running.asked:
            if not told:
                _say(f"waiting for {by}, an earlier training in {self.request.run}, to save and leave")
                told = True
            time.sleep(0.2)

    def _ended(self, stage: Stage, code: int) -> int:
        asked = self.running.asked
        if asked or code == AGAIN:
            by = f" ({signal.Signals(asked).name})" if asked else ""
            _say(f"stopped in stage {stage.name}{by}; the same command goes on from there")
            return code or AGAIN
        mended = "mended, the" if code == MISTAKE else "the"
        _say(f"stage {stage.name} ended with exit code {code}, as said above; {mended} same command goes on from there")
        return code

    def _close(self) -> None:
        request = self.request
        folders = {corpus.name: request.scores(corpus.name) for corpus in scored(request)}
        summary = scores.summarise(request.out, request.run, folders, self.seconds)
        total = self.seconds | {"total": summary["seconds"]["total"]}
        print(f"\n=== done in {clock(total['total'])}; figures in {request.out / 'summary.json'}")
        print("\n".join(scores.table(summary["scores"])))
        if not request.tests:
            print("dev chose the checkpoint, so its figure flatters; --test CORPUS scores on what the run has not seen")
        print(f"adapter: {_checkpoint(request.run)} (step {summary['step']:,})")
        print("next:")
        lines = scores.next_commands(request.run, request.out)
        width = max(len(command) for command, _ in lines)
        for command, what in lines:
            print(f"  {command:{width}}  # {what}")


def _checkpoint(run: Path) -> Path:
    from model.weights import find_adapter

    return find_adapter(run)


def _say(line: str) -> None:
    print("run:", line, file=sys.stderr, flush=True)
