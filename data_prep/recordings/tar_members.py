"""The members of a foreign tar, by its headers alone: ustar, v7, GNU long names, pax.

Python's tarfile silently stops at a damaged header, follows links, pads sparse files, reads a pax header of any size
into memory, and accepts sizes past the end of the file. Here whatever is not a plain file of a plain name, or a folder,
is refused. Headers are read by position, data never; nothing is extracted."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from data_prep.durable import open_regular
from data_prep.shards.index import BLOCK, padded
from model.errors import UserError

MAX_EXTENSION_BYTES = 1 << 20  # of one pax header or long name
MAX_CHAIN_BYTES = 4 << 20  # of all such headers in front of one member
MAX_NAME_BYTES = 4096  # longer is no path on Linux
TAIL_BYTES = 1 << 20  # looked at after the end mark, for another tar put behind it
PLAIN = (b"0", b"\0", b"7")
OTHER_KINDS = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a FIFO"}
OTHER_KINDS |= {b"S": "a sparse file"}
COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ\0": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}


class Member(NamedTuple):
    """A plain file in a tar. `offset` and `size` of its data, in bytes; a leading "./" is not part of the name."""

    name: str
    offset: int
    size: int


def members(path: str | os.PathLike[str]) -> Iterator[Member]:
    """The plain files of a local tar, in its order; folders are passed over. UserError, with tar and member, for:
    links, devices, FIFOs, sparse files; names that are absolute, hold "..", NUL or bytes that are not UTF-8; a wrong
    checksum, a size past the end, headers of headers past the limits; a compressed tar, one that was cut off, one with
    more bytes behind its end."""
    path = Path(path)
    if "\0" in str(path):
        raise UserError(f"cannot read {path}: its name holds a NUL; give the path of a tar")
    try:
        with open_regular(path) as file:
            yield from _Tar(path, file.fileno()).members()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the path of a tar") from None


class _Tar:
    """One pass over the headers; `position` is that of the header being read."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor, self.position = path, descriptor, 0
        self.size = os.fstat(descriptor).st_size
        self.long_name: bytes | None = None  # of the next member, by the extension headers in front of it
        self.long_size: int | None = None
        self.chain = 0  # bytes of those headers

    def members(self) -> Iterator[Member]:
        while True:
            header = self._read_header()
            if header is None:
                return
            kind, size, data = header[156:157], _number(header[124:136]), self.position + BLOCK
            if kind in (b"L", b"K", b"x", b"X", b"g"):
                self.position = data + self._extend(kind, size)
                continue
            name = self._name(header)
            size = size if self.long_size is None else self.long_size
            if kind == b"5" or (kind in PLAIN and name.endswith("/")):
                size = 0  # whatever size it declares, a folder has no data
            elif kind not in PLAIN:
                self._refuse(f"is {OTHER_KINDS.get(kind, f'of kind {kind!r}')}; only plain files are read", name)
            elif size is None or not 0 <= size <= self.size - data:
                declared = "no number" if size is None else f"{size:,} bytes"
                self._refuse(f"declares {declared}, the tar has {self.size:,}; it was cut off or damaged", name)
            else:
                yield Member(name, data, size)
            self.position = data + padded(size)
            self.long_name, self.long_size, self.chain = None, None, 0

    def _read_header(self) -> bytes | None:
        """None at the end of the tar."""
        header = os.pread(self.descriptor, BLOCK, self.position)
        command = next((command for magic, command in COMPRESSED.items() if header.startswith(magic)), None)
        if self.position == 0 and command:
            raise UserError(f"{self.path} is compressed; unpack it once with {command}, then give the .tar")
        if len(header) < BLOCK:
            self._refuse_cut("without an end mark")
        if not header.strip(b"\0"):
            if self.chain:
                self._refuse("is missing: the tar ends after a header that announces it")
            if os.pread(self.descriptor, TAIL_BYTES, self.position).strip(b"\0"):
                end = f"the tar ends at byte {self.position:,}, yet more follows"
                raise UserError(f"{self.path}: {end}: damaged, or two tars in one file")
            return None
        stated = _number(header[148:156])
        plain = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        if stated != plain and stated != plain - 256 * sum(byte > 127 for byte in header[:148] + header[156:]):
            self._refuse("has no valid header (checksum); the file is damaged, or no tar")
        return header

    def _extend(self, kind: bytes, size: int | None) -> int:
        """Takes in a header about the next member; returns the bytes its data take."""
        if size is None or not 0 <= size <= MAX_EXTENSION_BYTES:
            declared = "no number" if size is None else f"{size:,}"
            self._refuse(f"has a header extension of {declared} bytes, the limit is {MAX_EXTENSION_BYTES:,}")
        self.chain += BLOCK + padded(size)
        if self.chain > MAX_CHAIN_BYTES:
            self._refuse(f"has more than {MAX_CHAIN_BYTES:,} bytes of header extensions")
        data = os.pread(self.descriptor, size, self.position + BLOCK)
        if len(data) < size:
            self._refuse_cut("within a header")
        if kind == b"L":
            self.long_name = data.rstrip(b"\0")
        elif kind != b"K":  # the target of a link, which is refused itself
            self._take_pax(data, for_all=kind == b"g")
        return padded(size)

    def _take_pax(self, data: bytes, for_all: bool) -> None:
        """Records `LENGTH NAME=VALUE\\n`, where LENGTH counts the whole."""
        at = 0
        while at < len(data):
            digits = data[at : at + 8].partition(b" ")[0]
            end = at + int(digits) if digits.isdigit() else 0
            name, equals, value = data[at + len(digits) + 1 : max(0, end - 1)].partition(b"=")
            if not equals or end > len(data) or data[end - 1 : end] != b"\n":
                self._refuse(f"has a pax header that is damaged at its byte {at:,}")
            if name.startswith(b"GNU.sparse."):
                self._refuse("is a sparse file; only plain files are read")
            if name in (b"path", b"size") and for_all:
                self._refuse(f"has a pax header that gives all members one {name.decode()}")
            if name == b"path":
                self.long_name = value
            elif name == b"size":
                if not (value.isdigit() and len(value) < 20):
                    self._refuse(f"has a pax header of size {value[:20]!r}")
                self.long_size = int(value)
            at = end

    def _name(self, header: bytes) -> str:
        raw = self.long_name
        if raw is None:
            raw = header[:100].partition(b"\0")[0]
            prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
            raw = prefix + b"/" + raw if prefix else raw
        try:
            name = raw.decode("utf-8").removeprefix("./")
        except UnicodeDecodeError:
            self._refuse(f"has a name that is not UTF-8: {raw[:100]!r}")
        if "\0" in name or len(raw) > MAX_NAME_BYTES or (not name and raw != b"./"):
            self._refuse(f"has a name that is empty, longer than {MAX_NAME_BYTES:,} bytes, or holds a NUL", name)
        if name.startswith("/") or ".." in name.split("/"):
            self._refuse("has a name that leads out of the tar", name)
        return name or "./"

    def _refuse_cut(self, where: str) -> NoReturn:
        raise UserError(f"{self.path} ends at byte {self.size:,} {where}: it was cut off; copy it again")

    def _refuse(self, problem: str, name: str = "") -> NoReturn:
        member = f"member {name[:100]!r}" if name else "a member"
        raise UserError(f"{self.path}: {member} (byte {self.position:,}) {problem}; write it again with tar")


def _number(digits: bytes) -> int | None:
    """Octal, or GNU's base 256; None for what is neither, or negative."""
    if digits[0] & 0x80:
        return int.from_bytes(digits[1:], "big") if digits[0] == 0x80 else None
    digits = digits.strip(b" \0")
    return int(digits, 8) if digits.isdigit() and not set(digits) & set(b"89") else None
