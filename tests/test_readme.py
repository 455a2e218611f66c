"""README and docs/: commands run as they stand on a corpus made here, models and counts smaller; what they name exists.

A block of commands is run, unless a comment before it says otherwise:

    <!-- not run: needs REASON -->           Slurm, a GPU, the network ...
    <!-- dry run: REASON -->                 with --dry-run: the options are checked, nothing is started
    <!-- tested by tests/FILE.py -->         that test runs it
"""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from data_prep.audio.decode import write_flac
from data_prep.exporters import EXPORTERS
from data_prep.importers import IMPORTERS
from data_prep.shards.opening import read_index
from data_prep.shards.tar import read_sample
from launch.command import main
from tests.tiny import tiny_models
from train.recipe.config import load_config
from train.recipe.identity import to_yaml
from train.report.prometheus import FIGURES

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = Path(sys.executable).parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FIRST = ("README", "quick-start", "your-data", "cluster", "run-folder")  # later pages read what these make
MARKS = re.compile(r"not run: needs .{4,}|dry run: .{4,}|tested by tests/\S+\.py")
BLOCK = re.compile(r"^(?:<!-- ([^\n]+) -->\n)?```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MODELS = {"facebook/hubert-xlarge-ls960-ft": "encoder", "TinyLlama/TinyLlama-1.1B-Chat-v1.0": "llm"}
SMALLER = "batch.tokens=400 batch.micro_batches=2 optim.max_steps=2 eval.max_new_tokens=5 save.every_steps=2".split()


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    mark: str
    """The comment before it, empty where there is none."""
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Continued lines as one, comments and `. .venv/bin/activate` left out."""
        lines = self.text.replace("\\\n", "").splitlines()
        return [line for line in lines if line.strip() and not line.startswith(("#", ". "))]


def blocks() -> list[Block]:
    """Of all pages; those of FIRST come first."""
    pages = sorted(PAGES, key=lambda page: FIRST.index(page.stem) if page.stem in FIRST else len(FIRST))
    return [Block(page.stem, *found) for page in pages for found in BLOCK.findall(page.read_text())]


def test_the_commands_of_readme_and_docs_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    librispeech(tmp_path / "LibriSpeech")
    write_flac(tmp_path / "recording.wav", noise(3, 5))
    (tmp_path / "recordings").mkdir()
    write_flac(tmp_path / "recordings" / "one.flac", noise(4, 2))
    (tmp_path / "hosts").write_text("192.0.2.1 slots=2\n192.0.2.2 slots=2\n")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    tiny_models(tmp_path)
    to_run = [block for block in blocks() if block.language in ("sh", "python")]
    for block in to_run:
        if block.mark.startswith(("not run", "tested by")):
            continue
        if block.language == "python":
            (tmp_path / "example.py").write_text(block.text)
            run_program([sys.executable, "example.py"])
        for command in block.commands if block.language == "sh" else ():
            run_command(command, block.mark.startswith("dry run"))
    assert heard(Path("data/again")) == heard(Path("data/dev"))
    for name in ("from_slam_llm", "from_nemo", "from_tarred"):
        assert heard(Path("data") / name) == heard(Path("data/dev")), name
    for name in ("runs/mine/FINISHED", "runs/librispeech_tinyllama/FINISHED", "scores/dev/score.json"):
        assert Path(name).exists()
    for name in ("audit.html", "clips/index.html", "my_adapter/adapter.json"):
        assert Path(name).exists()
    every_metric_is_explained(Path("runs/mine/metrics.jsonl"))


def run_command(command: str, dry: bool) -> None:
    """One line of a page, in the current folder. Fails unless its exit code is 0."""
    for name, folder in MODELS.items():
        command = command.replace(name, os.path.abspath(folder))
    command = command.replace("--nproc_per_node 8 -m train", "--nproc_per_node 2 -m train")  # the others: one rank
    words = shlex.split(re.sub(r"(--nproc_per_node|--num_accelerators) 8\b", r"\1 1", command), comments=True)
    models = [f"model.{name}={os.path.abspath(name)}" for name in MODELS.values()]
    if re.search(r"(-m|--module) train ", command):
        words += [*models, *SMALLER]
    if words[:2] in (["slam-asr", "plan"], ["slam-asr", "doctor"]):
        words += [*models, *SMALLER, "data.train=data/train", "data.dev=data/dev"]
    if dry:
        words.append("--dry-run")
    if words[0] == "slam-asr":  # in this process: each start of Python with torch takes seconds
        assert main(words[1:]) == 0, command
    else:
        run_program(words)


def run_program(words: list[str]) -> None:
    environment = os.environ | {"PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"


def heard(folder: Path) -> list[tuple[str, bytearray, str, str]]:
    index = read_index(folder)
    samples = [read_sample(index, i) for i in range(len(index))]
    return [(sample.key, sample.media, sample.meta["text"], sample.meta["speaker"]) for sample in samples]


def every_metric_is_explained(path: Path) -> None:
    page = (ROOT / "docs" / "run-folder.md").read_text()
    names = {name for line in path.read_text().splitlines() for name in json.loads(line)} | set(FIGURES)
    assert not [name for name in names - {"kind"} if f"`{name}`" not in page]


def test_every_block_of_commands_is_run_or_says_why_not():
    languages = {block.language for block in blocks()}
    assert languages <= {"", "sh", "python", "yaml"}, "a language that this file does not know"
    for block in blocks():
        if block.language in ("sh", "python") and block.mark:
            assert MARKS.fullmatch(block.mark), f"{block.page}: {block.mark}"
        for test in re.findall(r"tests/\S+\.py", block.mark):
            assert (ROOT / test).exists(), f"{block.page}: {test}"
        plain = block.text if block.language == "" else ""
        assert not re.search(r"^\$? ?(slam-asr|python|make|torchrun|deepspeed) ", plain, re.MULTILINE), block.page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_to_a_file_or_a_heading(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in headings(target), link


def headings(page: Path) -> list[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def test_the_readme_has_at_most_120_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_every_page_of_docs_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text()
    assert not [page.name for page in PAGES if page.parent.name == "docs" and f"(docs/{page.name})" not in text]


def test_the_files_that_the_architecture_names_exist():
    text = (ROOT / "docs" / "architecture.md").read_text()
    names = set(re.findall(r"`([a-z_]+/[\w./]*)`", text))
    assert len(names) > 40
    assert not [name for name in names if not (ROOT / name).exists()]
    assert not [name for name in re.findall(r"`([\w/]+\.py)`", text) if name not in names]


@pytest.mark.parametrize("walk", ["From a recording to a shard", "From a shard to a gradient"])
def test_a_walk_of_the_architecture_names_at_most_15_files(walk):
    section = (ROOT / "docs" / "architecture.md").read_text().split(f"## {walk}\n")[1].split("\n## ")[0]
    files = set(re.findall(r"`([a-z_]+/[\w/]+\.py)`", section))
    assert 5 < len(files) <= 15, sorted(files)


def test_every_importer_and_export_format_is_named():
    text = (ROOT / "docs" / "your-data.md").read_text()
    assert not [name for name in IMPORTERS if f"`{name}`" not in text]
    assert not [name for name in EXPORTERS if name not in text]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_keys_of_the_recipe_that_are_named_exist(page):
    known = to_yaml(load_config(ROOT / "recipes" / "librispeech_tinyllama.yaml"))
    sections = "data|batch|augment|optim|lora|eval|save|watch|log|run"  # model. is also the start of others' keys
    keys = set(re.findall(rf"`((?:{sections})\.[a-z_]+)(?:[`:= ]|$)", page.read_text(), re.MULTILINE))
    assert page.stem != "recipe" or len(keys) > 25
    for key in keys - {"data.train_ds", "lora.safetensors"}:  # NeMo's; a file
        assert re.search(rf"^  {key.split('.')[1]}:", known, re.MULTILINE), key


def test_options_that_are_named_exist():
    """Those in running text; those in blocks of commands are parsed when these are run."""
    folders = ("launch", "train", "recipes")
    source = "".join(path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py"))
    others = {"--gpus-per-task", "--test-only", "--busy", "--merge"}  # Slurm's; of tests.newcomer; llama-gguf-split's
    others |= {"--enable-prompt-embeds", "--api-key", "--max-model-len", "--generation-config"}  # vLLM's
    for page in PAGES:
        if page.stem == "from-other-toolkits":
            continue
        for option in set(re.findall(r"`(?:[^`\n]* )?(--[a-z][a-z-]+)", BLOCK.sub("", page.read_text()))) - others:
            assert f'"{option}"' in source, f"{page.name}: {option}"


def librispeech(root: Path) -> None:
    """A tree of LibriSpeech's form: 3 splits, 2 speakers each, 3 utterances of noise a chapter."""
    for split, speakers in (("train-clean-100", (19, 26)), ("dev-clean", (84, 174)), ("test-clean", (61, 121))):
        for speaker in speakers:
            chapter = root / split / str(speaker) / "198"
            chapter.mkdir(parents=True)
            names = [f"{speaker}-198-{number:04d}" for number in range(3)]
            for number, name in enumerate(names):
                write_flac(chapter / f"{name}.flac", noise(speaker + number, 1.5))
            (chapter / f"{speaker}-198.trans.txt").write_text("".join(f"{name} THE CAT SAT\n" for name in names))


def noise(seed: int, seconds: float) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(int(seconds * 16000)) * 0.1).astype(np.float32)
