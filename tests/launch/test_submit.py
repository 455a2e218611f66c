"""What `slam-asr submit` would give to sbatch, as kept texts, and what it refuses; tests/cluster/ runs it for real."""

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
        said = capsys.readouterr()
        text = (
            (said.out + said.err).replace(str(tmp_path), "/home/you/speech").replace(sys.executable, "/home/you/python")
        )
        return code, text

    return run


@pytest.mark.parametrize("nodes, more", [(1, []), (4, ["--env-file", "cluster env"]), (128, FULL)])
def test_the_text_for_so_many_nodes_is_the_one_that_is_kept(submit, nodes, more):
    asked = ["--nodes", str(nodes), "--gpus-per-node", "8", "--time", "12:00:00", "--partition", "gpu", *more]
    code, text = submit("recipe.yaml", "optim.lr=2e-4", *asked)
    assert code == 0 and text == (KEPT / f"{nodes}.sbatch").read_text()
    assert not Path("runs").exists()


def test_the_text_of_a_pipeline_is_the_one_that_is_kept(submit):
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
    text = kept.read_text()
    starts = re.findall(
        r'^(?: *"\$\{ranks\[@\]\}"|srun [^"\n]*?)(?: (/home/you/python -u -m .*))?$', text, re.MULTILINE
    )
    assert starts and all(start.startswith("/home/you/python -u -m ") for start in starts)
    assert (
        "bash -c" not in text and "--signal=B:" not in text and not re.search(r"srun [^\n]*(deepspeed|torchrun)", text)
    )


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
    "arguments, said",
    [
        (["recipe.yaml", "--partition", "gpu; rm -rf"], "'--partition=gpu; rm -rf' cannot stand in an #SBATCH line"),
        (["recipe.yaml", "--sbatch", "exclusive"], "'exclusive' cannot stand in an #SBATCH line; give --OPTION=VALUE"),
        (["recipe.yaml", "--name", "a\nb"], "cannot stand in an #SBATCH line"),
        (["recipe.yaml", "--nodes", "0"], "--nodes is 0, it must be at least 1"),
        (["recipe.yaml", "--gpus-per-node", "4", "--ranks-per-node", "8"], "--ranks-per-node is 8"),
        (["recipe.yaml", "--env-file", "nowhere"], "--env-file 'nowhere' is no file"),
        (["recipe.yaml", "--mounts", "/a:/b"], "there is no --container"),
        (["recipe.yaml", "optim.lrr=1"], "did you mean"),
        (["recipe.yaml", "--nods", "2"], "did you mean --nodes?"),
        (["recipe.yaml", "--build", "a=b"], "--build is of a pipeline; write `slam-asr submit pipeline"),
        (["recipe", "--nodes", "2"], "no recipe 'recipe'"),
        (["pipeline"], "no recipe is given; write `slam-asr submit pipeline RECIPE.yaml"),
        (["pipeline", "recipe.yaml"], "a pipeline has stages beside the training"),
        (["pipeline", "recipe.yaml", "--build", "data"], "--build 'data' is not of the form OUT=SOURCE"),
        (["pipeline", "recipe.yaml", "--build", "a=b", "--build", "a=c"], "--build names a twice"),
        (["pipeline", "recipe.yaml", "--build", "a=b", "--build-options=--lowrcase"], "did you mean --lowercase?"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_anything_is_submitted(submit, arguments, said):
    code, text = submit(*arguments)
    assert code == 2 and said in text and text.startswith("slam-asr: ") and text.count("\n") <= 2, text
    assert not Path("runs").exists()


def test_where_there_is_no_slurm_it_says_so(submit, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert submit("recipe.yaml", dry=False) == (
        2,
        "slam-asr: sbatch is not here; submit from a host of the Slurm cluster, or look with --dry-run\n",
    )


@pytest.fixture
def run(tmp_path):
    (tmp_path / "slurm").mkdir()
    return tmp_path


def test_lives_that_come_further_are_not_counted_against_a_job(run):
    for step in (0, 0, 50, 50, 100):
        (run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True, exist_ok=True)
        (run / "checkpoints" / f"step-{step:08d}" / "MANIFEST.json").touch()
        assert lives.begin(run, 2) == 0
    with open(run / "slurm" / "lives.jsonl", "a") as file:
        file.write('{"step": 1')  # torn
    assert len(lives.read_lives(run)) == 5 and lives.begin(run, 2) == 0
    assert lives.begin(run, 2) == lives.FAILED and (run / "slurm" / "GAVE_UP").read_text().startswith("100 ")


def test_what_an_old_life_left_says_nothing_of_the_next(run):
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
def test_markers_say_what_is_to_be_done(run, marker, text, code):
    (run / marker).write_text(text)
    assert lives.end(run, 143) == code
    if marker == "slurm/CANCEL":
        assert lives.begin(run, 5) == code and not lives.read_lives(run)
    (run / "FINISHED").write_text("8")
    assert lives.end(run, 143) == 0, "it was quicker than what asked for its end"


def test_status_tells_of_a_run_that_slurm_knows_nothing_of(run, capsys):
    (run / "metrics.jsonl").write_text('{"step": 8, "kind": "train", "loss": 1.5, "seconds_left": 60}\n{"step": 9')
    (run / "STOPPED").write_text("8 SIGTERM\n")
    assert main(["status", str(run)]) == 0
    said = capsys.readouterr().out
    assert "step 8, loss 1.5, 0:01:00 left; 0:00:0" in said and "stopped as asked at step 8 SIGTERM" in said
    assert main(["status", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["step"] == 8
    assert main(["logs", str(run)]) == 2 and "was not started by `slam-asr submit`" in capsys.readouterr().err
    assert main(["cancel", str(run)]) == 2 and "no run was ever started there" in capsys.readouterr().err
    assert main(["status", str(run / "none")]) == 2 and "is no folder of a run" in capsys.readouterr().err


def test_a_run_without_a_job_is_asked_by_its_process(run, capsys):
    program = "import time; from pathlib import Path; from train.dist.lock import claim; "
    program += f"claim(Path({str(run)!r})); print(1); "
    with subprocess.Popen([sys.executable, "-uc", f"{program}time.sleep(1000)"], stdout=subprocess.PIPE) as running:
        assert running.stdout and running.stdout.readline()
        assert main(["cancel", str(run)]) == 0
        assert running.wait(600) == -signal.SIGTERM
    assert capsys.readouterr().out == f"process {running.pid} was asked to save and end\n"
    assert main(["cancel", str(run)]) == 2 and "no process holds it" in capsys.readouterr().err
