"""`slam-asr transcribe ADAPTER FILES...`: transcripts printed, or written as text, JSON and captions."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from decode.recordings.outputs import FORMATS, as_format, one_line
from launch import decoding
from launch.command import interrupted_by_sigterm
from launch.transcribing.progress import AudioProgress
from launch.transcribing.recordings import on_one_line, own_names, readable, recordings
from model.errors import UserError, counted, require_known

if TYPE_CHECKING:
    from decode.recordings.transcript import Transcript
    from launch.transcribing.transcripts import Transcripts


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Transcribe recordings of any length with an adapter. Prints `path<TAB>text`, one line per recording, in the "
        "order given, or the format chosen; with --out, writes files for each recording, and skips those already done. "
        "A recording that cannot be transcribed does not stop the others: failures are listed at the end, and the exit "
        "code is 1."
    )
    parser.add_argument("adapter", metavar="ADAPTER", help="run, checkpoint or export folder")
    files = (
        "recording of any rate, length and number of channels (WAV, FLAC, MP3, Ogg ...), folder, glob, or - for stdin"
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help=files)
    add = parser.add_argument_group("output").add_argument
    several = f"{', '.join(FORMATS)}; several with commas (default: one line of text each; with --out, txt)"
    add("--format", metavar="FORMAT", help=several)
    add("--out", metavar="DIR", type=Path, help="folder for the transcripts, one file per recording and format")
    add("--overwrite", action="store_true", help="transcribe again even what is already in --out")
    decoding.add_window_flags(parser)
    decoding.add_flags(parser)


def run(args: argparse.Namespace) -> int:
    from decode.recogniser import Recogniser
    from decode.recordings.files import longest_window
    from decode.recordings.segments import require_vad
    from model.weights import find_adapter, read_card

    formats = _formats(args.format, args.out is not None)
    require_vad(args.vad)
    if args.overwrite and args.out is None:
        raise UserError("--overwrite replaces what is in --out DIR; give --out, or leave it out")
    found = recordings(args.files)
    card = read_card(find_adapter(args.adapter))
    longest = args.longest or longest_window(card.utterance_seconds)
    if args.out is None and formats and formats != ["jsonl"] and len(found) > 1:
        many = counted(len(found), "recording")
        raise UserError(f"--format {formats[0]} of {many} needs --out; or print jsonl, one line per recording")
    search = asdict(decoding.options(args))
    search.pop("synced_gpus")
    names, out = {recording.path: "" for recording in found}, None
    paths = [recording.path for recording in found]
    with ExitStack() as stack:
        stack.enter_context(interrupted_by_sigterm())
        if args.out is not None:
            from launch.transcribing.transcripts import transcripts_in

            names = own_names(found)
            settings = {"adapter": card.digest, **search, "longest": longest, "vad": args.vad}
            settings["backend"] = decoding.backend(args)
            settings.pop("batch_tokens")
            out = stack.enter_context(transcripts_in(args.out, formats, settings, names, args.overwrite))
            paths = [path for path in names if not out.has(path)]
        recogniser = Recogniser(decoding.load(args)) if paths else None  # a folder that is refused or done needs none
        sources = stack.enter_context(readable(paths))
        progress = stack.enter_context(AudioProgress(sources, to_terminal=out is None and sys.stdout.isatty()))
        transcribed = iter(())
        if recogniser is not None:
            transcribed = recogniser.transcribe_each(
                sources, longest=longest, vad=args.vad, progress=progress.advance, **search
            )
        named = (replace(transcript, path=path) for path, transcript in zip(paths, transcribed, strict=True))
        failed, notes = _publish(progress.over(named), formats, out)
    decoding.say_notes(notes, "recording")
    if out is not None:
        before = len(names) - len(paths)
        there = f", {before:,} already done (--overwrite transcribes again)" if before else ""
        done = counted(len(paths) - len(failed), "recording")
        print(f"slam-asr: {args.out}: {done} transcribed{there}", file=sys.stderr)
    if failed:
        print(f"slam-asr: {counted(len(failed), 'recording')} could not be transcribed:", file=sys.stderr)
    for transcript in failed:
        print(f"slam-asr: {on_one_line(transcript.path)}: {transcript.error}", file=sys.stderr)
    return 1 if failed else 0


def _publish(
    transcripts: Iterator["Transcript"], formats: list[str], out: "Transcripts | None"
) -> tuple[list["Transcript"], dict[str, list[str]]]:
    """Prints or writes the transcripts as they come. Returns those that failed, and the paths of the others by note."""
    failed, notes = [], dict[str, list[str]]()
    for transcript in transcripts:
        if transcript.error:
            failed.append(transcript)
            continue
        path = on_one_line(transcript.path)
        for note in transcript.note.split():
            notes.setdefault(note, []).append(path)
        if out is not None:
            out.write(transcript.path, transcript)
        elif formats:
            print(as_format(transcript, formats[0]), end="", flush=True)
        else:
            print(f"{path}\t{one_line(transcript.text)}", flush=True)
    return failed, notes


def _formats(given: str | None, to_files: bool) -> list[str]:
    """The formats asked for; empty to print lines of text. UserError for an unknown one, and for several to print."""
    if given is None:
        return ["txt"] if to_files else []
    names = list(dict.fromkeys(name.strip() for name in given.split(",")))
    for name in names:
        require_known("format", name, FORMATS)
    if len(names) > 1 and not to_files:
        raise UserError(f"--format {given} needs --out, a folder for the files; to print, give one format")
    return names
