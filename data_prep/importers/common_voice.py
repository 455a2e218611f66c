"""Mozilla Common Voice, one language of it: `cv-corpus-NN/LANG/` with train.tsv, validated.tsv ... and clips/*.mp3.

The TSV has no quoting: a quote is a character of the sentence. Votes, age, accent and so on are kept in meta."""

import os
from collections.abc import Iterator
from pathlib import Path

from data_prep.importers.parsing.files import files_in
from data_prep.importers.parsing.importer import DEFAULTS, ImportOptions, Recording, nearest
from data_prep.importers.parsing.rows import audio_of, columns_taken, utterance_of, utterances, with_numbers
from data_prep.importers.table import read_table
from data_prep.utterance import Utterance
from model.errors import UserError

NO_SPLITS = ("clip_durations", "reported", "times", "validated_sentences", "unvalidated_sentences")


def is_common_voice(path: Path) -> bool:
    """The folder of a language, or one of its .tsv files."""
    if path.suffix == ".tsv" and path.is_file():
        return (path.parent / "clips").is_dir() and path.stem not in NO_SPLITS
    return (path / "clips").is_dir() and any((path / f"{name}.tsv").is_file() for name in ("train", "validated"))


def import_common_voice(root: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """`options.split` of it, by default train, in the order of the rows; the key is the name of the clip. A .tsv as
    `root` is its own split. UserError: no such split, or one of no rows; a row that is not as it must be."""
    given = ""
    if root.is_file():
        root, given = root.parent, root.stem
        if options.split not in ("", given):
            raise UserError(f"{root / given}.tsv is a split, --subset asks for {options.split}; give one alone")
    splits = [path.stem for path in files_in(root, (".tsv",)) if path.stem not in NO_SPLITS]
    split = given or options.split or "train"
    if split not in splits:
        raise UserError(f"{root} has no {split}.tsv{nearest(split, splits)}; choose with --subset")
    clips = options.audio_root or root / "clips"

    def utterance(row: dict[str, str]) -> Utterance:
        columns = columns_taken(row, options)
        clip, extension = os.path.splitext(row[columns["audio"]])
        recording = Recording(audio_of(clip + (extension or ".mp3"), clips, options))  # the first releases wrote none
        return utterance_of({**with_numbers(row, columns), "split": split}, columns, recording, lambda *_: clip)

    no_rows = f"{root / split}.tsv has no rows; choose another with --subset: {', '.join(splits)}"
    yield from utterances(read_table(root / f"{split}.tsv", quoting=False), utterance, no_rows)
