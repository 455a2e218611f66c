"""NeMo: manifest.json and audio files.

Rows have key, lang, speaker, task and meta where an utterance has them. Paths start at the manifest's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_prep.durable import replacing
from data_prep.exporters.clips import Clip, ExportOptions, clips, line, save, sync_audio
from data_prep.progress import Progress
from data_prep.shards.index import ShardIndex


def export(index: ShardIndex, out: Path, options: ExportOptions, progress: Progress) -> Path:
    path = out / "manifest.json"
    with replacing(path) as manifest:
        for clip in clips(index, options, progress):
            manifest.write(line(row(clip, save(clip, out))))
        sync_audio()
    return path


def row(clip: Clip, path: str) -> dict[str, Any]:
    """A row of a manifest, tarred or not."""
    said = dict(clip.said)
    language = {"lang": said.pop("language")} if "language" in said else {}
    return {"audio_filepath": path, "duration": clip.seconds, "text": clip.text, "key": clip.key, **language, **said}
