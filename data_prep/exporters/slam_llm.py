"""SLAM-LLM: multitask.jsonl and audio files. Each row has what either of its loaders asks for.

The plain one reads key, source and target; the multi-task one key, path, task and target. They open paths from where
they are started, so those are written absolute; the multi-task one reads WAV alone: export with `wav` for it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from data_prep.durable import replacing
from data_prep.exporters.clips import Clip, ExportOptions, clips, line, save, sync_audio
from data_prep.progress import Progress
from data_prep.shards.index import ShardIndex


def export(index: ShardIndex, out: Path, options: ExportOptions, progress: Progress) -> Path:
    path = out / "multitask.jsonl"
    with replacing(path) as manifest:
        for clip in clips(index, options, progress):
            manifest.write(line(_row(clip, os.path.abspath(out / save(clip, out)))))
        sync_audio()
    return path


def _row(clip: Clip, path: str) -> dict[str, Any]:
    task = clip.said.get("task", "ASR")
    row = {"key": clip.key, "source": path, "path": path, "target": clip.text}
    return {**row, "meta": {}, **clip.said, "task": task}
