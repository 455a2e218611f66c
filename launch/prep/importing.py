"""`slam-asr prep import`: a corpus to an utterance manifest, to look at before anything is built."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from data_prep.addresses import without_secrets
from data_prep.figures import counted, in_hours
from data_prep.importers import IMPORTERS
from launch.prep import corpus
from launch.prep.arguments import local_path, path_or_address, require_another

if TYPE_CHECKING:
    from data_prep.build.manifest import ImportReport

AUTO = "auto"
TEXT_SHOWN = 100  # characters


def configure(parser: argparse.ArgumentParser) -> None:
    known = "; ".join(f"{name}: {importer.what}" for name, importer in IMPORTERS.items())
    parser.add_argument("importer", choices=(AUTO, *IMPORTERS), metavar="IMPORTER", help=f"{AUTO}, or {known}")
    parser.add_argument(
        "source", type=path_or_address, help="the corpus folder, the manifest, or the address of a manifest"
    )
    parser.add_argument("--out", type=local_path, required=True, metavar="utterances.jsonl")
    corpus.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from data_prep.build.manifest import import_corpus

    require_another(args.source, args.out, "--out")
    importer = None if args.importer == AUTO else args.importer
    utterances = corpus.utterances_of(args.source, importer, args)
    report = import_corpus(utterances, args.out, args.max_bad, args.allow_pipes)
    print(summary(report))
    print(f"wrote {args.out}; next: slam-asr prep build {args.out} SHARDS_DIR")
    return 0


def summary(report: ImportReport) -> str:
    """Counts, hours (by language where there are several), and the first utterances, for the eye."""
    seconds = sum(report.seconds_by_language.values())
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in sorted(report.dropped.items())) or "none"
    lines = [f"{counted(report.read, 'row')} read, {report.kept:,} kept, dropped: {dropped}; {in_hours(seconds)}"]
    by_hours = sorted(report.seconds_by_language.items(), key=lambda item: -item[1])
    if len(by_hours) > 1:
        by_language = (f"{language or 'unknown'} {in_hours(seconds)}" for language, seconds in by_hours)
        lines.append(f"languages: {', '.join(by_language)}")
    for utterance, seconds in report.first:
        text = utterance.text if len(utterance.text) <= TEXT_SHOWN else f"{utterance.text[:TEXT_SHOWN]}..."
        speaker = f"  speaker {utterance.speaker}" if utterance.speaker else ""
        lines.append(f"{utterance.key}  {seconds:.2f} s{speaker}")
        lines += [
            f"    {text}",
            f"    {without_secrets(utterance.audio)}{f' ({utterance.part})' if utterance.part else ''}",
        ]
    return "\n".join(lines)
