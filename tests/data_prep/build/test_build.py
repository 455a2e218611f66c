import errno
import hashlib
import importlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.audio.decode import encode_flac, write_flac
from data_prep.build.build import BuildOptions, build
from data_prep.build.prepare import Limits, make_ready
from data_prep.inspect.stats import table
from data_prep.progress import Progress
from data_prep.shards.opening import read_index
from data_prep.shards.tar import ShardWriter, read_sample
from data_prep.utterance import write_jsonl
from data_prep.workers import run_all
from model.errors import UserError
from tests.data_prep.conftest import tone
from tests.data_prep.reading import check, read_utterance, read_wave

OPTIONS = BuildOptions(shard_size=5)


def contents(folder: Path, pattern: str = "*") -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob(pattern)}


def test_the_bytes_do_not_depend_on_workers_or_order(tmp_path, corpus):
    resampled = tmp_path / "phone.wav"
    import soundfile

    soundfile.write(resampled, tone(0.6)[::2], 8000)
    corpus = [*corpus, replace(corpus[0], key="phone", audio=str(resampled))]
    build(corpus, tmp_path / "one", OPTIONS)
    build(reversed(corpus), tmp_path / "two", replace(OPTIONS, workers=2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sorted(contents(tmp_path / "one"))[0] == "index.json"
    assert not list((tmp_path / "one").glob(".*"))
    assert check(tmp_path / "one") == []


def test_a_flac_that_is_copied_is_opened_once(tmp_path, corpus):
    opened, watching = [], [True]
    sys.addaudithook(lambda event, given: opened.append(given[0]) if watching[0] and event == "open" else None)
    media, _, _ = make_ready(corpus[0], Limits())
    watching[0] = False  # an audit hook cannot be removed
    assert opened.count(corpus[0].audio) == 1 and media == Path(corpus[0].audio).read_bytes()


def test_transcripts_come_back_and_flac_is_copied_as_it_is(tmp_path, corpus):
    totals = build(corpus, tmp_path / "out", OPTIONS)
    index = read_index(tmp_path / "out")
    assert len(index) == totals.utterances == 12 and len(index.shards) == 3
    by_key = {utterance.key: utterance for utterance in corpus}
    for i, key in enumerate(index.key):
        sample, given = read_sample(index, i), by_key[key]
        assert sample.media == Path(given.audio).read_bytes()
        assert (sample.meta["text"], sample.meta["speaker"]) == (given.text, given.speaker)
        assert len(read_wave(index, i)) == index.samples[i]
        assert index.characters[i] == len(given.text) and index.text_bytes[i] == len(given.text.encode())
        assert read_utterance(index, i).text == given.text
    assert f"{index.seconds / 60:.1f} min" in table(index)


def test_a_cut_is_cut_and_text_is_tidied(tmp_path, corpus):
    write_flac(tmp_path / "long.flac", tone(3.0))
    cut = replace(corpus[0], audio=str(tmp_path / "long.flac"), start=1.0, duration=0.5, text=" \ufeff Two  WORDS\n")
    build([cut], tmp_path / "out", replace(OPTIONS, limits=Limits(normalise="lowercase")))
    sample = read_sample(read_index(tmp_path / "out"), 0)
    assert sample.media == encode_flac(tone(3.0)[16000:24000])
    assert sample.meta["text"] == "two words" and sample.meta["seconds"] == 0.5


def test_building_again_does_nothing_and_other_options_are_refused(tmp_path, corpus):
    build(corpus, tmp_path / "out", OPTIONS)
    before = contents(tmp_path / "out")
    assert build(corpus, tmp_path / "out", OPTIONS).already_built
    with pytest.raises(UserError, match=r"another seed \(0, now 1\)"):
        build(corpus, tmp_path / "out", replace(OPTIONS, seed=1))
    with pytest.raises(UserError, match="another input"):
        build(corpus[1:], tmp_path / "out", OPTIONS)
    assert contents(tmp_path / "out") == before
    build(corpus[:4], tmp_path / "out", replace(OPTIONS, overwrite=True))
    assert len(read_index(tmp_path / "out")) == 4 and len(contents(tmp_path / "out")) == 3


def test_a_build_killed_twice_goes_on_to_the_same_bytes(tmp_path, corpus):
    many = [replace(corpus[i % 12], key=f"copy-{i}") for i in range(300)]
    write_jsonl(tmp_path / "many.jsonl", many)
    build(many, tmp_path / "whole", replace(OPTIONS, shard_size=10))
    program = (
        f"{HELD}from data_prep.build.build import *; from data_prep.importers.table import *\n"
        f"if __name__ == '__main__': build(import_jsonl(Path({str(tmp_path / 'many.jsonl')!r})), "
        f"out, BuildOptions(shard_size=10, workers=2))"
    )
    (tmp_path / "program.py").write_text(program)
    for _ in range(2):
        kill_midway(tmp_path / "program.py", tmp_path / "out")
        with pytest.raises(UserError, match="not finished"):
            read_index(tmp_path / "out")
    totals = build(many, tmp_path / "out", replace(OPTIONS, shard_size=10))
    assert 4 <= totals.kept_shards < 30
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


HELD = """
import sys, time
from pathlib import Path
from data_prep.shards.tar import ShardWriter

close, out, most = ShardWriter.close, Path(sys.argv[1]), int(sys.argv[2])

def held(writer, *more):  # in the workers too, which import this file
    while len(list(out.glob("shard-*.idx.json"))) >= most:
        time.sleep(0.02)
    return close(writer, *more)

ShardWriter.close = held
"""
"""How a program begins that writes shards into its first argument, but not more than its second says: it cannot end."""


def kill_midway(program: Path, out: Path) -> None:
    """Runs a program that begins with HELD, kills it once there are two more shards, and waits for its workers' end."""
    most = len(list(out.glob("shard-*.idx.json"))) + 2
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(program), str(out), str(most)]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    deadline = time.monotonic() + 600
    while len(list(out.glob("shard-*.idx.json"))) < most:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while alive(process.pid):  # its workers end by themselves
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(session: int) -> bool:
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


def test_bad_utterances_are_named_counted_and_bounded(tmp_path, corpus):
    folder = Path(corpus[0].audio).parent
    (folder / "zero.wav").write_bytes(b"")
    (folder / "late.flac").write_bytes(encode_flac(tone(2.0))[:-500])
    write_flac(folder / "silent.flac", np.full(8000, 0.25))
    os.mkfifo(folder / "pipe.wav")
    bad = {
        "missing-audio": replace(corpus[0], audio=str(folder / "nowhere.wav")),
        "empty": replace(corpus[0], audio=str(folder / "zero.wav")),
        "damaged": replace(corpus[0], audio=str(folder / "late.flac")),
        "silent": replace(corpus[0], audio=str(folder / "silent.flac")),
        "no-text": replace(corpus[0], text=" "),
        "no-words": replace(corpus[0], text="?!..."),
        "bad-text": replace(corpus[0], text="nul \0 inside"),
        "text-too-long": replace(corpus[0], text="word " * 10_000),
        "bad-cut": replace(corpus[0], start=9.0),
    }
    utterances = [*corpus, *(replace(utterance, key=f"bad-{reason}") for reason, utterance in bad.items())]
    utterances.append(replace(corpus[0], key="bad-pipe", audio=str(folder / "pipe.wav")))
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"--max-bad 0.2 allows 4.*quarantine\.jsonl"):
        build(utterances, out, replace(OPTIONS, max_bad=0.2))
    assert not (out / "index.json").exists()
    with pytest.raises(UserError, match=r"stopped after [1-9] bad utterances \(.+ 1.*\) of 22, --max-bad 0 allows 0"):
        build(utterances, out, replace(OPTIONS, max_bad=0.0))
    totals = build(utterances, out, replace(OPTIONS, max_bad=0.5))
    assert totals.utterances == 12 and totals.bad == dict.fromkeys(bad, 1) | {"missing-audio": 2}
    notes = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert len(notes) == 10 and all(set(note) == {"key", "audio", "reason", "message"} for note in notes)
    assert check(out) == []


def test_lengths_asked_for_are_dropped_with_a_count(tmp_path, corpus):
    totals = build(corpus, tmp_path / "out", replace(OPTIONS, limits=Limits(min_seconds=0.3, max_seconds=0.6)))
    assert totals.dropped == {"below-min-seconds": 2, "above-max-seconds": 3} and totals.utterances == 7
    assert len((tmp_path / "out/dropped.jsonl").read_text().splitlines()) == 5


def test_more_than_an_hour_is_bad_unless_a_limit_that_was_asked_for_drops_it(tmp_path, corpus):
    with open(tmp_path / "hours.wav", "wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 36 + 16_000_000) + b"WAVE")
        file.write(
            b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 4000, 4000, 1, 8) + b"data" + struct.pack("<I", 16_000_000)
        )
        file.truncate(44 + 16_000_000)
    corpus = [*corpus, replace(corpus[0], key="hours", audio=str(tmp_path / "hours.wav"))]
    totals = build(corpus, tmp_path / "out", replace(OPTIONS, max_bad=0.1))
    assert totals.bad == {"too-long": 1} and not totals.dropped
    totals = build(corpus, tmp_path / "limited", replace(OPTIONS, limits=Limits(max_seconds=30.0)))
    assert totals.dropped == {"above-max-seconds": 1} and not totals.bad


def test_a_key_twice_and_no_utterances_are_refused(tmp_path, corpus):
    with pytest.raises(UserError, match="key utt-00 is there twice"):
        build([*corpus, corpus[0]], tmp_path / "out", OPTIONS)
    with pytest.raises(UserError, match="no utterances"):
        build([], tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


def test_capitals_are_warned_about(tmp_path, corpus, capsys):
    build([replace(utterance, text="ALL CAPITALS") for utterance in corpus], tmp_path / "out", OPTIONS)
    assert "12 of 12 transcripts are in CAPITALS" in capsys.readouterr().err


def test_a_worker_that_is_killed_or_finds_no_memory_ends_the_build_with_advice(tmp_path, monkeypatch):
    (tmp_path / "ends.py").write_text(
        "import os\n\ndef killed(task, tally):\n    os.kill(os.getpid(), 9)\n\n"
        "def without_memory(task, tally):\n    raise MemoryError\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))  # workers get it, too, and import nothing else
    ends = importlib.import_module("ends")
    with pytest.raises(UserError, match=r"what is finished stays valid: .*fewer --workers"):
        list(run_all(ends.killed, [1, 2], 2, Progress(2)))
    with pytest.raises(UserError, match=r"found no memory"):
        list(run_all(ends.without_memory, [1, 2], 1, Progress(2)))


def test_a_full_disk_is_told_with_what_is_missing_and_the_finished_shards_stay(tmp_path, corpus, monkeypatch):
    room = [120_000]

    def write(writer, data, original=ShardWriter._write):
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(writer, data)

    with monkeypatch.context() as patched:
        patched.setattr(ShardWriter, "_write", write)
        with pytest.raises(UserError, match=r"no space left for .*out: .* free; finished shards stay valid: make room"):
            build(corpus, tmp_path / "out", OPTIONS)
    assert sorted(path.name for path in (tmp_path / "out").glob("[a-z]*")) == [
        "shard-000000.idx.json",
        "shard-000000.tar",
    ]
    assert build(corpus, tmp_path / "out", OPTIONS).kept_shards == 1 and check(tmp_path / "out") == []
    monkeypatch.setattr("data_prep.build.workdir.free_bytes", lambda out: 50_000)
    with pytest.raises(UserError, match=r"about [0-9]+ kB are to be written, 50 kB are free"):
        build(corpus, tmp_path / "elsewhere", OPTIONS)
    assert not (tmp_path / "elsewhere").exists()


def test_what_was_kept_does_not_count_as_speed(tmp_path, corpus, capsys):
    progress = Progress(2000)
    with progress:
        progress.keep(1000)
        assert progress.done == 1000
    assert "/s" not in capsys.readouterr().err
    build(corpus, tmp_path / "out", OPTIONS)
    (tmp_path / "out" / "index.json").unlink()
    for workers in (1, 2):
        (tmp_path / "out" / "index.json").unlink(missing_ok=True)
        progress = Progress(12)
        build(corpus, tmp_path / "out", replace(OPTIONS, overwrite=True, workers=workers), progress)
        assert (progress.done, progress.kept) == (12, 12)


def test_progress_tells_hours_rate_and_time_left(tmp_path, corpus, capsys, monkeypatch):
    monkeypatch.setattr("data_prep.progress.SECONDS_BETWEEN_LINES", 0.0)
    build([replace(corpus[0], key=f"u{i}", duration=None) for i in range(3)], tmp_path / "out", OPTIONS)
    lines = capsys.readouterr().err.splitlines()
    assert "1 of 3 utterances" in lines[0] and "/s" in lines[0] and " left" in lines[0] and "audio 0.0 min" in lines[0]


def test_a_path_that_is_no_utf8_and_text_that_cannot_be_written_are_refused_by_name(tmp_path, corpus):
    bad = [
        replace(corpus[0], key="odd-path", audio=os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")),
        replace(corpus[0], key="odd-text", text="half \ud83d pair"),
        replace(corpus[0], key="odd-meta", meta={"level": float("nan")}),
        replace(corpus[0], key="huge-meta", meta={"notes": "x" * (3 << 20)}),
    ]
    totals = build([*corpus, *bad], tmp_path / "out", replace(OPTIONS, max_bad=0.5))
    assert totals.bad == {"missing-audio": 1, "bad-text": 1, "bad-metadata": 2}
    assert "caf" in (tmp_path / "out" / "quarantine.jsonl").read_text()
