"""Every shell text of ours under shellcheck: what is kept, what is written for odd folders, and our own scripts."""

import subprocess
from pathlib import Path

import pytest

from launch.command import main
from tests.cluster.conftest import require
from tests.launch.test_submit import KEPT, RECIPE

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [ROOT / ".ci" / "run", ROOT / "bench" / "gpu.sh", ROOT / "tests" / "cluster" / "slurm_cluster.sh"]


@pytest.mark.parametrize("script", [*sorted(KEPT.glob("*.sbatch")), *SCRIPTS], ids=lambda file: file.name)
def test_shellcheck_finds_nothing(script):
    check(script)


def test_a_folder_with_quotes_and_dollars_is_quoted(tmp_path, monkeypatch, capsys):
    odd = tmp_path / "it's $HOME `x`"
    odd.mkdir()
    monkeypatch.chdir(odd)
    (odd / "recipe.yaml").write_text(RECIPE)
    (odd / "env").touch()
    # sbatch itself could not take such a folder in --output: refused, in one line.
    assert main(["submit", "recipe.yaml", "--env-file", "env", "--dry-run"]) == 2
    assert "cannot stand in an #SBATCH line" in capsys.readouterr().err
    assert main(["submit", "recipe.yaml", f"run.dir={tmp_path / 'run'}", "--env-file", "env", "--dry-run"]) == 0
    (tmp_path / "odd.sbatch").write_text(capsys.readouterr().out)
    check(tmp_path / "odd.sbatch", "--exclude=SC2016")  # that nothing expands in single quotes is what is wanted


def check(script: Path, *options: str) -> None:
    require("shellcheck")
    done = subprocess.run(["shellcheck", *options, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
