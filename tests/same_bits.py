"""Hashes of what the commands make, to compare two versions of the code: `python -m tests.same_bits OUT.json`.

    python -m tests.same_bits OUT.json --librispeech DIR [--demo] [--against BEFORE.json]

Made are shards of DIR, a folder in LibriSpeech's layout; an adapter trained on them for twelve steps and stopped and
resumed on the way; and with --demo the demo's adapter. With --against the hashes are compared: exit 1 if any differ.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = [sys.executable, "-m", "launch"]
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "DS_ACCELERATOR": "cpu",
    "HF_HUB_OFFLINE": "1",
}
RECIPE = """\
model: {{encoder: model/stand_in/encoder, llm: model/stand_in/llm, adapter: {{stack: 5, hidden: 128, dropout: 0.1}}}}
data: {{train: {shards}}}
batch: {{tokens: 600, micro_batches: 2}}
optim: {{lr: 1e-3, warmup_steps: 2, max_steps: 12}}
augment: {{speed: [0.9, 1.0, 1.1]}}
save: {{every_steps: 6, total_limit: null}}
log: {{every_steps: 1, tensorboard: false}}
run: {{dir: {run}, seed: 1}}
"""
STOPPED = 75  # exit code of a training that stopped as asked


def hashes(folder: Path, pattern: str = "*") -> dict[str, str]:
    """{name: sha256} of the files in a folder."""
    files = sorted(path for path in folder.rglob(pattern) if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def built(librispeech: Path, out: Path) -> dict[str, str]:
    """Shards of all recordings, ten a shard."""
    command = [*PROGRAM, "prep", "build", str(librispeech), str(out), "--shard-size", "10", "--workers", "2"]
    subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True)
    return hashes(out)


def resumed(shards: Path, work: Path) -> dict[str, str]:
    """Adapter and AdamW's moments of a training that is asked to stop after its second step, and started again."""
    recipe, run = work / "recipe.yaml", work / "run"
    recipe.write_text(RECIPE.format(shards=shards, run=run))
    command = [sys.executable, "-m", "train", str(recipe)]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT)
    metrics = run / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count('"loss"') >= 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    if (code := process.wait()) != STOPPED:
        sys.exit(f"the training ended with {code} before it could be stopped")
    subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True)
    return hashes(run / "checkpoints" / "step-00000012", "*.safetensors")


def demo() -> dict[str, str]:
    """The demo's adapter and its word error rates."""
    subprocess.run([sys.executable, "-m", "recipes.demo"], cwd=ROOT, env=ENVIRONMENT, check=True)
    run = ROOT / "runs" / "demo" / "run"
    (last,) = (run / "train" / "checkpoints").glob("step-00000500")
    scores = json.loads((ROOT / "runs" / "demo" / "summary.json").read_text())
    return hashes(last, "*.safetensors") | {name: str(scores[name]) for name in ("wer", "wer_hard")}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.same_bits", description="hash what the commands make")
    parser.add_argument("out", type=Path)
    parser.add_argument("--librispeech", type=Path, required=True, metavar="DIR")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--against", type=Path, metavar="BEFORE.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        made = {"shards": built(args.librispeech.resolve(), work / "shards")}
        made["resumed"] = resumed(work / "shards", work)
    if args.demo:
        made["demo"] = demo()
    args.out.write_text(json.dumps(made, indent=1) + "\n")
    if args.against is None:
        return 0
    before = json.loads(args.against.read_text())
    for what in sorted(before.keys() & made.keys()):
        names = sorted(before[what].keys() | made[what].keys())
        differ = [name for name in names if before[what].get(name) != made[what].get(name)]
        print(f"{what}: {len(names)} compared, " + (f"these differ: {', '.join(differ)}" if differ else "all the same"))
    return int(any(before[what] != made[what] for what in before.keys() & made.keys()))


if __name__ == "__main__":
    sys.exit(main())
