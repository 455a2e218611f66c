"""What `slam-asr prep` says where the disk takes no more: one line with the path, and nothing half-written."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.build.build import BuildOptions, build
from data_prep.utterance import write_jsonl
from launch.command import main

ROOT = Path(__file__).parents[3]


@pytest.fixture
def full_disk(mount_disk) -> Path:
    """A file system of 64 kB without room."""
    folder = mount_disk("64k")
    (folder / "ballast").write_bytes(bytes(shutil.disk_usage(folder).free))
    return folder


@pytest.fixture
def shards(tmp_path, corpus) -> Path:
    write_jsonl(tmp_path / "corpus.jsonl", corpus)
    build(corpus, tmp_path / "shards", BuildOptions(max_bad=1))
    return tmp_path / "shards"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["import", "auto", "corpus.jsonl", "--out", "disk/a.jsonl"], "disk/a.jsonl"),
        (["import", "auto", "gap.jsonl", "--out", "disk/a.jsonl", "--max-bad", "0.5"], "disk/a."),
        (["build", "corpus.jsonl", "disk/out"], "disk/out"),
        (["reshard", "disk/out", "shards"], "disk/out"),
        (["merge", "disk/out", "shards", "--copy"], "disk/out"),
        (["index", "shards", "disk/out"], "disk/out"),
        (["export", "shards", "disk/out", "--format", "nemo"], "disk/out"),
        (["export", "shards", "disk/out", "--format", "wenet_shards"], "disk/out"),
        (["sample", "shards", "disk/out"], "disk/out"),
        (["check", "shards", "--quick", "--json", "disk/a.json"], "disk/a.json"),
        (["check", "shards", "--quick", "--html", "disk/a.html"], "disk/a.html"),
        (["check", "shards", "--quick", "--flagged", "disk/a.jsonl"], "disk/a.jsonl"),
    ],
)
def test_a_full_disk_is_one_line_with_the_path(arguments, named, full_disk, shards, monkeypatch, capsys):
    monkeypatch.chdir(full_disk.parent)
    lines = Path("corpus.jsonl").read_text()
    Path("gap.jsonl").write_text(lines + '{"key": "gone", "audio": "gone.wav", "text": "words"}\n')
    assert main(["prep", *arguments]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("slam-asr: ") and named in last and "make room" in last
    written = [path for path in full_disk.rglob("*") if path.is_file() and path.name != "ballast"]
    assert not written, "nothing half-written, and no manifest without its quarantine"


def test_an_export_that_found_no_room_is_run_again_as_it_was(full_disk, shards, monkeypatch, capsys):
    monkeypatch.chdir(full_disk.parent)
    arguments = ["prep", "export", "shards", "disk/out", "--format", "slam_llm"]
    assert main(arguments) == 2
    os.truncate(full_disk / "ballast", 0)
    subprocess.run(["mount", "-o", "remount,size=1m", str(full_disk)], check=True)
    assert main(arguments) == 0 and (full_disk / "out/multitask.jsonl").is_file()


def test_where_files_may_not_grow_it_is_the_same(shards, tmp_path):
    """As any user, in a process of its own."""
    command = [sys.executable, "-m", "launch", "prep", "import", "auto", str(tmp_path / "corpus.jsonl")]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out.jsonl")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY)),
    )
    assert done.returncode == 2 and not (tmp_path / "out.jsonl").exists()
    assert f"cannot write {tmp_path / 'out.jsonl'}: File too large; make room" in done.stderr.splitlines()[-1]


def test_an_output_that_cannot_be_printed_is_one_line(shards):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "launch", "prep", "stats", str(shards)]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "cannot write standard output: No space left on device" in done.stderr
