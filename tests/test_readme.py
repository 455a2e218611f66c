"""README's commands for your own speech, run as they stand on a corpus made here; models and counts are smaller."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

from data_prep.audio.decode import write_flac
from data_prep.exporters import EXPORTERS
from data_prep.importers import IMPORTERS
from data_prep.shards.opening import read_index
from data_prep.shards.tar import read_sample
from launch.command import main
from tests.tiny import tiny_models

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = Path(sys.executable).parent
SMALLER = "batch.tokens=400 batch.micro_batches=2 optim.max_steps=2 eval.max_new_tokens=5 save.every_steps=2"


def test_the_commands_for_your_own_speech_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    librispeech(tmp_path / "LibriSpeech")
    write_flac(tmp_path / "recording.wav", noise(3, 5))
    encoder, llm = tiny_models(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    commands = section("Your own speech") + section("Data")
    assert len(commands) >= 22 and sum(" train recipes/" in command for command in commands) == 3
    environment = os.environ | {"PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}
    for command in commands:
        command = command.replace("facebook/hubert-xlarge-ls960-ft", str(encoder)).replace(" 8 ", " 2 ")
        if re.search(r"\btrain recipes/", command):
            command += f" model.encoder={encoder} model.llm={llm} {SMALLER}"
        words = shlex.split(command, comments=True)
        if words[0] == "slam-asr":
            assert main(words[1:]) == 0, command
            continue
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "runs" / "librispeech_tinyllama" / "FINISHED").exists()
    assert heard(tmp_path / "data" / "again") == heard(tmp_path / "data" / "dev")
    assert (tmp_path / "audit.html").exists() and (tmp_path / "clips" / "index.html").exists()
    assert (tmp_path / "scores" / "dev" / "score.json").exists() and (tmp_path / "my_adapter" / "adapter.json").exists()
    the_commands_for_a_cluster(tmp_path, f"model.encoder={encoder} model.llm={llm}")


def the_commands_for_a_cluster(folder: Path, models: str) -> None:
    """On the run that is there now. What would submit or launch is only asked what it would do."""
    (folder / "hosts").write_text("192.0.2.1 slots=2\n192.0.2.2 slots=2\n")
    commands = section("On a cluster")
    assert len(commands) == 10
    for command in commands:
        words = shlex.split(command, comments=True)[1:]
        if words[0] in ("plan", "doctor"):
            words += [*shlex.split(models), "data.train=data/train", "data.dev=data/dev"]
        if words[0] in ("submit", "launch"):
            words += ["--dry-run"]
        not_under_slurm = words[0] in ("logs", "cancel")
        assert main(words) == (2 if not_under_slurm else 0), command


def heard(folder: Path) -> list[tuple[str, bytearray, str, str]]:
    index = read_index(folder)
    samples = [read_sample(index, i) for i in range(len(index))]
    return [(sample.key, sample.media, sample.meta["text"], sample.meta["speaker"]) for sample in samples]


def test_every_file_that_the_readme_links_to_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert links and not missing


def test_every_importer_and_export_format_is_named():
    text = (ROOT / "README.md").read_text().split("## Data")[1].split("\n## ")[0]
    assert not [name for name in IMPORTERS if f"`{name}`" not in text]
    assert not [name for name in EXPORTERS if name not in text]


def test_the_switch_table_names_keys_that_exist():
    from train.recipe.config import load_config
    from train.recipe.identity import to_yaml

    known = to_yaml(load_config(ROOT / "recipes" / "librispeech_tinyllama.yaml"))
    keys = set(
        re.findall(r"`((?:data|batch|optim|eval|save|log|run|model)\.[a-z_]+)", (ROOT / "README.md").read_text())
    )
    assert len(keys) > 25
    for key in keys:
        assert re.search(rf"^  {key.split('.')[1]}:", known, re.MULTILINE), key


def section(title: str) -> list[str]:
    """Commands in the first sh block under a heading, comments left out, continued lines as one."""
    text = (ROOT / "README.md").read_text().split(f"## {title}")[1]
    lines = re.search(r"```sh\n(.*?)```", text, re.DOTALL)[1].replace("\\\n", "").splitlines()  # pyright: ignore
    return [line for line in lines if line and not line.startswith(("#", ". "))]


def librispeech(root: Path) -> None:
    """A tree of LibriSpeech's form: 2 splits, 2 speakers each, 3 utterances of noise a chapter."""
    for split, speakers in (("train-clean-100", (19, 26)), ("dev-clean", (84, 174))):
        for speaker in speakers:
            chapter = root / split / str(speaker) / "198"
            chapter.mkdir(parents=True)
            names = [f"{speaker}-198-{number:04d}" for number in range(3)]
            for number, name in enumerate(names):
                write_flac(chapter / f"{name}.flac", noise(speaker + number, 1.5))
            (chapter / f"{speaker}-198.trans.txt").write_text("".join(f"{name} THE CAT SAT\n" for name in names))


def noise(seed: int, seconds: float) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(int(seconds * 16000)) * 0.1).astype(np.float32)
