"""`make demo`: the whole job on a laptop. Every stage is a command that a user would type, announced and then run.

Speech is made, built into shards and encoded once; the adapter is trained with DeepSpeed on two ranks; held-out
sentences in held-out voices are scored before and after; three recordings are transcribed. The figures end up in
runs/demo/summary.json.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

RUN = Path("runs/demo")
TRAINED = RUN / "train"
UNTRAINED = TRAINED / "checkpoints" / "step-00000000"
ENCODER = "model/stand_in/encoder"
PROGRAMS = Path(sys.executable).parent  # slam-asr and deepspeed lie beside this python


class Demo:
    """Runs stages and remembers how long each took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        # Two ranks on two cores: one thread each. Without a GPU in sight the numbers are the same everywhere it is run.
        self.environment = os.environ | {
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "CUDA_VISIBLE_DEVICES": "",
            "DS_ACCELERATOR": "cpu",
            "HF_HUB_OFFLINE": "1",
        }

    def stage(self, name: str, why: str, *commands: str, threads: int = 1) -> None:
        """Announces and runs the commands of one stage; ends the demo if one fails."""
        print(f"\n=== {len(self.seconds) + 1}. {name}: {why}", flush=True)
        began = time.monotonic()
        for command in commands:
            print(f"$ {command}", flush=True)
            environment = self.environment | {"OMP_NUM_THREADS": str(threads)}
            if (code := subprocess.run(shlex.split(command), env=environment, check=False).returncode) != 0:
                sys.exit(f"demo: `{command}` ended with {code}; its own last line says why")
        self.seconds[name] = round(time.monotonic() - began, 1)


def main() -> None:
    """The demo, from an empty runs/demo."""
    if RUN.exists():
        shutil.rmtree(RUN)
    demo = Demo()
    demo.stage("speech", "a synthesiser reads invented sentences", f"slam-asr prep synth {RUN}/corpus")
    splits = ("train", "dev", "test", "hard")
    demo.stage("shards", "recordings become webdataset tars with an index", *map(build, splits))
    demo.stage("features", "the frozen encoder runs once", *map(encode, splits[:2]), threads=2)
    demo.stage(
        "train",
        "the adapter learns, on two ranks",
        "deepspeed --num_accelerators 2 --module train recipes/demo.yaml",
    )
    if not (TRAINED / "FINISHED").exists():  # a launcher's exit code proves nothing
        sys.exit(f"demo: training did not finish; the command above goes on from its last checkpoint in {TRAINED}")
    demo.stage(
        "score",
        "held-out sentences in held-out voices: untrained, trained, and voices that are hard",
        f"slam-asr score {UNTRAINED} {RUN}/shards/test --out {RUN}/scores/untrained",
        f"slam-asr score {TRAINED} {RUN}/shards/test --by speaker --out {RUN}/scores/test",
        f"slam-asr score {TRAINED} {RUN}/shards/hard --by speaker --out {RUN}/scores/hard",
    )
    recordings = sorted((RUN / "corpus" / "test" / "audio").glob("*.flac"))[:3]
    demo.stage("transcribe", "three recordings", f"slam-asr transcribe {TRAINED} {' '.join(map(str, recordings))}")
    finish(demo)


def build(split: str) -> str:
    """The command that makes shards of a split."""
    return f"slam-asr prep build {RUN}/corpus/{split}.jsonl {RUN}/shards/{split}"


def encode(split: str) -> str:
    """The command that caches the features of a split."""
    return f"slam-asr prep features {RUN}/shards/{split} {RUN}/features/{split} --encoder {ENCODER}"


def finish(demo: Demo) -> None:
    """Writes summary.json, and says what came out and what to type next."""
    untrained, test, hard = (read_score(name) for name in ("untrained", "test", "hard"))
    summary = {
        "wer_untrained": untrained["all"]["wer"],
        "wer": test["all"]["wer"],
        "wer_by_voice": {voice: score["wer"] for voice, score in test["by"].items()},
        "wer_hard": hard["all"]["wer"],
        "wer_hard_by_voice": {voice: score["wer"] for voice, score in hard["by"].items()},
        "seconds": demo.seconds | {"total": round(sum(demo.seconds.values()), 1)},
    }
    (RUN / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(f"""
WER {100 * summary["wer_untrained"]:.1f} % before training, {100 * summary["wer"]:.1f} % after, \
{100 * summary["wer_hard"]:.1f} % on voices that are hard (effects; another synthesiser where installed).
{summary["seconds"]["total"]:.0f} s in all; {RUN}/summary.json holds the figures.

These are toys: they know a synthesiser's voice and 440 words, nothing of human speech. With your own:

  slam-asr prep build LibriSpeech/train-clean-100 data/train --lowercase   # or a JSONL: audio, text, key
  deepspeed --num_accelerators 8 --module train recipes/librispeech_tinyllama.yaml data.train=data/train
  slam-asr score runs/librispeech_tinyllama data/test
  slam-asr transcribe runs/librispeech_tinyllama my_recording.wav""")


def read_score(name: str) -> dict:
    """score.json of a scoring stage."""
    return json.loads((RUN / "scores" / name / "score.json").read_text())


if __name__ == "__main__":
    main()
