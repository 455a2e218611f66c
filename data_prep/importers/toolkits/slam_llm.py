"""SLAM-LLM's JSON lines: {"key", "source", "target"}, or multi-task {"key", "task", "target", "path"}, prompt optional.

`source` and `path` may be an entry of an ark (`x.ark:OFFSET`). Task "ASR" becomes transcribe, others are kept;
meta["task"] has the row's own name for it. Where a row has no prompt, meta["prompt"] is the task's in
multiprompt.jsonl beside the file: a list where there are several, of which SLAM-LLM draws one. A row with an object
`meta` (`prep export` writes it) has all of its metadata there."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.importers.parsing.importer import DEFAULTS, ImportOptions
from data_prep.importers.parsing.rows import Row, fields_taken, first_row, utterance_of, utterances
from data_prep.importers.parsing.rxfilename import Recordings
from data_prep.utterance import Utterance, read_rows
from model.errors import UserError

MULTITASK_NAME, PROMPTS_NAME = "multitask.jsonl", "multiprompt.jsonl"
AUDIO = ("source", "path")
NAMES = {
    **{"key": ("key",), "text": ("target",), "task": ("task",)},
    **{"language": ("language", "lang"), "speaker": ("speaker",)},
}
TRANSCRIBE = ("asr", "transcribe")  # in any case


def is_slam_llm(path: Path) -> bool:
    row = first_row(_manifest(path))
    return {"key", "target"} <= set(row) and any(name in row for name in AUDIO)


def import_slam_llm(source: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the rows; `source` is the file, or the folder that holds multitask.jsonl. UserError: no rows, one
    that is no utterance, a first path that does not exist, an ark that holds something else."""
    path = _manifest(source)
    prompts: dict[str, list[str]] = {}
    for place, row in read_rows(path.with_name(PROMPTS_NAME)) if path.with_name(PROMPTS_NAME).is_file() else ():
        if not isinstance(row.get("task"), str) or not isinstance(row.get("prompt"), str):
            raise UserError(f"{place}: a line of {PROMPTS_NAME} has a task and a prompt")
        prompts.setdefault(row["task"], []).append(row["prompt"])
    finder = Recordings(path.parent, options, ((str(row.get("key")), _written(row)) for _, row in read_rows(path)))

    def utterance(row: dict[str, Any]) -> Utterance:
        columns = fields_taken(row, NAMES, options, required=("key", "text"))
        recording = finder.find(_written(row))
        row = {name: value for name, value in row.items() if name not in AUDIO or value != _written(row)}
        utterance = utterance_of(row, columns, recording)
        task, meta = utterance.task, dict(utterance.meta)
        if task.lower() in TRANSCRIBE:
            utterance = replace(utterance, task="transcribe")
        if isinstance(row.get("meta"), dict):
            return utterance
        if task != utterance.task:
            meta["task"] = task
        if "prompt" not in meta and task in prompts:
            meta["prompt"] = prompts[task] if len(prompts[task]) > 1 else prompts[task][0]
        return replace(utterance, meta=meta)

    yield from utterances(read_rows(path), utterance, f"{path} has no lines; a manifest has one JSON object a line")


def _written(row: Row) -> str:
    """Where the recording is; empty where the row does not state it, for resolve_audio to refuse."""
    written = next((row[name] for name in AUDIO if row.get(name)), "")
    return written if isinstance(written, str) else ""


def _manifest(source: Path) -> Path:
    return source / MULTITASK_NAME if source.is_dir() else source
