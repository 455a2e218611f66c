"""Shared by tests of corpora: writing and reading them, decoding their audio, parsing pages."""

import io
import json
import struct
import tarfile
import wave
from html.parser import HTMLParser

import pytest

from data_prep.audio.decode import decode
from data_prep.importers import IMPORTERS, ImportOptions, recognised
from data_prep.recordings.open import open_source
from model.errors import UserError


class Page(HTMLParser):
    """Tags, attributes and text of a page, whose tags must be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self._open = [], [], "", []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(path, **options):
    return list(IMPORTERS[recognised(path)[0]].read(path, ImportOptions(**options)))


def refused(match, path, **options):
    """Reading it is a UserError of one line that matches."""
    with pytest.raises(UserError, match=match) as error:
        read(path, **options)
    assert "\n" not in str(error.value)


def heard(utterance, allow_pipes=False):
    source = open_source(utterance.audio, utterance.part, allow_pipes)
    return decode(source, utterance.start, utterance.duration)


def wav_of(samples, streamed=False):
    """A 16-bit WAV file; `streamed` as a tool writes it to a pipe, with no lengths in it."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, 16000, len(samples), "NONE", ""))
        file.writeframes((samples * 32768).round().astype("<i2").tobytes())
    data = bytearray(out.getvalue())
    if streamed:
        struct.pack_into("<I", data, 4, 0xFFFFFFFF)
        struct.pack_into("<I", data, 40, 0xFFFFFFFF)
    return bytes(data)


def write_tar(path, members):
    """A tar of `members`: (name, bytes) pairs, in their order."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_lines(path, rows):
    path.write_text("".join(f"{json.dumps(row) if isinstance(row, dict) else row}\n" for row in rows), "utf-8")
    return path
