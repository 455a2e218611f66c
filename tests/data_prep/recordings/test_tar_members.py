"""Tars made to do harm: refused with tar and member, nothing written elsewhere, nothing unpickled, little memory."""

import gzip
import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from data_prep.build.in_place import ForeignOptions, index_in_place
from data_prep.recordings.tar_members import MAX_EXTENSION_BYTES, Member, members
from data_prep.shards.opening import read_index
from model.errors import UserError
from tests.data_prep.build.test_in_place import encoded, write_tar

ROOT = Path(__file__).parents[3]
END = bytes(1024)


def header(name: str = "a.wav", kind: bytes = b"0", size: int = 0, **changes) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for field, value in changes.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def patched(block: bytes, position: int, data: bytes) -> bytes:
    """A header with other bytes, and the checksum that fits them."""
    block = block[:position] + data + block[position + len(data) :]
    block = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def extended(kind: bytes, data: bytes, size: int | None = None) -> bytes:
    """A header about the next member."""
    size = len(data) if size is None else size
    return patched(header("././@LongLink", b"0", size), 156, kind) + data + bytes(-len(data) % 512)


def pax(**fields: str) -> bytes:
    out = b""
    for name, value in fields.items():
        record = f" {name.replace('__', '.')}={value}\n".encode()
        length = len(record) + len(str(len(record) + 2))
        out += str(length).encode() + record
    return extended(b"x", out)


HOSTILE = {
    "absolute": (header("/etc/cron.d/x.wav"), "'/etc/cron.d/x.wav'.* leads out of the tar"),
    "traversal": (header("a/../../x.wav"), r"'a/../../x.wav'.* leads out"),
    "traversal by pax": (pax(path="../x.wav") + header(), r"'\.\./x.wav'.* leads out"),
    "traversal by a long name": (extended(b"L", b"../x.wav\0") + header(), r"'\.\./x.wav'.* leads out"),
    "symbolic link": (header(kind=b"2", linkname="/etc/passwd"), "'a.wav' .*is a symbolic link"),
    "hard link": (header(kind=b"1", linkname="../x"), "'a.wav' .*is a hard link"),
    "device": (header(kind=b"4"), "'a.wav' .*is a device"),
    "fifo": (header(kind=b"6"), "'a.wav' .*is a FIFO"),
    "sparse": (header(kind=b"S"), "'a.wav' .*is a sparse file"),
    "sparse by pax": (pax(GNU__sparse__major="1", GNU__sparse__minor="0") + header(), "is a sparse file"),
    "volume label": (header(kind=b"V"), "is of kind b'V'"),
    "ten gigabytes": (header(size=10 << 30), "'a.wav' .*declares 10,737,418,240 bytes, the tar has"),
    "exabytes in base 256": (patched(header(), 124, b"\x80" + b"\x7f" * 11), "declares [0-9,]+ bytes"),
    "negative": (patched(header(), 124, b"\xff" * 12), "declares no number"),
    "a size that is no number": (patched(header(), 124, b"-0000000012\0"), "declares no number"),
    "size by pax": (pax(size="99999999999") + header(), "declares 99,999,999,999 bytes"),
    "size by pax, no number": (pax(size="-1") + header(), "pax header of size b'-1'"),
    "ten gigabytes of pax": (extended(b"x", b"", 10 << 30), f"extension of 10,737,418,240 .*limit is {1 << 20:,}"),
    "gigabytes of a long name": (extended(b"L", b"", 2 << 30), "extension of 2,147,483,648"),
    "a chain of pax": (extended(b"x", b"12 a=bcdefg\n" * 87000) * 5 + header(), "more than 4,194,304 bytes of header"),
    "pax for all": (extended(b"g", b"15 path=a.flac\n") + header(), "gives all members one path"),
    "pax without end": (extended(b"x", b"99 path=a\n") + header(), "pax header that is damaged at its byte 0"),
    "pax of length nothing": (extended(b"x", b"0 a=b\n" * 5) + header(), "damaged at its byte 0"),
    "pax alone": (pax(path="a.wav"), "is missing: the tar ends after a header that announces it"),
    "NUL in a name": (pax(path="a\0b.wav") + header(), "holds a NUL"),
    "no name": (header(""), "name that is empty"),
    "a name of a megabyte": (extended(b"L", b"x" * (1 << 19)) + header(), "longer than 4,096 bytes"),
    "a name of another encoding": (header("gr\udcf6\udcdfe.wav"), "not UTF-8"),
    "a wrong checksum": (header()[:-1] + b"\1", "no valid header .checksum"),
    "random bytes": (np.random.default_rng(0).bytes(4096), "no valid header"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_plain_file_of_a_plain_name_is_refused(tmp_path, name):
    data, said = HOSTILE[name]
    good = header("good.txt", size=3) + b"abc" + bytes(509)
    path, inside = tmp_path / "evil.tar", tmp_path / "inside"
    for front in (b"", good) if name != "random bytes" else (b"",):
        path.write_bytes(front + data + END)
        with pytest.raises(UserError, match=said) as error:
            list(members(path))
        assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500
        with pytest.raises(UserError, match=said):
            index_in_place([path], inside, ForeignOptions())
    assert sorted(tmp_path.iterdir()) == [path]


def test_tars_cut_off_put_together_or_compressed_are_refused(tmp_path):
    path = tmp_path / "a.tar"
    whole = write_tar(path, {"a.txt": b"abc" * 400, "b.txt": b"words"}).read_bytes()
    assert [member[0] for member in members(path)] == ["a.txt", "b.txt"]
    end = whole.index(b"words") + 512
    for length in (0, 100, 512, 900, 1700, 2048, 2560, end, end + 300):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="cut off"):
            list(members(path))
    for more in (whole, b"x"):
        path.write_bytes(whole + more)
        with pytest.raises(UserError, match="yet more follows"):
            list(members(path))
    (tmp_path / "b.tar").write_bytes(gzip.compress(whole))
    with pytest.raises(UserError, match="is compressed; unpack it once with gunzip"):
        list(members(tmp_path / "b.tar"))
    os.mkfifo(tmp_path / "c.tar")
    for name, said in (("c.tar", "no plain file"), (".", "directory"), ("d.tar", "No such file"), ("\0", "NUL")):
        with pytest.raises(UserError, match=said):
            list(members(tmp_path / name))


def test_every_kind_of_tar_is_read_as_tarfile_reads_it(tmp_path):
    names = ["a.wav", "b c/ü.txt", "d" * 99, "e/" * 80 + "f.json", "g" * 200, "sub/"]
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{kind}.tar"
        with tarfile.open(path, "w", format=kind) as tar:
            for number, name in enumerate(names):
                if kind == tarfile.USTAR_FORMAT and len(name) > 150:
                    continue
                info = tarfile.TarInfo(f"./{name}" if number == 1 else name)
                info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
                info.size, info.mtime = (0 if info.isdir() else 700 * number), 1.5
                tar.addfile(info, io.BytesIO(bytes(info.size)))
        with tarfile.open(path) as tar:
            wanted = [Member(m.name.removeprefix("./"), m.offset_data, m.size) for m in tar if m.isreg()]
        assert list(members(path)) == wanted and len(wanted) == (3 if kind == tarfile.USTAR_FORMAT else 5)
    old = header("a.txt", b"\0", 3)[:257] + bytes(255)  # v7: no magic, no prefix
    (tmp_path / "v7.tar").write_bytes(patched(old, 0, b"a.txt") + b"abc" + bytes(509) + END)
    assert list(members(tmp_path / "v7.tar")) == [Member("a.txt", 512, 3)]
    for options in (["--format=v7"], ["--format=oldgnu"], ["--format=gnu"], ["--format=posix"], ["--format=ustar"]):
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / "a.txt").write_bytes(b"abc")
        subprocess.run(["tar", "cf", tmp_path / "y.tar", *options, "-C", tmp_path, "x"], check=True)
        assert [(m.name, m.size) for m in members(tmp_path / "y.tar")] == [("x/a.txt", 3)], options


def test_pickles_inside_are_never_opened(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (f"{tmp_path}/owned", "w")

    data = pickle.dumps(Evil())
    parts = {f"a.{kind}": data for kind in ("pyd", "pkl", "pickle", "pth", "pt", "npy", "npz", "cls")}
    tar = write_tar(tmp_path / "set.tar", parts | {"a.wav": encoded(0.3), "a.txt": b"words", "b.pyd": data})
    totals = index_in_place([tar], tmp_path / "out", ForeignOptions(max_bad=0.5))
    assert totals.bad == {"pickle": 1} and totals.utterances == 1 and sum(totals.unused.values()) == 9
    assert read_index(tmp_path / "out").key == ["a"] and not (tmp_path / "owned").exists()
    for name in ("b.wav", "b.txt", "b.json"):  # under another name it is no sound, no text, no JSON
        parts = {"b.wav": encoded(0.3), "b.txt": b"words", name: data}
        with pytest.raises(UserError, match=r"unreadable 1|bad-text 1|bad-json 1"):
            index_in_place([write_tar(tar, parts)], tmp_path / name, ForeignOptions())
    assert not (tmp_path / "owned").exists()


CHILD = """
import resource, sys
from pathlib import Path
from data_prep.build.in_place import ForeignOptions, index_in_place
from model.errors import UserError
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
try:
    index_in_place([Path(sys.argv[1])], Path(sys.argv[1]).with_suffix(".out"), ForeignOptions())
except UserError as error:
    print(error)
"""


def test_bombs_cost_little_memory(tmp_path):
    flac = bytearray(encoded(0.3, kind="flac"))
    flac[21:26] = b"\x0f\xff\xff\xff\xff"  # 2^36 samples declared
    bombs = {
        "gzip": (gzip.compress(bytes(64 << 20)), "is compressed"),
        "holes": (b"", "no recording"),
        "pax": (extended(b"x", b"", MAX_EXTENSION_BYTES) * 3, "a header"),
    }
    for name, (data, said) in bombs.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(data)
        if name == "holes":
            os.truncate(path, 1 << 40)
        assert _in_a_small_child(path, said)
    write_tar(tmp_path / "flac.tar", {"a.flac": bytes(flac), "a.txt": b"words"})
    assert _in_a_small_child(tmp_path / "flac.tar", "too-long 1|unreadable 1")


def _in_a_small_child(path: Path, said: str) -> bool:
    """Whether it is refused with a line that says so, in 2 GB of address space, the libraries' own among them."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(2 << 30)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return any(part in done.stdout for part in said.split("|"))
