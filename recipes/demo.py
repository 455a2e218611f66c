"""`make demo`: the whole job on a laptop. Every stage is a command that a user would type, announced and then run.

Speech is made; `slam-asr run` builds shards, encodes them once, trains the adapter with DeepSpeed on two ranks and
scores held-out sentences in held-out voices; the untrained adapter is scored too, and three recordings are transcribed.
The figures end up in runs/demo/summary.json."""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

DEMO = Path("runs/demo")
CORPUS = DEMO / "corpus"
RUN = DEMO / "run"
TRAINED = RUN / "train"
UNTRAINED = TRAINED / "checkpoints" / "step-00000000"
PROGRAMS = Path(sys.executable).parent  # slam-asr and deepspeed lie beside this python


class Demo:
    """Runs stages and remembers how long each took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        # Without a GPU in sight the numbers are the same everywhere it is run.
        self.environment = os.environ | {
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "CUDA_VISIBLE_DEVICES": "",
            "DS_ACCELERATOR": "cpu",
            "HF_HUB_OFFLINE": "1",
        }

    def stage(self, name: str, why: str, command: str) -> None:
        """Announces and runs the command of one stage; ends the demo if it fails."""
        print(f"\n=== {name}: {why}\n$ {command}", flush=True)
        began = time.monotonic()
        if (code := subprocess.run(shlex.split(command), env=self.environment, check=False).returncode) != 0:
            sys.exit(f"demo: `{command}` ended with {code}; the last lines above say why")
        self.seconds[name] = round(time.monotonic() - began, 1)


def main(arguments: list[str] | None = None) -> None:
    """The demo, from an empty runs/demo."""
    parser = argparse.ArgumentParser(prog="python -m recipes.demo", description="From speech to a word error rate.")
    parser.parse_args(arguments)
    if DEMO.exists():
        shutil.rmtree(DEMO)
    demo = Demo()
    demo.stage("speech", "a synthesiser reads invented sentences", f"slam-asr prep synth {CORPUS}")
    demo.stage("run", "from the recordings to word error rates, training on two ranks", run_command())
    demo.stage(
        "untrained",
        "the same test before the first step",
        f"slam-asr score {UNTRAINED} {RUN}/shards/test --out {DEMO}/untrained",
    )
    recordings = sorted((CORPUS / "test" / "audio").glob("*.flac"))[:3]
    demo.stage("transcribe", "three recordings", f"slam-asr transcribe {TRAINED} {' '.join(map(str, recordings))}")
    finish(demo)


def run_command() -> str:
    """From the corpus to scores; encoder and LLM are the recipe's."""
    tests = " ".join(f"--test {CORPUS}/{name}.jsonl" for name in ("test", "hard"))
    data = f"{CORPUS}/train.jsonl --dev {CORPUS}/dev.jsonl {tests}"
    return f"slam-asr run {data} --out {RUN} --recipe recipes/demo.yaml --ranks 2"


def finish(demo: Demo) -> None:
    """Writes summary.json, and says what came out and what to type next."""
    run = json.loads((RUN / "summary.json").read_text())
    untrained = json.loads((DEMO / "untrained" / "score.json").read_text())
    test, hard = (run["scores"][name] for name in ("test", "hard"))
    stages = {name: seconds for name, seconds in run["seconds"].items() if name != "total"}
    seconds = {"speech": demo.seconds["speech"], **stages}
    seconds |= {name: demo.seconds[name] for name in ("untrained", "transcribe")}
    summary = {
        "wer_untrained": untrained["all"]["wer"],
        "wer": test["all"]["wer"],
        "wer_by_voice": {voice: score["wer"] for voice, score in test["by"]["speaker"].items()},
        "wer_hard": hard["all"]["wer"],
        "wer_hard_by_voice": {voice: score["wer"] for voice, score in hard["by"]["speaker"].items()},
        "seconds": seconds | {"total": round(sum(seconds.values()), 1)},
    }
    (DEMO / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(f"""
WER {100 * summary["wer_untrained"]:.1f} % before training, {100 * summary["wer"]:.1f} % after, \
{100 * summary["wer_hard"]:.1f} % on voices that are hard (effects; another synthesiser where installed).
{summary["seconds"]["total"]:.0f} s in all; {DEMO}/summary.json holds the figures.

These are toys: they know a synthesiser's voice and some 480 words, nothing of human speech. With your own:

  slam-asr run LibriSpeech/train-clean-100 --test LibriSpeech/test-clean --out runs/mine \\
    --encoder facebook/hubert-xlarge-ls960-ft --llm TinyLlama/TinyLlama-1.1B-Chat-v1.0 --build-options=--lowercase
  slam-asr transcribe runs/mine/train my_recording.wav""")


if __name__ == "__main__":
    main()
