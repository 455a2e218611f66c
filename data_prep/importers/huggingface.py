"""Hugging Face data sets as Parquet: a file, or a folder of `train-00000-of-00003.parquet` and the like.

The audio column is the one that the file's own metadata calls Audio, else a `{bytes, path}`; a row has its place in
the file, and is read from there. Where a row has no bytes, its path is a local file. Numbers of a class label become
its name. Where the file holds the recordings, its columns of start and end tell where they were cut: they are kept in
meta, but for those that --column names. Columns of other bytes (a second audio, pictures) are not kept in meta. The
data set is never run as code."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.audio.decode import AudioError
from data_prep.importers.parsing.files import chosen_splits, files_below
from data_prep.importers.parsing.importer import DEFAULTS, ImportOptions, Recording, at, nearest, shown
from data_prep.importers.parsing.rows import ALIASES, audio_of, columns_taken, utterance_of
from data_prep.recordings.parquet import DAMAGE, open_parquet, require_modest
from data_prep.utterance import Utterance
from model.errors import UserError

SUFFIX = ".parquet"
PIECE = re.compile(r"(?P<split>.+?)-\d+-of-\d+(-[0-9a-f]+)?|\d+")  # else the name itself is the split
BATCH_ROWS = 1000
FIRST_ROWS = 16


def is_parquet(path: Path) -> bool:
    """A file, or a folder with some in it or in its data/."""
    here = (next(path.glob(f"{inside}*{SUFFIX}"), None) for inside in ("", "data/"))
    return path.suffix == SUFFIX if path.is_file() else any(here)


def holds_parquet(path: Path) -> bool:
    """A folder with some in its folders, or in theirs."""
    return any(next(path.glob(f"{inside}*{SUFFIX}"), None) for inside in ("*/", "*/*/"))


def import_parquet(path: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """File after file by name, in the order of the rows. The key is the row's own (key, utt_id, id), else the name of
    its audio where these differ, else the file's with the row's number.

    UserError: no Parquet, several splits and none chosen, no audio or text column, a row that is no utterance."""
    files = [path] if path.is_file() else files_below(path, (SUFFIX,))
    if not files:
        raise UserError(f"{path} holds no *{SUFFIX}")
    by_split: dict[str, list[Path]] = {}
    for file in files:
        piece = PIECE.fullmatch(file.stem)
        by_split.setdefault((piece["split"] or file.parent.name) if piece else file.stem, []).append(file)
    for split in chosen_splits(list(by_split), options.split, path):
        for file in by_split[split]:
            try:
                yield from _Table(file, split, options).utterances()
            except UserError:
                raise
            except (AudioError, RecursionError, *DAMAGE) as error:
                raise UserError(f"cannot read {file}: {' '.join(str(error).split())}") from None


class _Table:
    """One file. Its audio column holds recordings, or the paths of such."""

    def __init__(self, path: Path, split: str, options: ImportOptions) -> None:
        self.path, self.options = path, options
        self.about = {"split": split} if PIECE.fullmatch(path.stem) else {}
        self.file = open_parquet(path)
        self.kinds = {field.name: field.type for field in self.file.schema_arrow}
        features = _features(self.file.schema_arrow)
        labels = {name: feature.get("names") for name, feature in features.items()}
        labels = {name: given for name, given in labels.items() if isinstance(given, list)}
        self.labels = {name: given for name, given in labels.items() if all(isinstance(item, str) for item in given)}
        with at(str(path)):
            self.audio = self._audio_column([name for name in features if features[name].get("_type") == "Audio"])
            self.columns = [name for name in self.kinds if name != self.audio and not _holds_bytes(self.kinds[name])]
            kind = self.kinds[self.audio]
            self.embedded, self.is_struct = _holds_bytes(kind), hasattr(kind, "get_field_index")
            cut = dict.fromkeys(("start", "end"), "") if self.embedded else {}
            require_modest(self.file, range(self.file.num_row_groups), {self.audio, *self.columns})
            named = replace(options, columns={**cut, **options.columns, "audio": self.audio})
            self.taken = columns_taken([self.audio, *self.columns], named)

    def utterances(self) -> Iterator[Utterance]:
        names, present, number = self._names(), self._rows_with_bytes(), 0
        home, keys = self.options.audio_root or self.path.parent, [Path(name).stem for name in names if name]
        if len(set(keys)) < len(names):  # some data sets have audio.wav in every row
            keys = [f"{self.path.stem}-{number}" for number in range(len(names))]
        for batch in self.file.iter_batches(BATCH_ROWS, columns=self.columns, use_threads=False):
            for row in batch.to_pylist():
                recording = Recording(str(self.path.absolute()), f"row:{number}:{self.audio}")
                row = self.about | {column: self._plain(column, value) for column, value in row.items()}
                with at(f"{self.path}, row {number}"):
                    if names[number] and not present[number]:  # a row of neither is left to the import, to count
                        recording = Recording(audio_of(names[number], home, self.options))
                    utterance = utterance_of(row, self.taken, recording, lambda *_, key=keys[number]: key)
                yield utterance
                number += 1

    def _plain(self, column: str, value: Any) -> Any:
        """As JSON has it: a class label's number as its name, NaN as null, times and decimals as text."""
        if column in self.labels and isinstance(value, int) and 0 <= value < len(self.labels[column]):
            return self.labels[column][value]
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, list):
            return [self._plain("", item) for item in value]
        if isinstance(value, dict):
            return {name: self._plain("", item) for name, item in value.items()}
        return value if isinstance(value, str | int | bool | None) else str(value)

    def _audio_column(self, marked: list[str]) -> str:
        """The one named, else of those `marked` as Audio, else the one of recordings, else one of paths; of several the
        one called audio."""
        named = self.options.columns.get("audio")
        if named and named not in self.kinds:
            raise UserError(f"no column {named!r} for audio{nearest(named, self.kinds)}")
        known = [named] if named else [name for name in marked if name in self.kinds]
        structs = {name: kind for name, kind in self.kinds.items() if hasattr(kind, "get_field_index")}
        known = known or [name for name in structs if {"bytes", "path"} <= {field.name for field in structs[name]}]
        known = known or [name for name in ALIASES["audio"] if name in self.kinds][:1]
        if "audio" in known or len(known) == 1:
            return "audio" if "audio" in known else known[0]
        columns = f"several columns of audio, {', '.join(known)}" if known else "no column of audio"
        raise UserError(f"{columns}, of {shown(self.kinds)}; say which: --column audio=NAME")

    def _names(self) -> list[str]:
        """Path or name of each row's recording, empty where there is none."""
        has_path = self.is_struct and self.kinds[self.audio].get_field_index("path") >= 0
        if self.embedded and not has_path:
            return [""] * self.file.metadata.num_rows
        leaf = f"{self.audio}.path" if self.is_struct else self.audio
        values = self.file.read(columns=[leaf], use_threads=False).column(self.audio).to_pylist()
        return [str((value.get("path") if isinstance(value, dict) else value) or "") for value in values]

    def _rows_with_bytes(self) -> list[bool]:
        """Whether each row holds a recording. Where the first ones all do, the rest is taken to: to see that alone, the
        whole file would be read, and the import names those that do not. (Its statistics would tell, but pyarrow 26
        ends the process where they are damaged.)"""
        rows = self.file.metadata.num_rows
        if not self.embedded:
            return [False] * rows
        leaf = f"{self.audio}.bytes" if self.is_struct else self.audio
        present: list[bool] = []
        for batch in self.file.iter_batches(FIRST_ROWS, columns=[leaf], use_threads=False):
            values = batch.column(0)
            present += (values.field("bytes") if self.is_struct else values).is_valid().to_pylist()
            if all(present) and len(present) <= FIRST_ROWS:
                return [True] * rows
        return present


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Column to what `datasets` wrote about it, where it did."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _holds_bytes(kind: Any) -> bool:
    """Whether bytes are anywhere in it."""
    if kind.num_fields:
        return any(_holds_bytes(kind.field(number).type) for number in range(kind.num_fields))
    return str(kind).startswith(("binary", "large_binary", "fixed_size_binary"))
