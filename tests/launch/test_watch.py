"""`slam-asr watch` on runs that go on, have ended, were torn or mean harm."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import command
from launch.monitoring.story import Story, open_story
from launch.monitoring.watch import BLOCKS, rows, sparkline
from tests import ranks
from tests.train.conftest import make_ground

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A finished run with a dev set."""
    ground = make_ground(tmp_path_factory.mktemp("watched"))
    arguments = [str(ground / "recipe.yaml"), f"data.dev={ground / 'dev'}", "optim.max_steps=4", "eval.wer=true"]
    ranks.train([*arguments, "eval.max_new_tokens=3"], 1, ground / "log")
    return ground / "run"


def line(step: int, **figures: object) -> str:
    return json.dumps({"step": step, "kind": "train", "loss": 9.0 - step, **figures}) + "\n"


def told(folder: Path, now: float | None = None) -> dict[str, str]:
    return {label: text for label, text, _ in rows(open_story(folder), time.time() if now is None else now)}


def test_a_finished_run_is_told_once_in_plain_lines(real, capsys):
    assert command.main(["watch", str(real), "--once"]) == 0
    out, err = capsys.readouterr()
    lines = dict((line[:9].strip(), line[9:]) for line in out.splitlines())
    assert not err and "\x1b" not in out and lines["run"] == str(real)
    assert lines["state"] == "finished at step 4" and lines["step"].startswith("4 of 4, 100.0%, epoch ")
    assert "WER " in lines["dev"] and "best " in lines["dev"] and "h of audio an hour" in lines["speed"]
    assert len(lines[""]) == 4 and set(lines[""]) <= set(BLOCKS)


def test_on_a_terminal_it_is_live_until_the_run_ends_or_ctrl_c(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(line(1, seconds_left=10.0, steps_per_second=0.9))
    assert "at work" in on_a_terminal(tmp_path, "at work", lambda _: b"\x03")[1]

    def finish(_: int) -> bytes:
        (tmp_path / "FINISHED").write_text("10\n")
        return b""

    code, text = on_a_terminal(tmp_path, "at work", finish)
    assert code == 0 and "finished at step 10" in text and "1 of 10" in text
    assert BLOCKS[0] in text.rsplit("slam-asr watch", 1)[1]  # the last look as the first


def on_a_terminal(folder: Path, seen: str, then) -> tuple[int, str]:
    """Exit code and output of `slam-asr watch` on a terminal; when `seen` is there, what `then` gives is typed."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    watching = subprocess.Popen(
        [sys.executable, "-m", "launch.command", "watch", str(folder)],
        **{"cwd": ROOT, "env": environment, "stdin": theirs, "stdout": theirs, "stderr": theirs},
        preexec_fn=_at_its_terminal,
    )
    os.close(theirs)
    text, done = b"", False
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                text += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
        if not done and seen.encode() in text:
            done = True
            os.write(ours, then(0))
    os.close(ours)
    try:
        return watching.wait(600), text.decode(errors="replace")
    finally:
        watching.kill()


def _at_its_terminal() -> None:
    """So that Ctrl-C arrives, and counts although what started the tests may have been told to ignore it."""
    os.setsid()
    os.close(os.open(os.ttyname(0), os.O_RDWR))
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_run_that_says_nothing_for_long_is_shown_as_silent(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert command.main(["watch", str(tmp_path)]) == 2
    (tmp_path / "config.yaml").touch()
    assert told(tmp_path)["state"] == "has not reported yet"
    path.write_text(line(10, steps_per_second=1.0) + line(20, steps_per_second=1.0))
    now = path.stat().st_mtime
    assert told(tmp_path, now + 100)["state"] == "at work, the last report is 1:40 old"
    assert told(tmp_path, now + 130)["state"].startswith("SILENT: the last report is 2:10 old")
    path.write_text(line(10, steps_per_second=0.1) + line(20, steps_per_second=0.1))  # a report takes 100 s
    now = path.stat().st_mtime
    assert told(tmp_path, now + 900)["state"].startswith("at work")
    assert told(tmp_path, now + 1100)["state"].startswith("SILENT")
    (tmp_path / "STOPPED").write_text("20 SIGTERM\n")
    assert told(tmp_path, now + 1100)["state"] == "stopped as asked after step 20 (SIGTERM)"


def test_it_reads_on_and_starts_anew_where_a_resumed_run_replaced_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1) + '{"step": 2, "ki')
    story = open_story(tmp_path)
    assert story.losses == [8.0]
    with open(path, "a") as file:
        file.write('nd": "train", "loss": 7.0}\n' + line(3))
    story.read_on()
    story.read_on()
    assert story.losses == [8.0, 7.0, 6.0]
    (tmp_path / "new").write_text(line(1) * 9)
    (tmp_path / "new").replace(path)
    (tmp_path / "skipped.jsonl").write_text("{}\n" + '{"step": 1}\n' * 2)
    story.read_on()
    assert story.losses == [8.0] * 9 and story.step == 1 and story.skipped == 2


def test_torn_lines_and_figures_of_other_kinds_are_passed_over(tmp_path):
    lines = [b'{"step": 1, "kind"', b"\0\xff\0", b"[1]", b"7", b'{"step": "x", "kind": "train"}', b"[" * 100_000]
    lines += [b'{"step": 3, "kind": "train", "loss": null, "lr": [], "seconds_left": 1e999, "epoch": true}']
    lines += [b'{"step": 4, "kind": "train", "loss": NaN, "accuracy": 1' + b"0" * 1000 + b"}", b'{"step": 5']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    said = told(tmp_path)
    assert said["step"] == "4" and "!!" in said[""]


def test_what_files_say_cannot_steer_the_terminal(tmp_path):
    folder = tmp_path / "r\x1b[2Jun"
    folder.mkdir()
    harm = "\x1b]0;owned\x07\x1b[2J[bold]x[/bold]\u202e"
    (folder / "metrics.jsonl").write_text(line(1, kind="train", epoch=2, name=harm, loss=harm))
    (folder / "STOPPED").write_text(f"7{harm} {harm}\n\n\x1b[1m")
    for text in told(folder).values():
        assert text.isprintable()
    code, text = on_a_terminal(folder, "stopped as asked", lambda _: b"")
    assert code == 0 and "owned" in text and "[bold]" in text
    assert "\x07" not in text and "\u202e" not in text and "\x1b[2J" not in text and "\x1b]" not in text


def test_a_pipe_or_an_endless_device_in_place_of_a_file_is_not_waited_for(tmp_path):
    (tmp_path / "config.yaml").touch()
    os.mkfifo(tmp_path / "metrics.jsonl")
    os.mkfifo(tmp_path / "FINISHED")
    (tmp_path / "lost.jsonl").symlink_to("/dev/zero")
    assert told(tmp_path)["state"] == "has not reported yet"


@pytest.mark.parametrize("name", ["none", "file", "folder"])
def test_what_is_no_run_is_refused_in_one_line(tmp_path, name, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    assert command.main(["watch", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "give the run.dir of a training" in err


def test_a_sparkline_keeps_its_width_its_course_and_what_is_not_finite():
    assert sparkline([float(i) for i in range(8)], 8, BLOCKS) == BLOCKS
    assert sparkline([float(i) for i in range(8000)], 8, BLOCKS) == BLOCKS
    assert sparkline([1.0, None, 1.0], 8, BLOCKS) == "▁!▁" and sparkline([], 8, BLOCKS) == ""
    assert Story(Path("none")).total_steps is None
