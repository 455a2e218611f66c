"""Whole directories: every utterance once, whatever the batches, ranks and kind of shards."""

import json

import pytest

from decode import dataset
from decode.dataset import (
    decode_batches,
    decode_ids,
    plan_batches,
    plan_decoding,
    rest_of,
    undecoded,
    write_hypotheses,
)
from decode.generate import transcripts
from decode.options import DecodeOptions
from model.errors import UserError
from model.weights import load_for_decoding
from tests.decode.conftest import SAMPLES, TEXTS

KEYS = [f"u{i}" for i in range(len(SAMPLES))]


def test_every_utterance_is_decoded_once_or_noted(model, audio_index):
    options = DecodeOptions(batch_tokens=60)
    plan = plan_decoding(model, audio_index, range(6), options)
    batches = list(decode_batches(model, audio_index, plan, options))
    assert [[row.key for row in batch.rows] for batch in batches] == [[KEYS[i] for i in ids] for ids in plan.batches]
    assert all(batch.seconds > 0 for batch in batches)
    assert sum(batch.audio_seconds for batch in batches) == pytest.approx((sum(SAMPLES) - SAMPLES[2]) / 16000, abs=1e-3)
    rows = {row.key: row for batch in batches for row in batch.rows}
    assert sorted(rows) == [key for key in KEYS if key != "u2"] and all(row.hypothesis for row in rows.values())
    assert [rows[key].reference for key in sorted(rows)] == [TEXTS[i] for i in (0, 1, 3, 4, 5)]
    [short] = undecoded(audio_index, plan)
    assert (short.key, short.reference, short.hypothesis, short.note) == ("u2", "a", "", "too-short")


def test_the_rest_of_a_plan_keeps_its_batches_and_each_is_decoded_by_one_rank(model, audio_index):
    options = DecodeOptions(batch_tokens=60, max_new_tokens=3)
    plan = plan_decoding(model, audio_index, range(6), options)
    whole = [batch.rows for batch in decode_batches(model, audio_index, plan, options)]
    assert len(whole) > 2 and rest_of(plan, ()) == plan
    rest = rest_of(plan, set(plan.batches[0]) | {plan.batches[-1][0]})
    assert rest.batches == [*plan.batches[1:-1], *filter(None, [plan.batches[-1][1:]])] and rest.unfit == plan.unfit
    turns = iter(range(100))  # shared, as by ranks
    taken = [next(iter(decode_batches(model, audio_index, plan, options, turns))).rows for _ in plan.batches]
    assert taken == whole and list(decode_batches(model, audio_index, plan, options, turns)) == []


def test_some_ids_only_and_an_answer_that_the_bound_ended_is_noted(model, audio_index):
    rows = decode_ids(model, audio_index, [5, 0], DecodeOptions(max_new_tokens=2))
    assert sorted((row.key, row.note) for row in rows) == [("u0", "cut"), ("u5", "cut")]
    assert decode_ids(model, audio_index, []) == []


@pytest.mark.parametrize("options", [DecodeOptions(batch_tokens=1), DecodeOptions(batch_tokens=60), DecodeOptions()])
def test_batch_sizes_change_nothing(model, audio_index, options):
    alone = {}
    for i in (0, 1, 3, 4, 5):
        batch = dataset.read_batch(audio_index, [i], model.prompt)
        alone[batch.keys[0]] = transcripts(model, batch, DecodeOptions())[0].text
    hypotheses = {
        row.key: row.hypothesis for row in decode_ids(model, audio_index, range(6), options) if row.key != "u2"
    }
    assert hypotheses == alone


@pytest.mark.parametrize("world", [2, 3, 7])
def test_ranks_share_the_work_and_decode_equally_often(model, audio_index, monkeypatch, world):
    calls = []
    decode = dataset._decode
    monkeypatch.setattr(dataset, "_decode", lambda *given: calls.append(1) or decode(*given))
    options = DecodeOptions(max_new_tokens=5, batch_tokens=60)
    whole = decode_ids(model, audio_index, range(6), options)
    counts, shares = [], []
    for rank in range(world):
        calls.clear()
        shares += decode_ids(model, audio_index, range(6), options, rank, world)
        counts.append(len(calls))
    assert len(set(counts)) == 1
    assert sorted(shares, key=lambda row: row.key) == sorted(whole, key=lambda row: row.key)


def test_cached_features_need_no_encoder_and_audio_without_one_is_refused(tiny, feature_index, audio_index):
    without = load_for_decoding(tiny.adapter, with_encoder=False)
    assert without.encoder is None
    with pytest.raises(UserError, match="holds audio, which needs an encoder"):
        decode_ids(without, audio_index, [0])
    hypotheses = sorted(decode_ids(without, feature_index, range(6)), key=lambda row: row.key)
    assert [row.key for row in hypotheses] == KEYS
    assert hypotheses[2].note == "too-short"
    assert all(row.hypothesis for row in hypotheses if row.key != "u2")


def test_a_batch_keeps_to_its_budget_or_is_one_row():
    lengths = [3, 10, 1, 7, 7, 2, 40, 1]
    batches = plan_batches(lengths, 20)
    assert batches == [[6], [1, 3], [4, 0], [5, 2, 7]]
    assert all(len(rows) * lengths[rows[0]] <= 20 or len(rows) == 1 for rows in batches)
    assert plan_batches([], 20) == []


def test_hypotheses_are_written_whole_or_not_at_all(tmp_path, model, audio_index):
    hypotheses = decode_ids(model, audio_index, [0, 2])
    path = tmp_path / "results.jsonl"
    write_hypotheses(path, hypotheses, [{"speaker": "anna"}] * 2)
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [set(row) for row in rows] == [{"key", "reference", "hypothesis", "note", "confidence", "speaker"}] * 2
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_hypotheses(path, hypotheses, [{"speaker": "ben"}, {"speaker": object()}])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
