"""An answer depends on its utterance and the search, on nothing else."""

import pytest
import torch
from transformers import GenerationConfig

from decode.generate import EXTRA_TOKENS, DecodeOptions, EndAtBound, token_bounds, transcripts, unfit
from model.batch import Batch, pack
from model.errors import UserError
from model.llm import logits_at
from tests.decode.conftest import noise

LENGTHS = (16_000, 48_000, 8_000, 3_000, 100_000)


def batch_of(numbers, lengths=LENGTHS) -> Batch:
    waves = [torch.from_numpy(noise(i, lengths[i])) for i in numbers]
    return pack([f"u{i}" for i in numbers], [""] * len(waves), [[]] * len(waves), waves=waves)


def texts(model, batch, beams=1, max_new_tokens=None) -> list[str]:
    return [answer.text for answer in transcripts(model, batch, DecodeOptions(beams, max_new_tokens))]


@pytest.mark.parametrize("max_new_tokens", [None, 3])
@pytest.mark.parametrize("beams", [1, 2, 5])
def test_batching_never_changes_an_utterances_transcript(model, beams, max_new_tokens):
    options = DecodeOptions(beams, max_new_tokens)
    together = transcripts(model, batch_of(range(5)), options)
    alone = [transcripts(model, batch_of([i]), options)[0] for i in range(5)]
    assert together == alone
    assert len({one.text for one in together}) > 3
    assert any(one.note for one in together)


def test_greedy_search_is_the_most_likely_token_at_every_step(model):
    batch = batch_of([3])
    embeds, mask = model.prompt_embeds(batch)
    tokens = []
    for _ in range(int(token_bounds(model, batch, mask.sum(1)))):
        place = torch.tensor([embeds.shape[1] - 1])
        token = int(logits_at(model.llm, embeds, mask, place, torch.zeros_like(place)).argmax())
        if token == model.prompt.eos_id:
            break
        tokens.append(token)
        embeds = torch.cat([embeds, model.llm.get_input_embeddings()(torch.tensor([[token]]))], 1)
        mask = torch.ones(embeds.shape[:2], dtype=torch.int64)
    assert texts(model, batch) == [model.prompt.decode(tokens)]


def test_a_beam_as_wide_as_the_vocabulary_finds_the_best_of_all_answers(model):
    """At most one token: every answer is tried, its score the mean log probability of its tokens, EOS included."""
    embeds, _ = model.prompt_embeds(batch_of([2]))
    words = model.llm.get_input_embeddings().weight[:, None]  # [V, 1, H]
    vocabulary, eos = len(words), model.prompt.eos_id
    answers = torch.cat([embeds.expand(vocabulary, -1, -1), words], 1)
    scores = model.llm(inputs_embeds=answers).logits[:, -2:].log_softmax(-1)  # [V, 2, V]
    with_eos = (scores[0, 0] + scores[:, 1, eos]) / 2
    with_eos[eos] = scores[0, 0, eos]
    best = int(with_eos.argmax())
    assert texts(model, batch_of([2]), vocabulary, 1) == [model.prompt.decode([best])]
    assert best not in (eos, int(scores[0, 0].argmax())), "greedy search would have found it too"


def test_a_checkpoints_own_generation_settings_change_nothing(model, capfd):
    before = texts(model, batch_of([0, 2]))
    model.llm.generation_config = GenerationConfig(
        do_sample=True, temperature=0.1, top_p=0.5, top_k=3, repetition_penalty=9.0, suppress_tokens=[5, 6, 7],
        no_repeat_ngram_size=1, min_length=50, eos_token_id=[9, 10], pad_token_id=0, bos_token_id=0, num_beams=3,
    )  # fmt: skip
    capfd.readouterr()
    assert texts(model, batch_of([0, 2])) == before
    assert capfd.readouterr() == ("", "")


def test_the_bound_follows_the_utterances_own_length_for_audio_and_features_alike(model):
    batch = batch_of([0, 1])
    frames, frame_cu = model.encoder(batch.audio, batch.audio_cu)
    cached = pack(batch.keys, batch.texts, [[], []], features=list(frames.split(frame_cu.diff().tolist())))
    prompt = torch.tensor([30, 50])
    assert token_bounds(model, batch, prompt).tolist() == [EXTRA_TOKENS + 25, EXTRA_TOKENS + 75]
    assert token_bounds(model, cached, prompt).tolist() == [EXTRA_TOKENS + 25, EXTRA_TOKENS + 75]
    assert token_bounds(model, batch, prompt, max_new_tokens=4).tolist() == [4, 4]


def test_the_bound_leaves_prompt_and_answer_inside_the_llms_positions(model, monkeypatch):
    monkeypatch.setattr(model.llm.config, "max_position_embeddings", 70)
    assert token_bounds(model, batch_of([0, 1]), torch.tensor([50, 69])).tolist() == [20, 1]


def test_dropout_is_off_while_decoding_and_back_on_after(model, monkeypatch):
    monkeypatch.setattr(model.adapter.dropout, "p", 0.9)
    model.train()
    try:
        assert texts(model, batch_of([0])) == texts(model, batch_of([0]))
        assert model.adapter.training and not model.llm.training
    finally:
        model.eval()


def test_utterances_too_short_or_too_long_are_known_from_their_frames(model, monkeypatch):
    monkeypatch.setattr(model.llm.config, "max_position_embeddings", 40)
    words = len(model.prompt.prefix_ids) + len(model.prompt.suffix_ids)
    places = 40 - words
    assert [unfit(model, frames) for frames in (-1, 0, 4, 5)] == ["too-short", "too-short", "too-short", None]
    assert [unfit(model, 5 * speech) for speech in (places - 1, places)] == [None, "too-long"]
    with pytest.raises(UserError, match="too short for one speech embedding"):
        texts(model, batch_of([0, 1], lengths=(16_000, 400)))


def test_a_closed_row_has_only_eos_left_at_its_own_score_and_open_rows_are_untouched():
    scores = torch.arange(12.0).view(4, 3)
    ended = EndAtBound(torch.tensor([2, 5]), beams=2, eos_id=1)
    assert ended(torch.zeros(4, 1), scores) is scores
    after = ended(torch.zeros(4, 2), scores)
    assert after[:2].tolist() == [[-torch.inf, 1.0, -torch.inf], [-torch.inf, 4.0, -torch.inf]]
    assert torch.equal(after[2:], scores[2:])
