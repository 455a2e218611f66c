"""`slam-asr transcribe ADAPTER FILES...`: one line of text a recording."""

from __future__ import annotations

import argparse
import json
import os
import sys

from launch import decoding


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print what an adapter hears: `path<TAB>text`, one line a recording, in the order given. A file that cannot be "
        "heard gets a line on stderr, the others go on, and the exit code is 2."
    )
    parser.add_argument("adapter", metavar="ADAPTER", help="run, checkpoint or export folder")
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="recording of any rate and number of channels: WAV, FLAC, MP3, Ogg ..."
    )
    parser.add_argument("--jsonl", action="store_true", help="print JSON objects: path, text, seconds, note")
    decoding.add_flags(parser)


def run(args: argparse.Namespace) -> int:
    from decode.files import transcribe_files

    model = decoding.load(args)
    failed = 0
    for recording in transcribe_files(model, args.files, decoding.options(args)):
        name = os.fsencode(recording.path).decode("utf-8", "backslashreplace")  # a file name need not be UTF-8
        path = _on_one_line(name)
        if recording.error:
            failed += 1
            print(f"slam-asr: {path}: {recording.error}", file=sys.stderr)
            continue
        if recording.note == "cut":
            print(f"slam-asr: {path}: the answer was cut at its most tokens (see --max-new-tokens)", file=sys.stderr)
        row = {"path": name, "text": recording.text, "seconds": round(recording.seconds, 3), "note": recording.note}
        line = json.dumps(row, ensure_ascii=False) if args.jsonl else f"{path}\t{_words(recording.text)}"
        print(line, flush=True)
    return 2 if failed else 0


def _on_one_line(name: str) -> str:
    """A file name may hold line feeds and terminal codes; here they are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _words(text: str) -> str:
    """A language model may say anything, line feeds and terminal codes too; here they are spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
