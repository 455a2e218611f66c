"""Runs the stages of a request in order, each command printed first; signals are passed on to the command."""

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from data_prep.durable import locked_folder, write_durably
from data_prep.figures import table
from data_prep.progress import clock
from decode.scoring import SCORE
from launch.run.request import Request, config_of, is_begun, read_request, write_run_json
from launch.run.stages import Command, caches, scored, shared, stages, why_not_cached
from launch.stages import program
from model.errors import TransientError
from train.dist.lock import holder
from train.liveness.exit_status import AGAIN, FINISHED, MISTAKE, STOPPED

FAILED = 1
SECONDS_TO_SAVE = 60.0
"""For a training of an earlier start that was killed, to save and exit."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
PR_SET_PDEATHSIG = 1


def carry_out(args: argparse.Namespace) -> int:
    """The exit code, as `slam-asr run --help` documents it."""
    request = read_request(args)
    if not is_begun(request):
        from model.skeleton import read_config

        model = config_of(request).model
        for what, source in (("encoder", model.encoder), ("LLM", model.llm)):
            read_config(what, source, model.trust_remote_code)  # UserError where it cannot be opened
    if args.dry_run:
        for stage in stages(request):
            print(stage.title)
            for command in stage.commands(request):
                print(f"$ {command}")
        return 0
    at_work = f"another `slam-asr run` is at work in {request.out}; wait for it, or give another"
    with locked_folder(request.out, lambda: TransientError(at_work)):
        is_begun(request)  # another process may have worked there until now
        write_run_json(request)
        runner, seconds = _Runner(), {}
        with runner.passing_on_signals():
            for stage in stages(request):
                print(f"\n{stage.title}" if seconds else stage.title, flush=True)
                began = time.monotonic()
                code = _run_stage(request, stage.name, stage.commands(request), runner)
                seconds[stage.name] = round(time.monotonic() - began, 1)
                if code:
                    return code
        _report(request, seconds)
        return 0


class _Runner:
    """Runs one command after another, and keeps the first signal that asked to stop."""

    def __init__(self) -> None:
        self.signal = 0
        """Its number; 0 if none has come."""
        self._process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def passing_on_signals(self) -> Iterator[None]:
        """Within it, signals to this process go to the command."""
        before = [(number, signal.signal(number, self._on_signal)) for number in SIGNALS]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def run(self, words: Sequence[str]) -> int:
        """Runs the command to its end; its exit code, or 128 and the number of the signal that ended it."""
        prctl, parent, before = ctypes.CDLL(None).prctl, os.getpid(), self.signal

        def end_with_parent() -> None:  # in the child: the kernel is to send it SIGTERM when this process dies
            prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
            if os.getppid() != parent:  # it died before prctl
                os._exit(128 + signal.SIGTERM)

        self._process = subprocess.Popen(
            [program(words[0]), *words[1:]],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches it once: from us
            preexec_fn=end_with_parent,
        )
        if self.signal != before:  # it came between the lines above
            self._process.send_signal(self.signal)
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def _on_signal(self, number: int, frame: object) -> None:
        self.signal = self.signal or number
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


def _run_stage(request: Request, name: str, commands: Iterator[Command], runner: _Runner) -> int:
    if name == "build":
        for line in shared(request):
            _print_note(line)
    if name == "features":
        cached = caches(request)
        write_run_json(request, cached)
        if not cached:
            print(f"not cached: {why_not_cached(request) or 'as decided at the first start'}")
    for command in commands:
        print(f"$ {command}", flush=True)
        code = 0
        if not command.done:
            for path in command.replaces:
                path.unlink(missing_ok=True)
            code = _train(request, command, runner) if name == "train" else runner.run(command.words)
        if runner.signal or code == AGAIN:
            by = f" ({signal.Signals(runner.signal).name})" if runner.signal else ""
            _print_note(f"stopped in stage {name}{by}; the same command goes on from there")
            return code or AGAIN
        if code:
            mended = "once mended, the same command goes on"
            again = mended if code == MISTAKE else "the same command goes on from there"
            _print_note(f"stage {name} ended with exit code {code}, see above; {again}")
            return code
    return 0


def _train(request: Request, command: Command, runner: _Runner) -> int:
    """Runs the training, once one whose `slam-asr run` was killed has saved and exited."""
    deadline = time.monotonic() + SECONDS_TO_SAVE
    if by := holder(request.run):
        _print_note(f"waiting for {by}, an earlier training in {request.run}, to save and exit")
    while holder(request.run) and time.monotonic() < deadline and not runner.signal:
        time.sleep(0.2)
    code = runner.run(command.words)
    finished, stopped = ((request.run / name).exists() for name in (FINISHED, STOPPED))
    if code == 0 and not finished:  # only the marker proves that it finished
        return AGAIN if stopped else FAILED
    return code


def _report(request: Request, seconds: dict[str, float]) -> None:
    """Writes DIR/summary.json, and prints the word error rates and what to do next."""
    from model.weights import find_adapter

    out, run = request.out, request.run
    documents = {name: json.loads((out / "scores" / name / SCORE).read_text("utf-8")) for name in scored(request)}
    first = next(iter(documents.values()))
    summary = {
        "scores": {name: {"all": document["all"], "by": document["by"]} for name, document in documents.items()},
        "step": first["step"],
        "weights_sha256": first["weights_sha256"],
        "run": str(run),
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
    }
    write_durably(out / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    print(f"\n=== done in {clock(sum(seconds.values()))}; figures in {out / 'summary.json'}")
    rows = []
    for name, document in documents.items():
        total = document["all"]
        rate = "-" if total["wer"] is None else f"{100 * total['wer']:.1f} %"
        rows.append((name, rate, f"{total['words']:,}", f"{total['utterances']:,}"))
    print("\n".join(table(rows, ("", "WER", "words", "utterances"))))
    if not request.tests:
        print("dev chose the checkpoint, so its WER is too low; --test CORPUS scores on what the run has not seen")
    print(f"adapter: {find_adapter(run)} (step {first['step']:,})\nnext:")
    commands = [
        (f"  slam-asr transcribe {run} recording.wav", "# what is said in a recording"),
        (f"  slam-asr score {run} SHARDS --by speaker", "# word errors on other shards"),
        (f"  slam-asr export {run} {out / 'adapter'}", "# the adapter alone, to share"),
    ]
    print("\n".join(table(commands, left=(0, 1))))


def _print_note(line: str) -> None:
    print("run:", line, file=sys.stderr, flush=True)
