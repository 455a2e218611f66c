"""WeNet's tars: shards.list and tars of KEY.flac, KEY.txt and, for what WeNet has no place for, KEY.json.

It opens the tars from where it is started, so the list has absolute paths.
"""

from __future__ import annotations

import os
from pathlib import Path

from data_prep.durable import canonical_json, replacing
from data_prep.exporters.clips import Clip, ExportOptions, clips
from data_prep.exporters.tars import write_tars
from data_prep.progress import Progress
from data_prep.shards.index import ShardIndex

TAR_NAME = "shards_{:09d}.tar"  # as its make_shard_list.py names them


def export(index: ShardIndex, out: Path, options: ExportOptions, progress: Progress) -> Path:
    path = out / "shards.list"
    numbers = {number: None for _, number in write_tars(clips(index, options, progress), out, TAR_NAME, _beside)}
    with replacing(path) as listing:
        for number in numbers:
            listing.write(os.path.abspath(out / TAR_NAME.format(number)).encode() + b"\n")
    return path


def _beside(clip: Clip) -> dict[str, bytes]:
    return {"txt": clip.text.encode(), "json": canonical_json({"meta": {}, **clip.said})}
