"""The folder of `slam-asr transcribe --out`: one file per recording and format, and a list of those done.

    DIR/NAME.srt              written completely, or not at all
    DIR/transcribed.jsonl     first what the texts depend on (adapter, search), then one line per finished recording

So a killed command can be resumed, and transcripts of different adapters or search options are never mixed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.durable import encodable, locked_folder, read_records, write_whole
from decode.recordings.outputs import as_format
from decode.recordings.transcript import Transcript
from launch.transcribing.recordings import STDIN
from model.errors import UserError

LIST = "transcribed.jsonl"
ADVICE = "give another --out, or --overwrite"


class Transcripts:
    """The folder, while this process writes to it."""

    def __init__(
        self, folder: Path, formats: list[str], settings: dict[str, Any], names: dict[str, str], overwrite: bool
    ) -> None:
        """`names` are the names of the files by the recordings' paths. UserError for a folder with transcripts of other
        settings or recordings, or with other files of these names; `overwrite` starts again."""
        self.folder, self.formats, self.names = folder, formats, names
        listed = (folder / LIST).as_posix().casefold()
        for path, name in names.items():
            if listed in (file.as_posix().casefold() for file in self._files(name)):
                raise UserError(f"{path} would be written to {LIST}, the list of what is done; rename the recording")
        lines = [] if overwrite else read_records(folder / LIST)
        self.done = {line.get("name"): line.get("path") for line in lines[1:]}
        for path, name in names.items():
            there = [file for file in self._files(name) if file.exists()]
            if there and not lines and not overwrite:
                raise UserError(f"{there[0]} exists and was not written by transcribe; {ADVICE}")
            if (of := self.done.get(encodable(name), encodable(path))) != encodable(path):
                raise UserError(f"{self._files(name)[0]} is the transcript of {of}, not of {path}; {ADVICE}")
        for name, value in settings.items() if lines else ():
            if lines[0].get(name) != value:
                differ = f"{name} was {lines[0].get(name)}, now it is {value}"
                raise UserError(f"{folder} holds other transcripts: {differ}; {ADVICE}")
        if not lines:
            write_whole(folder / LIST, json.dumps(settings).encode())

    def _files(self, name: str) -> list[Path]:
        return [self.folder / f"{name}.{kind}" for kind in self.formats]

    def has(self, path: str) -> bool:
        """Whether the recording is already transcribed, in all formats. Standard input and pipes never are, as their
        content is not known to be the same."""
        if path == STDIN or Path(path).is_fifo():
            return False
        name = self.names[path]
        return encodable(name) in self.done and all(file.exists() for file in self._files(name))

    def write(self, path: str, transcript: Transcript) -> None:
        """Writes the recording's files, then adds it to the list."""
        name = self.names[path]
        for file, kind in zip(self._files(name), self.formats, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, as_format(transcript, kind).encode("utf-8"))
        line = json.dumps({"name": encodable(name), "path": encodable(path)})
        try:
            with open(self.folder / LIST, "ab") as file:
                file.write(b"\n" + line.encode())  # starts a new line in case the last one is cut off
        except OSError as error:
            error.filename = str(self.folder / LIST)  # write() names no file
            raise


@contextmanager
def transcripts_in(folder: Path, *arguments: Any) -> Iterator[Transcripts]:
    """Makes and locks the folder. UserError as Transcripts, and if another command is writing to it."""
    busy = UserError(f"{folder} is in use by another slam-asr transcribe; wait for it, or give another --out")
    with locked_folder(folder, lambda: busy):
        yield Transcripts(folder, *arguments)
