"""`slam-asr transcribe ADAPTER FILES...`: one line of text a recording."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from launch import decoding


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Transcribe recordings with an adapter: prints `path<TAB>text`, one line a recording, in the order given; of a "
        "folder all recordings in it and below, by path. A file that cannot be transcribed gets a line on stderr, the "
        "others go on, and the exit code is 2."
    )
    parser.add_argument("adapter", metavar="ADAPTER", help="run, checkpoint or export folder")
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="recording of any rate and number of channels (WAV, FLAC, MP3, Ogg ...), or a folder of them",
    )
    parser.add_argument("--jsonl", action="store_true", help="print JSON objects: path, text, seconds, note")
    decoding.add_flags(parser)


def run(args: argparse.Namespace) -> int:
    from decode.files import transcribe_files

    paths = _recordings(args.files)
    model = decoding.load(args)
    failed = 0
    for recording in transcribe_files(model, paths, decoding.options(args)):
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


def _recordings(given: list[str]) -> list[str]:
    """The files as given, and of each folder the recordings in it, counted on stderr."""
    from decode.files import in_words, recordings_in
    from model.errors import UserError
    from model.weights import describe

    if not any(map(os.path.exists, given)):
        more = f" and {len(given) - 1} other{'s' * (len(given) > 2)}" if len(given) > 1 else ""
        raise UserError(f"no file {_on_one_line(given[0])!r}{more}; give recordings, or folders of them")
    paths = []
    for path in given:
        if not os.path.isdir(path):
            paths.append(path)
            continue
        if (kind := describe(Path(path))) is not None:
            raise UserError(f"{path!r} holds {kind}, not recordings; give audio files, or a folder of them")
        there = recordings_in(path)
        others = f", {in_words(there.others)} left out" if there.others else ""
        count = f"{len(there.paths):,} recording{'s' * (len(there.paths) > 1)}"
        print(f"slam-asr: {_on_one_line(path)}: {count}{others}", file=sys.stderr)
        paths += there.paths
    return paths


def _on_one_line(name: str) -> str:
    """A file name may hold line feeds and terminal codes; here they are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _words(text: str) -> str:
    """The text of an LLM can hold anything, line feeds and terminal codes too; here they are spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
