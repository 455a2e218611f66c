"""WeNet: data.list and audio files. It opens paths from where it is started, so they are written absolute."""

from __future__ import annotations

import os
from pathlib import Path

from data_prep.durable import replacing
from data_prep.exporters.clips import ExportOptions, clips, line, save, sync_audio
from data_prep.progress import Progress
from data_prep.shards.index import ShardIndex


def export(index: ShardIndex, out: Path, options: ExportOptions, progress: Progress) -> Path:
    path = out / "data.list"
    with replacing(path) as listing:
        for clip in clips(index, options, progress):
            said = dict(clip.said)
            language = {"lang": said.pop("language")} if "language" in said else {}
            row = {"key": clip.key, "wav": os.path.abspath(out / save(clip, out)), "txt": clip.text}
            listing.write(line(row | language | said))
        sync_audio()
    return path
