"""Recordings in which nothing is said: trained as empty answers, and the words answered to them are told."""

import json

from data_prep.build.build import BuildOptions, build
from data_prep.build.prepare import Limits
from data_prep.features.build import build_features
from data_prep.importers.table import import_jsonl
from data_prep.shards.opening import read_index
from data_prep.synth.silence import write_silence
from model.encoders import load_encoder
from tests.train.runs import run

LORA = ["lora.rank=16", "lora.lr=1e-2", "lora.targets=[q_proj, v_proj, up_proj, down_proj]"]  # of a random LLM


def test_a_model_that_is_trained_on_silence_answers_fewer_words_to_it(ground, tmp_path):
    for name, number, seed in (("train", 15, 0), ("dev", 5, 1)):
        manifest = write_silence(tmp_path / name, number, seed)
        build(import_jsonl(manifest), tmp_path / f"shards-{name}", BuildOptions(limits=Limits(allow_empty=True)))
    build_features(read_index(tmp_path / "shards-train"), load_encoder(str(ground / "encoder")), tmp_path / "features")
    data = [f"data.train=[{ground}/features, {tmp_path}/features]", f"data.dev=[{ground}/dev, {tmp_path}/shards-dev]"]
    watched = ["eval.wer=true", "eval.max_new_tokens=8", "eval.at_start=true", "eval.every_steps=60", "save.best=wer"]
    steps = ["batch.tokens=600", "optim.lr=3e-3", "optim.max_steps=60", "save.every_steps=60", "model.dtype=float32"]
    said = run(ground, tmp_path / "run", *data, *watched, *steps, *LORA)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    before, after = (line for line in map(json.loads, lines) if line["kind"] == "dev")
    assert before["silent_utterances"] == after["silent_utterances"] == 5 and after["loss"] < before["loss"] / 2
    assert after["hallucinated_words"] <= before["hallucinated_words"] / 2 > 2
    assert f"words on silence {after['hallucinated_words']}  silent 5" in said and after["wer"] < before["wer"]
