"""Tars of recordings: the same utterances give the same bytes."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from data_prep.durable import replacing
from data_prep.exporters.clips import Clip


def write_tars(
    clips: Iterable[Clip], out: Path, name: str, beside: Callable[[Clip], Mapping[str, bytes]] = lambda clip: {}
) -> Iterator[tuple[Clip, int]]:
    """One tar for each shard, `name` with its number from 0 on; gives each clip and that number back.

    A clip is a member KEY.flac, with KEY.EXTENSION for each that `beside` gives. A tar appears when it is whole.
    """
    for number, (_, group) in enumerate(itertools.groupby(clips, key=lambda clip: clip.shard)):
        path = out / name.format(number)
        with replacing(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for clip in group:
                _add(tar, clip.name, clip.media)
                for extension, data in beside(clip).items():
                    _add(tar, f"{clip.key}.{extension}", data)
                yield clip, number


def _add(tar: tarfile.TarFile, name: str, data: bytes | bytearray) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
