"""The command's promises that do not depend on any one verb."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch import command
from model.errors import UserError

ROOT = Path(__file__).parents[2]
SLOW_TO_IMPORT = {"torch", "numpy", "transformers", "deepspeed", "pyarrow", "fsspec", "scipy", "jiwer", "soundfile"}
HELPS = """
import os, sys
from launch.command import main
for verb in sys.argv[1:]:  # each in a child, so that no verb's imports are there already
    if not os.fork():
        try:
            main([*verb.split(), "--help"])
        except SystemExit as end:
            print("loaded", end.code, *{module.partition(".")[0] for module in sys.modules}, flush=True)
        os._exit(0)
    os.wait()
"""


def test_help_imports_nothing_that_is_slow():
    verbs = ["", *command.VERBS]
    done = subprocess.run([sys.executable, "-c", HELPS, *verbs], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = [line.split() for line in done.stdout.splitlines() if line.startswith("loaded ")]
    assert [words[1] for words in loaded] == ["0"] * len(verbs), done.stderr
    slow = {verb: SLOW_TO_IMPORT & {*words} for verb, words in zip(verbs, loaded, strict=True)}
    assert not any(slow.values()), slow


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["transcibe", "x.flac"], 'slam-asr: unknown verb "transcibe", did you mean "slam-asr transcribe"?'),
        (["zzz"], 'slam-asr: unknown verb "zzz", the verbs are run, recipe, prep, transcribe'),
        (["train", "recipe.yaml"], "slam-asr: training is started by python or by a launcher"),
        ([], "usage: slam-asr VERB ..."),
    ],
)
def test_a_wrong_verb_is_told_what_to_type(arguments, message, capsys):
    assert command.main(arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith(message) and not out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prep", "buidl", "a", "b"], "'buidl' is not known, did you mean build?"),
        (["prep", "build", "a", "b", "--shufle", "none"], "--shufle is no option of `slam-asr prep build`, did you"),
        (["prep", "build", "a", "b", "--max-s", "3"], "--max-s is no option of `slam-asr prep build`, did you mean"),
        (["prep", "features", "a", "b", "--enc=x"], "no option of `slam-asr prep features`, did you mean --encoder?"),
        (["score", "a", "b", "--be", "4"], "--be is no option of `slam-asr score`, did you mean --beams?"),
        (["prep", "build", "a", "b", "--importer", "kalid"], "'kalid' is not known, did you mean kaldi?"),
        (["prep", "build", "a"], "the following arguments are required: out; `slam-asr prep build --help` says more"),
        (["prep", "build", "a", "b", "--shard-size", "many"], "--shard-size: invalid int value: 'many'; "),
    ],
)
def test_a_mistyped_option_is_one_line_with_the_nearest(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out


@pytest.mark.parametrize("verb", ["plan", "doctor", "launch local", "launch hostfile hosts", "submit"])
def test_a_recipe_that_is_missing_and_a_key_that_is_given_as_a_switch_are_told_how_to_be_written(verb, capsys):
    assert command.main(verb.split()) == 2
    line = capsys.readouterr().err
    assert "no recipe is given" in line and "RECIPE.yaml`" in line and line.count("\n") == 1
    assert command.main([*verb.split(), "recipe.yaml", "--lr", "1e-3"]) == 2
    line = capsys.readouterr().err
    assert "--lr is no option of" in line and line.endswith("written optim.lr=1e-3 or lora.lr=1e-3\n")


def test_a_file_that_cannot_be_used_is_named(monkeypatch, capsys):
    gone = PermissionError(13, "Permission denied", "/data/x.tar")
    monkeypatch.setattr(command.importlib, "import_module", lambda name: Verb(gone))
    assert command.main(["score", "file"]) == 2
    assert capsys.readouterr().err.startswith("slam-asr: cannot use /data/x.tar: Permission denied; ")


class Verb:
    """A verb that ends in the way it was given."""

    def __init__(self, ending: BaseException | int):
        self.ending = ending

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file")

    def run(self, args: argparse.Namespace) -> int:
        if isinstance(self.ending, BaseException):
            raise self.ending
        return self.ending


@pytest.mark.parametrize(
    ("ending", "code", "message"),
    [
        (0, 0, ""),
        (1, 1, ""),
        (UserError("no corpus in data/; give a folder"), 2, "slam-asr: no corpus in data/; give a folder\n"),
        (KeyboardInterrupt(), 130, "slam-asr: stopped\n"),
    ],
)
def test_each_ending_has_its_exit_code_and_one_line(ending, code, message, monkeypatch, capsys):
    monkeypatch.setattr(command.importlib, "import_module", lambda name: Verb(ending))
    assert command.main(["score", "file"]) == code
    assert capsys.readouterr().err == message


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(command.importlib, "import_module", lambda name: Verb(BrokenPipeError("a worker's pipe")))
    with pytest.raises(BrokenPipeError, match="a worker's pipe"):
        command.main(["score", "file"])


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_ends_the_command_quietly(unbuffered):
    verb = "import sys; from launch import command; command._dispatch = lambda _: print('text') or 0; "
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        finished = subprocess.run(
            [sys.executable, "-c", verb + "sys.exit(command.main(['score']))"],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=stdout,
            stderr=subprocess.PIPE,
        )
    assert (finished.returncode, finished.stderr) == (141, b"")


def test_what_the_terminals_encoding_lacks_is_escaped(tmp_path):
    (tmp_path / "texts").write_text('{"key": "a", "text": "a", "speaker": "J\u00f6rg"}\n', "utf-8")
    words = ["score", "--ref", str(tmp_path / "texts"), "--hyp", str(tmp_path / "texts"), "--by", "speaker"]
    done = subprocess.run(
        [sys.executable, "-m", "launch", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "J\\xf6rg" in done.stdout
