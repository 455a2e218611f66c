"""Files of ours and of others with their bytes changed at random: read, or refused with one line.

Never a crash, a hang, a file outside the folder, or memory without bound.

For longer than the test does: python -m tests.data_prep.test_fuzz --seconds 3600
One case again: python -m tests.data_prep.test_fuzz --seconds 0 --first 1234
"""

import argparse
import contextlib
import io
import json
import random
import re
import resource
import subprocess
import sys
import tarfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from data_prep.build.in_place import ForeignOptions, index_in_place
from data_prep.durable import canonical_json
from data_prep.importers.table import import_jsonl
from data_prep.importers.webdataset import import_webdataset
from data_prep.recordings.tar_members import members
from data_prep.shards.index import write_index
from data_prep.shards.opening import read_index
from data_prep.shards.tar import ShardWriter, read_sample
from data_prep.utterance import Utterance, write_jsonl
from model.errors import UserError
from tests.data_prep.build.test_in_place import encoded, write_tar
from tests.data_prep.reading import read_wave

ROOT = Path(__file__).parents[2]
SECONDS = 4.0
MAX_ADDRESS_SPACE = 6 << 30  # bytes: PyTorch and its libraries alone take 3 GiB of addresses
MAX_RESIDENT = 1 << 30  # bytes
INTERESTING = [b"\0", b"\xff", b"\x80" * 4, b"7" * 11, b"\0" * 512, b"../", b"/", b"-1", b"9" * 40, b"NaN", b"{" * 3000]
INTERESTING += [b'"', b"\xed\xa0\x80", b"path=", b"GNU.sparse.", b"ustar\0", b"ustar  \0", b"OggS", b"data", b"1e999"]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few bytes of it changed, moved, put in, or lost."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, size = rng.randrange(len(out) + 1), rng.choice((1, 4, 100, 512, 3000))
        how = rng.randrange(7)
        if how == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            out[at : at + size] = rng.randbytes(min(size, len(out) - at))
        elif how == 2:
            del out[at : at + size]
        elif how == 3:
            new = rng.choice(INTERESTING)
            out[at : at + rng.choice((0, len(new)))] = new
        elif how == 4:
            block = at // 512 * 512
            other = rng.randrange(len(out) // 512 + 1) * 512
            out[block : block + 512] = out[other : other + 512]
        elif how == 5 and rng.random() < 0.3:
            del out[at:]
        else:
            mend_a_checksum(out, at // 512 * 512)
    return bytes(out)


def mend_a_checksum(data: bytearray, at: int) -> None:
    """So that a tar header that was changed gets past the first look."""
    block = data[at : at + 512]
    if len(block) == 512:
        block[148:156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(block)


def material(folder: Path) -> dict[str, dict[str, bytes]]:
    """The files of each kind, as they are when whole."""
    sounds = {"wav": encoded(0.1), "flac": encoded(0.1, kind="flac"), "ogg": encoded(0.1, 22050, kind="ogg")}
    sounds |= {"mp3": encoded(0.1, 44100, kind="mp3"), "aiff": encoded(0.1, 16000, 2, "aiff")}
    parts = {f"dir/ä{n}.{kind}": data for n, (kind, data) in enumerate(sounds.items())}
    parts |= {f"dir/ä{n}.txt": b"some words" for n in range(3)}
    parts |= {f"dir/ä{n}.json": b'{"text": "some words", "speaker": 7, "x": [1, {}]}' for n in (3, 4)}
    plain = write_tar(folder / "a.tar", parts).read_bytes()
    with tarfile.open(folder / "b.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in parts.items():
            info = tarfile.TarInfo("long/" * 30 + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    meta = {"text": "some words", "seconds": 0.1, "language": "", "speaker": "", "task": "", "meta": {}}
    with ShardWriter(folder / "shard-000000.tar") as writer:
        for n in range(3):
            writer.add(f"utt-{n}", "flac", encoded(0.1, kind="flac", seed=n), meta, 1600)
        shard = writer.close()
    write_index(folder, "audio", [shard], {"input": "x"}, {"seed": 0}, {})
    rows = [Utterance(f"u{n}", str(folder / "a.wav"), "größe", start=n / 2, meta={"n": n}) for n in range(4)]
    write_jsonl(folder / "m.jsonl", rows)
    index_in_place([folder / "a.tar"], folder / "place", ForeignOptions())
    ours = [folder / name for name in ("shard-000000.tar", "shard-000000.idx.json", "index.json")]
    place = {f"place/{path.name}": path.read_bytes() for path in sorted((folder / "place").iterdir())}
    return {
        "archive": {"a.tar": plain},
        "long names": {"a.tar": (folder / "b.tar").read_bytes()},
        "shards": {path.name: path.read_bytes() for path in ours},
        "index": {"a.tar": plain, **place},
        "manifest": {"m.jsonl": (folder / "m.jsonl").read_bytes()},
    }


def read_archive(folder: Path) -> None:
    found = list(members(folder / "a.tar"))
    size = (folder / "a.tar").stat().st_size
    assert all(0 < m.offset <= m.offset + m.size <= size and ".." not in m.name.split("/") for m in found)
    for utterance in import_webdataset(folder / "a.tar"):
        canonical_json(utterance.text)
    index_in_place([folder / "a.tar"], folder / "out", ForeignOptions(max_bad=1.0))
    read_all(folder / "out")


def read_all(folder: Path) -> None:
    index = read_index(folder)
    for i in range(len(index)):
        read_sample(index, i)
        read_wave(index, i)


READERS: dict[str, Callable[[Path], object]] = {
    "archive": read_archive,
    "long names": read_archive,
    "shards": read_all,
    "index": lambda folder: read_all(folder / "place"),
    "manifest": lambda folder: list(import_jsonl(folder / "m.jsonl")),
}


def one_case(number: int, files: dict[str, dict[str, bytes]]) -> str:
    """What happened to case `number`: "read" or "refused"; whatever else is raised is a fault."""
    rng = random.Random(number)
    kind = sorted(files)[number % len(files)]
    with TemporaryDirectory(prefix="fuzz-") as outer:
        folder = Path(outer) / "inside"
        hurt = rng.choice(sorted(files[kind]))
        for name, data in files[kind].items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(mutated(data, rng) if name == hurt else data)
        if rng.random() < 0.5:
            put_hashes_right(folder, rng)
        try:
            READERS[kind](folder)
            return "read"
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000, str(error)
            return "refused"
        finally:
            assert list(Path(outer).iterdir()) == [folder], "a file was written outside the folder"


def put_hashes_right(folder: Path, rng: random.Random) -> None:
    """The changed columns declared right by index.json, with a value changed, so that what is behind is reached."""
    import hashlib

    for path in folder.rglob("shard-000000.idx.json"):
        with contextlib.suppress(ValueError, KeyError, IndexError, TypeError):
            document, listing = json.loads(path.read_bytes()), json.loads((path.parent / "index.json").read_bytes())
            name = rng.choice(sorted(document["columns"]))
            document["columns"][name][0] = rng.choice([0, -1, 1, 511, 512, 2**31, 2**62, 2**64, "x", None, 1.5])
            path.write_bytes(json.dumps(document).encode())
            listing["shards"][0]["columns_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            (path.parent / "index.json").write_text(json.dumps(listing))


def fuzz(seconds: float, first: int) -> int:
    """Cases from number `first` on until the time is up; how many were faults."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE, MAX_ADDRESS_SPACE))
    counts: Counter[str] = Counter()
    with TemporaryDirectory(prefix="fuzz-") as folder, contextlib.redirect_stderr(io.StringIO()):
        files = material(Path(folder))
        end, number, slowest = time.monotonic() + seconds, first, 0.0
        while number == first or time.monotonic() < end:
            before = time.process_time()
            try:
                counts[one_case(number, files)] += 1
            except Exception:
                counts["fault"] += 1
                print(f"case {number}:\n{traceback.format_exc()}", flush=True)
            spent = time.process_time() - before
            slowest = max(slowest, spent) if number > first + 20 else slowest  # the first ones import
            number += 1
    # not ru_maxrss, which a process takes over from the one that started it
    resident = 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # pyright: ignore
    print(f"{number - first} cases, {dict(counts)}, slowest {slowest:.2f} s of CPU, at most {resident / 1e6:.0f} MB")
    return counts["fault"] + (slowest > 5.0) + (resident > MAX_RESIDENT)


def test_changed_bytes_are_read_or_refused_and_nothing_else_happens():
    command = [sys.executable, "-m", "tests.data_prep.test_fuzz", "--seconds", str(SECONDS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "'read'" in done.stdout and "'refused'" in done.stdout  # both happen, so neither is empty talk


if __name__ == "__main__":
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    sys.exit(min(fuzz(arguments.seconds, arguments.first), 100))
