"""`slam-asr score`: the word error rate of an adapter on a shard directory, or of hypotheses that exist already."""

from __future__ import annotations

import argparse
from pathlib import Path

from launch import decoding
from launch.scoring.decoded import RANKS, forget
from launch.scoring.rows import FILES
from model.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    from data_prep.text import NORMALISERS

    given = ("ADAPTER SHARDS", "RUN", "DIR", "--ref FILE --hyp FILE")
    parser.usage = "\n       ".join(f"{parser.prog} {form} [options]" for form in given)
    parser.description = (
        "Count word errors: decode a shard directory, or a run's own dev data, and score it;\n"
        "or score without a model, either an earlier scoring's folder again, or texts from files."
    )
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, RANKS
    add = parser.add_argument
    add(
        "adapter",
        metavar="ADAPTER",
        nargs="?",
        help="run, checkpoint or export folder; or the folder of an earlier --out",
    )
    add("shards", metavar="SHARDS", nargs="?", help="made by prep build or prep features (default: RUN's own dev data)")
    files = 'JSON lines with "key" and {} or "text"; or trn, `words (KEY)`; or Kaldi text, `KEY words`'
    add("--ref", type=Path, metavar="FILE", help=files.format('"reference"'))
    add("--hyp", type=Path, metavar="FILE", help=files.format('"hypothesis"'))
    names = f"text normalisation; several with commas, the first for groups: {', '.join(NORMALISERS)}"
    add("--normaliser", "--normalizer", type=listed, default=["plain"], metavar="NAMES", help=f"{names} (plain)")
    fields = "tables by these fields: speaker, language, duration, voice, or any field of the corpus (only totals)"
    add("--by", type=listed, default=[], metavar="FIELDS", help=fields)
    other = "another scoring of the same utterances: print the difference, its interval and p-value"
    add("--against", type=Path, metavar="DIR", help=other)
    out = f"write {', '.join(FILES)} there; the same scoring may be repeated (print tables only)"
    add("--out", type=Path, metavar="DIR", help=out)
    add("--audio", action="store_true", help="with --out: embed the audio of the worst utterances in the report")
    add("--overwrite", action="store_true", help="replace another scoring in --out (refuse)")
    decoding.add_flags(parser)


def listed(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of different names, such as a,b")
    return names


def run(args: argparse.Namespace) -> int:
    from data_prep.text import require_normaliser
    from launch.scoring.forms import gather

    for name in args.normaliser:
        require_normaliser(name)
    if args.audio and args.out is None:
        raise UserError("--audio embeds audio in report.html, which --out DIR writes; give --out")
    if args.overwrite and args.out is None:
        raise UserError("--overwrite replaces what is in --out DIR; give --out, or leave it out")
    if args.out is not None:
        try:
            args.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make --out {str(args.out)!r}: {error.strerror}; name another folder") from None
    texts = gather(args)
    from decode.scoring.summary import against, matched, summarise
    from decode.scoring.table import report

    summary = summarise(texts.rows, args.normaliser, args.by)
    other = None
    if texts.others is not None:
        others = matched(texts.rows, texts.others, args.adapter or str(args.hyp), str(args.against))
        other = summarise(others, args.normaliser, args.by)
    differences = against(summary, other) if other is not None else {}
    print(report(summary, texts.decoding, differences))
    decoding.say_notes(summary.notes, "utterance")
    if args.out is not None:
        from launch.scoring.writing import write

        write(args, texts, summary, other, differences)
        if texts.decoded:
            forget(args.out)
    return 0
