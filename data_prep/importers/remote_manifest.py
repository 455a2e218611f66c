"""A manifest at an address, read as if it lay on the disk; what it names relatively lies beside it."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from data_prep.addresses import resolve_address, without_secrets
from data_prep.remote.objects import download
from data_prep.retries import Missing
from data_prep.utterance import Utterance
from model.errors import UserError


def of_remote_manifest(address: str, read: Callable[[Path], Iterable[Utterance]]) -> Iterator[Utterance]:
    """What `read` finds in a copy of the manifest; its relative audio paths start at the manifest's own address.

    UserError as `read`, naming the address, and for a corpus of many files: those are read from disks only.
    """
    home, _, name = without_secrets(address).rpartition("/")
    with TemporaryDirectory(prefix="slam-asr-") as folder:
        try:
            download(address, Path(folder, name))
        except Missing:
            raise UserError(
                f"there is no object {without_secrets(address)}; give the address of a manifest (.jsonl, .tsv ...): of "
                "corpora that are folders only those on a disk are read"
            ) from None
        try:
            for utterance in read(Path(folder, name)):
                inside = utterance.audio.startswith(folder + os.sep)
                audio = resolve_address(home, os.path.relpath(utterance.audio, folder)) if inside else utterance.audio
                yield replace(utterance, audio=audio)
        except UserError as error:
            raise UserError(str(error).replace(folder, home)) from None
