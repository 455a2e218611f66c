"""NeMo's tarred sets: tarred_audio_manifest.json and audio_N.tar, one for each shard. Rows are as nemo.py's."""

from __future__ import annotations

from pathlib import Path

from data_prep.durable import replacing
from data_prep.exporters.clips import ExportOptions, clips, line
from data_prep.exporters.nemo import row
from data_prep.exporters.tars import write_tars
from data_prep.progress import Progress
from data_prep.shards.index import ShardIndex


def export(index: ShardIndex, out: Path, options: ExportOptions, progress: Progress) -> Path:
    path = out / "tarred_audio_manifest.json"
    with replacing(path) as manifest:
        for clip, tar in write_tars(clips(index, options, progress), out, "audio_{}.tar"):
            manifest.write(line(row(clip, clip.name) | {"shard_id": tar}))
    return path
