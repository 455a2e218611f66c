"""`slam-asr transcribe ADAPTER FILES...`: one line of text a recording."""

import argparse
import json
import os
import sys
from pathlib import Path

from launch import decoding
from model.errors import UserError, counted


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Transcribe recordings with an adapter: prints `path<TAB>text`, one line a recording, in the order given; of a "
        "folder all recordings in it and below, by path. A file that cannot be transcribed gets a line on stderr, the "
        "others go on, and the exit code is 2."
    )
    parser.add_argument("adapter", metavar="ADAPTER", help="run, checkpoint or export folder")
    files = "recording of any rate and number of channels (WAV, FLAC, MP3, Ogg ...), or a folder of them"
    parser.add_argument("files", metavar="FILE", nargs="+", help=files)
    parser.add_argument("--jsonl", action="store_true", help="print JSON objects: path, text, seconds, note")
    decoding.add_flags(parser)


def run(args: argparse.Namespace) -> int:
    from decode.files import transcribe_files

    paths = _recordings(args.files)
    model = decoding.load(args)
    failed = False
    for file in transcribe_files(model, paths, decoding.options(args)):
        name = os.fsencode(file.path).decode("utf-8", "backslashreplace")  # a file name need not be UTF-8
        path = _on_one_line(name)
        if file.error:
            failed = True
            print(f"slam-asr: {path}: {file.error}", file=sys.stderr)
            continue
        if file.note == "cut":
            print(f"slam-asr: {path}: the answer was cut at the bound on tokens (--max-new-tokens)", file=sys.stderr)
        row = {"path": name, "text": file.text, "seconds": round(file.seconds, 3), "note": file.note}
        print(json.dumps(row, ensure_ascii=False) if args.jsonl else f"{path}\t{_words(file.text)}", flush=True)
    return 2 if failed else 0


def _recordings(given: list[str]) -> list[str]:
    """The files as given, and the recordings in each folder, counted on stderr."""
    from decode.files import recordings_in
    from model.weights import describe

    if not any(map(os.path.exists, given)):
        more = f" and {counted(len(given) - 1, 'other')}" if given[1:] else ""
        raise UserError(f"no file {_on_one_line(given[0])!r}{more}; give recordings, or folders of them")
    paths = []
    for path in given:
        recordings = [path]
        if os.path.isdir(path):
            if (kind := describe(Path(path))) is not None:
                raise UserError(f"{path!r} holds {kind}, not recordings; give audio files, or a folder of them")
            recordings, others = recordings_in(path)
            rest = f", {others} left out" if others else ""
            print(f"slam-asr: {_on_one_line(path)}: {counted(len(recordings), 'recording')}{rest}", file=sys.stderr)
        paths += recordings
    return paths


def _on_one_line(name: str) -> str:
    """A file name with line feeds and terminal codes escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _words(text: str) -> str:
    """An LLM's text with line feeds and terminal codes as spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
