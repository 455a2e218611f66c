"""The recordings given on a command line as files, folders, quoted globs or `-`, and a unique name for each."""

import glob
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from data_prep.text import printable
from model.errors import UserError, counted

STDIN = "-"


@dataclass(frozen=True)
class Recording:
    """A recording, and its place among those given."""

    path: str  # as given, or in a folder that was given; "-" for standard input
    place: str  # relative to the folder given, else the file's name

    @property
    def stem(self) -> str:
        return os.path.splitext(self.place)[0]


def recordings(given: list[str]) -> list[Recording]:
    """The files given, those that match a glob, and those in each folder, which are counted on stderr. UserError if
    nothing is found, or a folder holds something else."""
    from decode.recordings.folders import recordings_in
    from model.weights import describe

    paths = [match for path in given for match in _matches(path)]
    if not any(path == STDIN or os.path.exists(path) for path in paths):
        more = f" and {counted(len(given) - 1, 'other')}" if given[1:] else ""
        raise UserError(f"no file {on_one_line(given[0])!r}{more}; give recordings, or folders of them")
    found = []
    for path in paths:
        if not os.path.isdir(path):
            found.append(Recording(path, "stdin" if path == STDIN else os.path.basename(path)))
            continue
        if (kind := describe(Path(path))) is not None:
            raise UserError(f"{path!r} holds {kind}, not recordings; give audio files, or a folder of them")
        inside, others = recordings_in(path)
        rest = f", {others} left out" if others else ""
        print(f"slam-asr: {on_one_line(path)}: {counted(len(inside), 'recording')}{rest}", file=sys.stderr)
        found += [Recording(name, os.path.relpath(name, path)) for name in inside]
    if sum(recording.path == STDIN for recording in found) > 1:
        raise UserError("- is given twice; standard input is one recording")
    return found


def _matches(path: str) -> list[str]:
    """The matches of a glob, sorted; the path itself if it exists, is not a glob, or nothing matches."""
    if path == STDIN or os.path.lexists(path) or not glob.has_magic(path):
        return [path]
    return sorted(glob.glob(path, recursive=True)) or [path]


def own_names(found: list[Recording]) -> dict[str, str]:
    """{path: a unique name without extension}, for the first of several paths of one file: the place in the folder
    given if that is unique, else in the common folder of all, with the extension if necessary. Names that differ only
    in case are not unique."""
    first = {os.path.abspath(recording.path): recording for recording in reversed(found)}
    unique = {r.path: r for r in found if r is first[os.path.abspath(r.path)]}
    absolute = {path: os.path.abspath(path) for path in unique}
    top = os.path.commonpath([os.path.dirname(path) for path in absolute.values()])
    ways = {
        path: (
            recording.stem,
            os.path.splitext(os.path.relpath(absolute[path], top))[0],
            os.path.relpath(absolute[path], top),
        )
        for path, recording in unique.items()
    }
    level = dict.fromkeys(ways, 0)
    while True:
        names = {path: way[level[path]] for path, way in ways.items()}
        times = Counter(name.casefold() for name in names.values())
        shared = [path for path, name in names.items() if times[name.casefold()] > 1 and level[path] < 2]
        if not shared:
            return names
        for path in shared:
            level[path] += 1


@contextmanager
def readable(paths: list[str]) -> Iterator[list[str]]:
    """The paths, with standard input and pipes (`<(ffmpeg ...)`) as temporary files: a recording is read twice, and a
    stream may say only at its end how long it is."""
    with ExitStack() as stack:
        yield [_copy(path, stack) if path == STDIN or Path(path).is_fifo() else path for path in paths]


def _copy(path: str, stack: ExitStack) -> str:
    """The name of a file with what is in standard input or a pipe, there until the stack is closed."""
    file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="slam-asr-"))
    with nullcontext(sys.stdin.buffer) if path == STDIN else open(path, "rb") as stream:
        shutil.copyfileobj(stream, file)
    file.flush()
    return file.name


def on_one_line(name: str) -> str:
    """A file name, which need not be UTF-8, with line feeds and terminal codes escaped."""
    return printable(os.fsencode(name).decode("utf-8", "backslashreplace"))
