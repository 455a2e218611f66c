"""`slam-asr prep import` and `synth`; options of a corpus, and its utterances by those, for `build` too."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from data_prep.addresses import is_remote, resolve_address, without_secrets
from data_prep.figures import in_hours
from data_prep.importers import IMPORTERS, ImportOptions, recognised
from data_prep.importers.parsing.importer import nearest, say
from data_prep.importers.parsing.rows import ALIASES
from data_prep.paths import no_such
from data_prep.refusals import EMPTY_TEXT, TO_KEEP_EMPTY
from data_prep.remote.objects import download
from data_prep.retries import Missing
from data_prep.utterance import DEFAULTS, Utterance
from launch.prep.arguments import add_shared, listed, local_folder, local_path, path_or_address, require_another
from model.errors import UserError, counted

if TYPE_CHECKING:
    from data_prep.build.manifest import ImportReport

LOOKED_FOR = 10  # recordings, at first
AUTO = "auto"
TEXT_SHOWN = 100  # characters
SYNTH_SPLITS = {"train": 3000, "dev": 64, "test": 200, "hard": 100}  # of "all"
SILENCE = {"silence": 200}


def configure_import(parser: argparse.ArgumentParser) -> None:
    known = "; ".join(f"{name}: {importer.what}" for name, importer in IMPORTERS.items())
    source = "the corpus folder, the manifest, or the address of a manifest"
    parser.add_argument("importer", choices=(AUTO, *IMPORTERS), metavar="IMPORTER", help=f"{AUTO}, or {known}")
    parser.add_argument("source", type=path_or_address, help=source)
    parser.add_argument("--out", type=local_path, required=True, metavar="utterances.jsonl")
    add_arguments(parser)


def run_import(args: argparse.Namespace) -> int:
    from data_prep.build.manifest import import_corpus

    require_another(args.source, args.out, "--out")
    utterances = utterances_of(args.source, None if args.importer == AUTO else args.importer, args)
    _print_report(import_corpus(utterances, args.out, args.max_bad, args.allow_pipes, args.allow_empty))
    print(f"wrote {args.out}; next: slam-asr prep build {args.out} SHARDS_DIR")
    return 0


def _print_report(report: ImportReport) -> None:
    """Counts, hours (by language where there are several), and the first utterances."""
    dropped, hours = listed(report.dropped) or "none", in_hours(sum(report.seconds_by_language.values()))
    dropped += f" ({TO_KEEP_EMPTY})" if EMPTY_TEXT in report.dropped else ""
    print(f"{counted(report.read, 'row')} read, {report.kept:,} kept, dropped: {dropped}; {hours}")
    by_hours = sorted(report.seconds_by_language.items(), key=lambda item: -item[1])
    if len(by_hours) > 1:
        print("languages:", ", ".join(f"{language or 'unknown'} {in_hours(seconds)}" for language, seconds in by_hours))
    for utterance, seconds in report.first:
        text = utterance.text or "(nothing is said)"
        text = text if len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]}..."
        speaker = f"  speaker {utterance.speaker}" if utterance.speaker else ""
        part = f" ({utterance.part})" if utterance.part else ""
        print(f"{utterance.key}  {seconds:.2f} s{speaker}\n    {text}\n    {without_secrets(utterance.audio)}{part}")


def configure_synth(parser: argparse.ArgumentParser) -> None:
    numbers = ", ".join(f"{split} {number:,}" for split, number in (SYNTH_SPLITS | SILENCE).items())
    splits = "which voices (all four); or silence: sounds in which nothing is said, with empty transcripts"
    parser.add_argument("out", type=local_folder, help="folder to write SPLIT.jsonl and SPLIT/audio/*.flac to")
    parser.add_argument("--split", default="all", choices=(*SYNTH_SPLITS, *SILENCE, "all"), help=splits)
    parser.add_argument("--utterances", type=int, metavar="N", help=f"recordings a split ({numbers})")
    add_shared(parser, "--seed", "--workers")


def run_synth(args: argparse.Namespace) -> int:
    from data_prep.synth.corpus import write_corpus
    from data_prep.synth.silence import write_silence

    for split in SYNTH_SPLITS if args.split == "all" else [args.split]:
        number = (SYNTH_SPLITS | SILENCE)[split] if args.utterances is None else args.utterances
        if split in SILENCE:
            manifest = write_silence(args.out, number, args.seed)
            print(f"{manifest}: {counted(number, 'recording')}; next: slam-asr prep build {manifest} OUT --allow-empty")
            continue
        manifest = write_corpus(args.out, split, number, args.seed, args.workers)
        print(f"{manifest}: {counted(number, 'utterance')}")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say what a corpus is."""
    group = parser.add_argument_group("what the corpus is")
    add = group.add_argument
    add("--audio-root", type=Path, metavar="DIR", help="where relative paths start (the manifest's folder)")
    add("--allow-outside", action="store_true", help="relative paths may leave that folder")
    add("--allow-pipes", action="store_true", help="run the commands that stand for recordings, without a shell")
    add("--subset", default="", metavar="NAME", help="the split, of a corpus with several; or a pattern, as 'train*'")
    add("--column", action="append", default=[], metavar="FIELD=NAME", help="of a table: which column FIELD is in")
    for field, default in (("language", ""), ("speaker", ""), ("task", " (transcribe)")):
        add(f"--{field}", default="", help=f"of utterances that name none{default}")
    add_shared(group, "--allow-empty", "--max-bad")


def utterances_of(source: Path | str, importer: str | None, args: argparse.Namespace) -> Iterator[Utterance]:
    """By the importer named, or the one that recognises the source; `source` as text is a manifest's address. Prints
    the importer where none was named. UserError if none of the first recordings is there."""
    if args.audio_root is not None and not args.audio_root.is_dir():
        raise UserError(f"there is no folder {args.audio_root}; --audio-root is where relative paths start")
    if isinstance(source, Path) and not source.exists():
        raise UserError(no_such(source, "give a corpus folder or a manifest"))
    options = ImportOptions(args.audio_root, args.allow_outside, args.allow_pipes, args.subset, _columns(args.column))

    def read(path: Path) -> Iterator[Utterance]:
        name, inside = (importer, path) if importer else recognised(path)
        for option, flag in (("audio_root", "--audio-root"), ("split", "--subset"), ("columns", "--column")):
            if getattr(options, option) and option not in IMPORTERS[name].takes:
                raise UserError(f"{flag} means nothing to the importer {name}; leave it out, or name another importer")
        utterances = IMPORTERS[name].read(inside, options)
        if isinstance(source, Path):
            utterances = _with_audio(utterances, name)
        return utterances if importer else _announced(utterances, name if inside == path else f"{name}: {inside}")

    utterances = of_remote_manifest(source, read) if isinstance(source, str) else read(source)
    defaults = {field: getattr(args, field) for field in ("language", "speaker", "task") if getattr(args, field)}
    return (_with_defaults(utterance, defaults) for utterance in utterances) if defaults else utterances


def of_remote_manifest(address: str, read: Callable[[Path], Iterable[Utterance]]) -> Iterator[Utterance]:
    """What `read` finds in a copy of the manifest; its relative audio paths start at the manifest's own address.
    UserError as `read`, naming the address, and for a corpus of many files: those are read from disks only."""
    home, _, name = without_secrets(address).rpartition("/")
    with TemporaryDirectory(prefix="slam-asr-") as folder:
        try:
            download(address, Path(folder, name))
        except Missing:
            raise UserError(
                f"there is no object {without_secrets(address)}; give the address of a manifest (.jsonl, .tsv ...): of "
                "corpora that are folders only those on a disk are read"
            ) from None
        try:
            for utterance in read(Path(folder, name)):
                inside = utterance.audio.startswith(folder + os.sep)
                audio = resolve_address(home, os.path.relpath(utterance.audio, folder)) if inside else utterance.audio
                yield replace(utterance, audio=audio)
        except UserError as error:
            raise UserError(str(error).replace(folder, home)) from None


def _announced(utterances: Iterator[Utterance], name: str) -> Iterator[Utterance]:
    """The same; prints the importer once the first is read, and names it in what keeps that one from being read."""
    try:
        first = next(utterances, None)
    except UserError as error:
        raise UserError(f"{error} (read as {name})") from None
    say(f"read as {name}")
    if first is not None:
        yield first
    yield from utterances


def _with_audio(utterances: Iterator[Utterance], name: str) -> Iterator[Utterance]:
    """The same; UserError if none of the first recordings is there: the build would notice an hour later."""
    first = list(islice(utterances, LOOKED_FOR))
    sound = [u for u in first if not u.part.startswith("fault:")]
    paths = [u.audio for u in sound if u.part.partition(":")[0] in ("", "bytes") and not is_remote(u.audio)]
    if paths and len(paths) == len(sound) and not any(map(os.path.exists, paths)):
        takes_root = "audio_root" in IMPORTERS[name].takes
        mend = "say where relative paths start with --audio-root DIR" if takes_root else "unpack the corpus again"
        others = f", and none of the first {len(paths)} recordings" if len(paths) > 1 else ""
        raise UserError(f"there is no {paths[0]}{others}; {mend}")
    yield from first
    yield from utterances


def _columns(given: list[str]) -> dict[str, str]:
    """Field to column, of FIELD=NAME; an empty NAME is a column that there is not."""
    columns: dict[str, str] = {}
    for item in given:
        field, equals, name = item.partition("=")
        if not equals:
            raise UserError(f"--column {item} is not FIELD=NAME, as in --column text=sentence")
        if field not in ALIASES:
            raise UserError(f"--column {item}: no field {field!r}{nearest(field, ALIASES)}")
        if field in columns:
            raise UserError(f"--column {field} is given twice: {columns[field]!r} and {name!r}")
        columns[field] = name
    return columns


def _with_defaults(utterance: Utterance, defaults: dict[str, str]) -> Utterance:
    missing = {field: value for field, value in defaults.items() if getattr(utterance, field) == DEFAULTS[field]}
    return replace(utterance, **missing) if missing else utterance
