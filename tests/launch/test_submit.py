"""The scripts that `slam-asr submit` gives to sbatch, stored, and what it refuses; tests/cluster/ runs it for real."""

import fcntl
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch.command import main
from launch.slurm import lives

KEPT = Path(__file__).with_name("sbatch")
RECIPE = """\
model: {encoder: facebook/hubert-xlarge-ls960-ft, llm: TinyLlama/TinyLlama-1.1B-Chat-v1.0}
data: {train: data/train, dev: data/dev}
optim: {epochs: 6}
run: {dir: runs/night}
"""
FULL = ["--account=speech", "--qos=long", "--constraint=a100|h100", "--mem=0", "--sbatch=--reservation=night"]


@pytest.fixture
def submit(tmp_path, monkeypatch, capsys):
    """Its dry run in a folder of its own: the exit code, and what it printed with the places of this machine named."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "cluster env").write_text("module load cuda\n")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, dry: bool = True) -> tuple[int, str]:
        code = main(["submit", *arguments, *(["--dry-run"] if dry else [])])
        text = "".join(capsys.readouterr()).replace(str(tmp_path), "/home/you/speech")
        return code, text.replace(sys.executable, "/home/you/python")

    return run


@pytest.mark.parametrize("nodes, more", [(1, []), (4, ["--env-file", "cluster env"]), (128, FULL)])
def test_the_script_for_1_4_and_128_nodes_is_the_stored_one(submit, nodes, more):
    asked = ["--nodes", str(nodes), "--gpus-per-node", "8", "--time", "12:00:00", "--partition", "gpu", *more]
    code, text = submit("recipe.yaml", "optim.lr=2e-4", *asked)
    assert code == 0 and text == (KEPT / f"{nodes}.sbatch").read_text()
    assert not Path("runs").exists()


def test_the_scripts_of_a_pipeline_are_the_stored_ones(submit):
    stages = ["--build", "data/train=/corpora/Libri Speech/train", "--build", "data/dev=/corpora/dev"]
    stages += ["--build-options=--lowercase --max-seconds 30", "--features", "frames/train=data/train"]
    stages += ["--features", "frames/dev=data/dev", "--feature-options=--feature-dtype int8", "--score", "data/dev"]
    code, text = submit(
        "pipeline", "recipe.yaml", "data.train=frames/train", *stages, "--gpus-per-node", "8", "--at-once=1"
    )
    assert code == 0 and text == (KEPT / "pipeline.txt").read_text()


@pytest.mark.parametrize("kept", sorted(KEPT.iterdir()), ids=lambda file: file.name)
def test_every_rank_is_what_srun_itself_starts(kept):
    """Under proctrack/cgroup a signal reaches the task alone: a shell or a launcher between would keep it."""
    text, command = kept.read_text(), r'^(?: *"\$\{ranks\[@\]\}"|srun [^"\n]*?)(?: (/home/you/python -u -m .*))?$'
    starts = re.findall(command, text, re.MULTILINE)
    assert starts and all(start.startswith("/home/you/python -u -m ") for start in starts)
    assert not re.search(r"bash -c|--signal=B:|srun [^\n]*(deepspeed|torchrun)", text)


@pytest.mark.parametrize(
    "container, ranks",
    [
        ("/images/slam.sif", "apptainer exec --nv --bind /home/you/speech,/data:/data /images/slam.sif)"),
        ("nvcr.io#nvidia/pytorch:26.10", "'--container-image=nvcr.io#nvidia/pytorch:26.10' "
         "--container-mounts=/home/you/speech:/home/you/speech,/data:/data --container-workdir=/home/you/speech)"),
    ],
)  # fmt: skip
def test_ranks_run_in_a_container_and_the_script_outside(submit, container, ranks):
    code, text = submit("recipe.yaml", "--container", container, "--mounts", "/data:/data")
    assert code == 0 and f"--wait=60 {ranks}" in text
    assert '"${ranks[@]}" python3 -u -m train' in text and "here=/home/you/python" in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["recipe.yaml", "--partition", "gpu; rm -rf"], "'--partition=gpu; rm -rf'"),
        (["recipe.yaml", "--sbatch", "exclusive"], "'exclusive'"),
        (["recipe.yaml", "--name", "a\nb"], "#SBATCH"),
        (["recipe.yaml", "--nodes", "0"], "--nodes is 0"),
        (["recipe.yaml", "--gpus-per-node", "4", "--ranks-per-node", "8"], "--ranks-per-node is 8"),
        (["recipe.yaml", "--env-file", "nowhere"], "--env-file 'nowhere'"),
        (["recipe.yaml", "--mounts", "/a:/b"], "--mounts /a:/b"),
        (["recipe.yaml", "optim.lrr=1"], "optim.lrr"),
        (["recipe.yaml", "--nods", "2"], "--nodes?"),
        (["recipe.yaml", "--build", "a=b"], "`slam-asr submit pipeline"),
        (["recipe", "--nodes", "2"], "no recipe 'recipe'"),
        (["pipeline"], "`slam-asr submit pipeline RECIPE.yaml"),
        (["pipeline", "recipe.yaml"], "--build, --features or --score"),
        (["pipeline", "recipe.yaml", "--build", "data"], "--build 'data'"),
        (["pipeline", "recipe.yaml", "--build", "a=b", "--build", "a=c"], "--build names a twice"),
        (["pipeline", "recipe.yaml", "--build", "a=b", "--build-options=--lowrcase"], "--lowercase?"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_anything_is_submitted(submit, arguments, message):
    code, text = submit(*arguments)
    assert code == 2 and message in text and text.startswith("slam-asr: ") and text.count("\n") <= 2, text
    assert not Path("runs").exists()


def test_submitting_without_slurm_is_refused(submit, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, text = submit("recipe.yaml", dry=False)
    assert code == 2 and "sbatch" in text and "--dry-run" in text and text.count("\n") == 1


@pytest.fixture
def run(tmp_path):
    (tmp_path / "slurm").mkdir()
    return tmp_path


def test_starts_that_come_further_are_not_counted_against_a_job(run):
    for step in (0, 0, 50, 50, 100):
        (run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True, exist_ok=True)
        (run / "checkpoints" / f"step-{step:08d}" / "MANIFEST.json").touch()
        assert lives.begin(run, 2) == 0
    with open(run / "slurm" / "lives.jsonl", "a") as file:
        file.write('{"step": 1')  # torn
    assert len(lives.read_lives(run)) == 5 and lives.begin(run, 2) == 0
    assert lives.begin(run, 2) == lives.FAILED and (run / "slurm" / "GAVE_UP").read_text().startswith("100 ")


def test_markers_of_an_earlier_start_are_removed(run):
    for name in (*lives.MARKERS, "slurm/lives.jsonl"):
        (run / name).touch()
    assert lives.begin(run, 5) == 0 and lives.end(run, 1) == lives.AGAIN


def test_a_run_that_is_still_held_is_tried_again_later(run, monkeypatch, capsys):
    monkeypatch.setattr(lives, "SECONDS_FOR_THE_LOCK", 0.1)
    with open(run / "LOCK", "w") as lock:
        lock.write("process 1 on elsewhere")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [lives.begin(run, 2) for _ in range(3)] == [lives.AGAIN, lives.AGAIN, lives.FAILED], "not for ever"
    assert "in use by process 1 on elsewhere" in capsys.readouterr().err
    assert [life["held"] for life in lives.read_lives(run)] == ["process 1 on elsewhere"] * 2


@pytest.mark.parametrize(
    "marker, text, code",
    [
        ("FINISHED", "8\n", 0),
        ("STOPPED", "5 SIGUSR1\n", 75),
        ("slurm/refusal", "no such LLM\n", 3),
        ("slurm/CANCEL", "", 130),
    ],
)
def test_markers_decide_what_is_done_next(run, marker, text, code):
    (run / marker).write_text(text)
    assert lives.end(run, 143) == code
    if marker == "slurm/CANCEL":
        assert lives.begin(run, 5) == code and not lives.read_lives(run)
    (run / "FINISHED").write_text("8")
    assert lives.end(run, 143) == 0, "it was quicker than what asked for its end"


def test_status_of_a_run_outside_slurm_is_read_from_its_files(run, capsys):
    harm = "\x1b]0;owned\x07\u202e"
    lines = [
        {"step": 8, "kind": "train", "loss": 1.5, "lr": None, "name": harm, "gap": 10**400},
        {"step": 8, "kind": "dev", "wer": 0.25},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9')
    (run / "skipped.jsonl").write_text('{"step": 3}\n')
    (run / "STOPPED").write_text(f"8 SIGTERM{harm}\n")
    assert main(["status", str(run)]) == 0
    text = capsys.readouterr().out
    assert "step 8, loss 1.5\n" in text and "wer 0.25" in text and "1 step " in text and "step 8 SIGTERM" in text
    assert all(line.isprintable() for line in text.splitlines())
    assert main(["status", str(run), "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert (state["train"]["step"], state["dev"]["wer"], state["skipped"], state["jobs"]) == (8, 0.25, 1, [])


@pytest.mark.parametrize(
    "verb, folder, jobs, value",
    [
        ("status", "none", None, "none'"),
        ("cancel", "", None, "no run was ever started there"),
        ("status", "", "{", "jobs.json"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(run, verb, folder, jobs, value, capsys):
    if jobs:
        (run / "slurm" / "jobs.json").write_text(jobs)
    assert main([verb, str(run / folder)]) == 2 and value in capsys.readouterr().err


def test_cancel_signals_the_process_of_a_run_outside_slurm(run, capsys):
    program = "import time; from pathlib import Path; from train.dist.lock import claim; "
    program += f"claim(Path({str(run)!r})); print(1); "
    with subprocess.Popen([sys.executable, "-uc", f"{program}time.sleep(1000)"], stdout=subprocess.PIPE) as running:
        assert running.stdout and running.stdout.readline()
        assert main(["cancel", str(run)]) == 0
        assert running.wait(600) == -signal.SIGTERM
    assert capsys.readouterr().out == f"process {running.pid} was asked to save and end\n"
    assert main(["cancel", str(run)]) == 2 and "no process holds it" in capsys.readouterr().err
