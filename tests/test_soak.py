"""`make soak`, small."""

import json

from tests import soak


def test_a_training_that_is_killed_twice_ends_bit_identical(tmp_path, capsys):
    assert soak.main(["--kills", "2", "--seed", "5", "--folder", str(tmp_path / "soak")]) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert "2 kills and stops" in said and "bit-identical" in said


def test_a_step_told_twice_and_other_weights_are_faults(tmp_path):
    checked = soak.Soak(tmp_path, 2, 1, soak.random.Random(0))
    step = f"step-{checked.steps:08d}"
    for run, weights in ((checked.run, b"ours"), (checked.straight, b"theirs")):
        folder = run / "checkpoints" / step
        folder.mkdir(parents=True)
        (folder / "adapter.safetensors").write_bytes(weights)
        (folder / "optimizer.safetensors").write_bytes(b"")
        lines = [json.dumps({"kind": "train", "step": 1, "loss": 2.0})] * (2 if run == checked.run else 1)
        (run / "metrics.jsonl").write_text("\n".join(lines))
    checked._compare()
    assert [fault.split()[0] for fault in checked.faults] == ["the", "metrics.jsonl"]
    log = tmp_path / "log"
    log.write_text(f"resuming from {step} (written by 2 ranks)\n")
    checked._check_resumed(log, {checked.steps: "torn", 3: ""})
    assert f"went on from step {checked.steps} of [3, {checked.steps}]" in checked.faults[-1]
