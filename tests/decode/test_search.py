"""Ending one row of the search leaves the other rows unchanged, to the bit."""

from dataclasses import replace

import pytest
import torch

from decode.generate import transcripts
from decode.options import DecodeOptions
from decode.prefix import Prompts
from decode.search import LOOP_CHECK_EVERY, EndAtBound, EndLoops, Search, search
from tests.decode.test_generate import batch_of


def test_a_closed_row_has_only_eos_left_at_its_own_score_and_open_rows_are_untouched():
    scores = torch.arange(12.0).view(4, 3)
    ended = EndAtBound(torch.tensor([2, 5]), beams=2, eos_id=1)
    assert ended(torch.zeros(4, 1), scores) is scores
    after = ended(torch.zeros(4, 2), scores)
    assert after[:2].tolist() == [[-torch.inf, 1.0, -torch.inf], [-torch.inf, 4.0, -torch.inf]]
    assert torch.equal(after[2:], scores[2:])


def test_a_looping_hypothesis_is_dropped_and_if_all_loop_they_end():
    ids = torch.tensor([[5] * LOOP_CHECK_EVERY, [6] * LOOP_CHECK_EVERY, [5] * LOOP_CHECK_EVERY, [5] * LOOP_CHECK_EVERY])
    scores = torch.arange(12.0).view(4, 3)
    ends = EndLoops(lambda row: row[0] == 5, beams=2, eos_id=1)
    assert ends(ids[:, 1:], scores) is scores, "looked at now and then"
    after = ends(ids, scores)
    assert after[0].tolist() == [-torch.inf] * 3 and torch.equal(after[1], scores[1])
    assert after[2:].tolist() == [[-torch.inf, 7.0, -torch.inf], [-torch.inf, 10.0, -torch.inf]]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_row_that_is_ended_as_a_loop_changes_no_other_row(model, beams):
    embeds, mask = model.prompt_embeds(batch_of(range(5)))
    prompts, bounds = Prompts(embeds, mask, len(model.prompt.prefix_ids)), torch.full((5,), 40)
    how = Search(model.prompt.eos_id, model.prompt.pad_id, beams, beams)
    before = search(model.llm, prompts, bounds, how)
    looping = max(range(5), key=lambda i: len(before[i][0].tokens))
    starts = {tuple(one.tokens[:3]) for one in before[looping]}
    assert not starts & {tuple(one.tokens[:3]) for i in range(5) if i != looping for one in before[i]}
    after = search(model.llm, prompts, bounds, replace(how, is_loop=lambda ids: tuple(ids[:3]) in starts))
    if beams == 1:
        assert len(after[looping][0].tokens) == LOOP_CHECK_EVERY
    assert after[looping] != before[looping]
    assert [after[i] for i in range(5) if i != looping] == [before[i] for i in range(5) if i != looping]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_second_search_keeps_the_note_and_changes_no_other_answer(model, beams, monkeypatch):
    batch, options = batch_of(range(5)), DecodeOptions(beams, 40)
    before = transcripts(model, batch, replace(options, strict=True))
    loops, decode = before[1].tokens[:3], model.prompt.decode
    assert sum(one.tokens[:3] == loops for one in before) == 1
    monkeypatch.setattr(model.prompt, "decode", lambda ids: "no " * len(ids) if (*ids[:3],) == loops else decode(ids))
    after = transcripts(model, batch, options)
    assert after[1].note == "loop" and (len(after[1].tokens) <= 3 or after[1].tokens[:3] != loops)
    assert [after[i] for i in (0, 2, 3, 4)] == [before[i] for i in (0, 2, 3, 4)]
    strict = transcripts(model, batch, replace(options, strict=True))
    assert strict[1].note in ("", "cut") and strict[1].tokens == before[1].tokens


def test_a_beam_search_keeps_no_scores_of_its_steps(model, monkeypatch):
    generate, made = model.llm.generate, []
    monkeypatch.setattr(model.llm, "generate", lambda **options: made.append(generate(**options)) or made[0])
    embeds, mask = model.prompt_embeds(batch_of(range(2)))
    search(model.llm, Prompts(embeds, mask, 0), torch.tensor([5, 5]), Search(model.prompt.eos_id, 2, beams=3))
    assert made[0].sequences_scores is not None and all(scores.numel() == 0 for scores in made[0].scores)
