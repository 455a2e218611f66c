"""Writes the files of --out: all of them, or none."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from decode.scoring import RESULTS, SCORE
from launch.scoring.report import page
from launch.scoring.rows import FILES
from model.errors import TransientError

if TYPE_CHECKING:
    from decode.scoring.intervals import Difference
    from decode.scoring.summary import Summary
    from launch.scoring.forms import Texts


def write(
    args: argparse.Namespace,
    texts: Texts,
    summary: Summary,
    other: Summary | None,
    differences: Mapping[str, Difference],
) -> None:
    """Writes all files under temporary names first, so that a full disk leaves the earlier ones unchanged."""
    from data_prep.durable import canonical_json, encodable, replacing
    from decode.scoring.results import nemo_rows, result_rows

    document = texts.about | summary.as_json() | {"decoding": texts.decoding}
    second = None
    if other is not None:
        each = {name: difference.as_json() for name, difference in differences.items()}
        first = each.get(summary.normaliser, {})
        document["against"] = {"results": encodable(str(args.against)), **first, "normalisers": each}
        second = result_rows(other, args.by), (texts.other or {}) | other.as_json()
    rows = result_rows(summary, args.by)
    content = {
        SCORE: canonical_json(document, indent=1) + b"\n",
        "nemo.jsonl": b"".join(canonical_json(row) + b"\n" for row in nemo_rows(summary.rows)),
        **_trn(summary),
        "report.html": page(rows, document, second, texts.clips),
        RESULTS: b"".join(canonical_json(row) + b"\n" for row in rows),
    }
    try:
        with ExitStack() as stack:
            opened = {name: stack.enter_context(replacing(args.out / name)) for name in FILES}
            for name, file in opened.items():
                file.write(content[name])
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        failed = f"cannot write {', '.join(FILES)} into {str(args.out)!r}: {error.strerror or error}"
        raise TransientError(f"{failed}; what was there is unchanged, make room or name another --out") from None
    print(f"slam-asr: wrote {', '.join(FILES)} into {args.out}", file=sys.stderr)


def _trn(summary: Summary) -> dict[str, bytes]:
    from data_prep.text import normaliser
    from decode.scoring.summary import speakers
    from decode.scoring.trn import trn

    spelt, named = normaliser(summary.normaliser), speakers(summary.rows)
    rows = list(zip(named, summary.rows, strict=True))
    return {
        "ref.trn": trn(((speaker, row.key, row.reference) for speaker, row in rows), spelt),
        "hyp.trn": trn(((speaker, row.key, row.hypothesis) for speaker, row in rows), spelt),
    }
