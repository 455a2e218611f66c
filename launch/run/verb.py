"""Runs the stages of a request in order, each command printed first."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time

from data_prep.durable import write_durably
from data_prep.figures import table
from data_prep.progress import clock
from launch.run import folder
from launch.run.request import Request, config_of, read_request
from launch.run.running import Running
from launch.run.stages import Command, Stage, caches, stages, why_not_cached
from launch.score import SCORE
from train.dist.lock import holder
from train.liveness.exit_status import AGAIN, FINISHED, MISTAKE, STOPPED

FAILED = 1
SECONDS_TO_SAVE = 60.0
"""For a training of an earlier start that was killed, to save and exit."""


def carry_out(args: argparse.Namespace) -> int:
    """The exit code, as `slam-asr run --help` documents it."""
    request = read_request(args)
    if not folder.is_begun(request):
        _require_models(request)
    if args.dry_run:
        for title, stage in _titled(request):
            print(title)
            for command in stage.commands(request):
                print(f"$ {command}")
        return 0
    with folder.claim(request.out):
        folder.is_begun(request)  # another process may have worked there until now
        folder.write(request)
        return _run_stages(request)


def _require_models(request: Request) -> None:
    """UserError where encoder or LLM cannot be opened, before anything is made."""
    from model.skeleton import read_config

    model = config_of(request).model
    for what, source in (("encoder", model.encoder), ("LLM", model.llm)):
        read_config(what, source, model.trust_remote_code)


def _titled(request: Request) -> list[tuple[str, Stage]]:
    all_stages = stages(request)
    return [
        (f"=== {i} of {len(all_stages)} {stage.name}: {stage.what}", stage) for i, stage in enumerate(all_stages, 1)
    ]


def _run_stages(request: Request) -> int:
    running, seconds = Running(), {}
    with running.passing_on_signals():
        for title, stage in _titled(request):
            print(f"\n{title}" if seconds else title, flush=True)
            began = time.monotonic()
            code = _run_stage(request, stage, running)
            seconds[stage.name] = round(time.monotonic() - began, 1)
            if code:
                return code
    _report(request, seconds)
    return 0


def _run_stage(request: Request, stage: Stage, running: Running) -> int:
    if stage.name == "features":
        cached = caches(request)
        folder.write(request, cached)
        if not cached:
            print(f"not cached: {why_not_cached(request) or 'as decided at the first start'}")
    for command in stage.commands(request):
        print(f"$ {command}", flush=True)
        code = 0 if command.done else _run_command(request, stage, command, running)
        if running.signal or code == AGAIN:
            by = f" ({signal.Signals(running.signal).name})" if running.signal else ""
            _say(f"stopped in stage {stage.name}{by}; the same command goes on from there")
            return code or AGAIN
        if code:
            again = (
                "the same command goes on from there" if code != MISTAKE else "once mended, the same command goes on"
            )
            _say(f"stage {stage.name} ended with exit code {code}, see above; {again}")
            return code
    return 0


def _run_command(request: Request, stage: Stage, command: Command, running: Running) -> int:
    for path in command.replaces:
        path.unlink(missing_ok=True)
    if stage.name != "train":
        return running(command.words)
    _wait_for_earlier_training(request, running)
    code = running(command.words)
    finished, stopped = ((request.run / name).exists() for name in (FINISHED, STOPPED))
    if code == 0 and not finished:  # only the marker proves that it finished
        return AGAIN if stopped else FAILED
    return code


def _wait_for_earlier_training(request: Request, running: Running) -> None:
    """Waits while a training whose `slam-asr run` was killed saves and exits."""
    deadline = time.monotonic() + SECONDS_TO_SAVE
    reported = False
    while (by := holder(request.run)) and time.monotonic() < deadline and not running.signal:
        if not reported:
            _say(f"waiting for {by}, an earlier training in {request.run}, to save and exit")
            reported = True
        time.sleep(0.2)


def _report(request: Request, seconds: dict[str, float]) -> None:
    """Writes DIR/summary.json, and prints the word error rates and what to do next."""
    from model.weights import find_adapter

    out, run = request.out, request.run
    documents = {name: json.loads((request.scores(name) / SCORE).read_text("utf-8")) for name in request.scored}
    first = documents[request.scored[0]]
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
        print("dev chose the checkpoint, so its figure flatters; --test CORPUS scores on what the run has not seen")
    print(f"adapter: {find_adapter(run)} (step {first['step']:,})")
    print("next:")
    commands = [
        (f"  slam-asr transcribe {run} recording.wav", "# what is said in a recording"),
        (f"  slam-asr score {run} SHARDS --by speaker", "# word errors on other shards"),
        (f"  slam-asr export {run} {out / 'adapter'}", "# the adapter alone, to share"),
    ]
    print("\n".join(table(commands, left=(0, 1))))


def _say(line: str) -> None:
    print("run:", line, file=sys.stderr, flush=True)
