"""SLAM-LLM's JSON lines: {"key", "source", "target"}, or multi-task {"key", "task", "target", "path"}, prompt at will.

`source` and `path` may be an entry of an ark (`x.ark:OFFSET`). Task "ASR" is transcribe, others are kept; what the row
says is in meta["task"]. Where it says no prompt, meta["prompt"] is the task's in multiprompt.jsonl beside the file: a
list where there are several, of which SLAM-LLM draws one. A row with an object `meta` (`prep export` writes it) says
there all that it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.importers.parsing.lines import fields_taken
from data_prep.importers.parsing.options import ImportOptions
from data_prep.importers.parsing.rows import first_row, utterance_of
from data_prep.importers.parsing.rxfilename import Recordings
from data_prep.utterance import Utterance, read_rows
from model.errors import UserError

DEFAULTS = ImportOptions()
MULTITASK_NAME, PROMPTS_NAME = "multitask.jsonl", "multiprompt.jsonl"
AUDIO = ("source", "path")
NAMES = {"key": ["key"], "audio": AUDIO, "text": ["target"], "task": ["task"]}
NAMES |= {"language": ["language", "lang"], "speaker": ["speaker"]}
TRANSCRIBE = ("asr", "transcribe")  # in any case


def is_slam_llm(path: Path) -> bool:
    row = first_row(_manifest(path))
    return {"key", "target"} <= set(row) and any(name in row for name in AUDIO)


def import_slam_llm(source: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the rows; `source` is the file, or the folder that holds multitask.jsonl.

    UserError: no rows, one that is no utterance, a first path that is not there, an ark that holds something else.
    """
    path = _manifest(source)
    prompts = _prompts(path.with_name(PROMPTS_NAME))
    finder = Recordings(path.parent, options, ((str(row.get("key")), _written(row)) for _, row in read_rows(path)))
    found = False
    for place, row in read_rows(path):
        found = True
        try:
            yield _utterance(row, finder, prompts, options)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
    if not found:
        raise UserError(f"{path} has no lines; a manifest has one JSON object a line")


def _utterance(
    row: dict[str, Any], finder: Recordings, prompts: Mapping[str, list[str]], options: ImportOptions
) -> Utterance:
    for name in ("key", "target"):
        if name not in row:
            raise UserError(f"no field {name!r}, a row has key, target, and source or path")
    recording = finder.find(_written(row))
    told = {name: value for name, value in row.items() if name not in AUDIO or value != _written(row)}
    told |= {"source": "-"}  # found already, and maybe no path
    utterance = utterance_of(told, fields_taken(told, NAMES, options), finder.home, options)
    raw = utterance.task
    task = "transcribe" if raw.lower() in TRANSCRIBE else raw
    meta = dict(utterance.meta)
    if not isinstance(row.get("meta"), dict):
        if raw != task:
            meta["task"] = raw
        if "prompt" not in meta and raw in prompts:
            meta["prompt"] = prompts[raw] if len(prompts[raw]) > 1 else prompts[raw][0]
    return replace(utterance, audio=recording.audio, part=recording.part, task=task, meta=meta)


def _written(row: Mapping[str, Any]) -> str:
    """Where the recording lies; empty where the row does not say, for resolve_audio to refuse."""
    written = next((row[name] for name in AUDIO if row.get(name)), "")
    return written if isinstance(written, str) else ""


def _prompts(path: Path) -> dict[str, list[str]]:
    """Task to its prompts, in the file's order."""
    prompts: dict[str, list[str]] = {}
    for place, row in read_rows(path) if path.is_file() else ():
        task, prompt = row.get("task"), row.get("prompt")
        if not isinstance(task, str) or not isinstance(prompt, str):
            raise UserError(f"{place}: a line of {PROMPTS_NAME} has a task and a prompt")
        prompts.setdefault(task, []).append(prompt)
    return prompts


def _manifest(source: Path) -> Path:
    return source / MULTITASK_NAME if source.is_dir() else source
