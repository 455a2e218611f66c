"""An answer depends on its utterance and the search, on nothing else."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig

from decode.generate import EXTRA_TOKENS, token_bounds, transcripts, unfit
from decode.options import Answer, DecodeOptions
from model.batch import Batch, pack
from model.encoders import load_encoder, samples_per_frame
from model.errors import UserError
from model.llm import logits_at
from tests.decode.conftest import noise
from tests.tiny_encoders import tiny_encoder

LENGTHS = (16_000, 48_000, 8_000, 3_000, 100_000)


def batch_of(numbers, lengths=LENGTHS) -> Batch:
    waves = [torch.from_numpy(noise(i, lengths[i])) for i in numbers]
    return pack([f"u{i}" for i in numbers], [""] * len(waves), [[]] * len(waves), waves=waves)


def texts(model, batch, beams=1, max_new_tokens=None) -> list[str]:
    return [answer.text for answer in transcripts(model, batch, DecodeOptions(beams, max_new_tokens, strict=True))]


def same(together: list[Answer], alone: list[Answer]) -> None:
    """Compares tokens, texts and notes exactly, log-probabilities up to rounding, which depends on the batch shape."""
    for one, other in zip(together, alone, strict=True):
        assert (one.text, one.note, one.tokens) == (other.text, other.note, other.tokens)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert [text for text, _ in one.alternatives] == [text for text, _ in other.alternatives]
        assert [x for _, x in one.alternatives] == pytest.approx([x for _, x in other.alternatives], abs=1e-4)


@pytest.mark.parametrize(("beams", "penalty"), [(1, 0.0), (3, 0.0), (3, 1.0)])
def test_an_answer_that_ends_at_once_is_empty_and_no_fault(model, monkeypatch, beams, penalty):
    head, eos = model.llm.get_output_embeddings(), torch.zeros(model.llm.config.vocab_size)
    eos[model.prompt.eos_id] = 1000.0
    monkeypatch.setattr(head, "forward", lambda hidden, compute=head.forward: compute(hidden) + eos)
    for answer in transcripts(model, batch_of(range(3)), DecodeOptions(beams, nbest=beams, length_penalty=penalty)):
        assert (answer.text, answer.note, answer.tokens, answer.logprobs) == ("", "", (), (0.0,))
        assert answer.confidence == 1 and len(answer.alternatives) == (beams if beams > 1 else 0)


@pytest.mark.parametrize("max_new_tokens", [None, 3])
@pytest.mark.parametrize("beams", [1, 2, 5])
def test_batching_never_changes_an_utterances_transcript(model, beams, max_new_tokens):
    options = DecodeOptions(beams, max_new_tokens, nbest=beams)
    together = transcripts(model, batch_of(range(5)), options)
    alone = [transcripts(model, batch_of([i]), options)[0] for i in range(5)]
    same(together, alone)
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


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_beam_as_wide_as_the_vocabulary_finds_the_best_of_all_answers(model, length_penalty):
    """At most one token: every answer is tried. Its score is the sum of the log-probabilities of its tokens, EOS
    included, or their mean."""
    embeds, _ = model.prompt_embeds(batch_of([2]))
    words = model.llm.get_input_embeddings().weight[:, None]  # [V, 1, H]
    vocabulary, eos = len(words), model.prompt.eos_id
    answers = torch.cat([embeds.expand(vocabulary, -1, -1), words], 1)
    scores = model.llm(inputs_embeds=answers).logits[:, -2:].log_softmax(-1)  # [V, 2, V]
    with_eos = (scores[0, 0] + scores[:, 1, eos]) / 2**length_penalty
    with_eos[eos] = scores[0, 0, eos]
    best = int(with_eos.argmax())
    [answer] = transcripts(model, batch_of([2]), DecodeOptions(vocabulary, 1, length_penalty=length_penalty))
    assert answer.text == model.prompt.decode([] if best == eos else [best])
    assert length_penalty == 0 or best not in (eos, int(scores[0, 0].argmax())), "greedy search would have found it too"


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


def test_the_bound_follows_seconds_where_frames_are_longer(tmp_path, model):
    """Moonshine has 41.7 frames a second."""
    encoder = load_encoder(tiny_encoder(tmp_path, "moonshine"))
    seconds = encoder.out_len(torch.tensor([160_000])) * encoder.samples_per_frame / 16_000
    assert float(seconds) == pytest.approx(10, abs=0.05)
    assert samples_per_frame(encoder.fingerprint()) == 384


def test_log_probabilities_are_the_llms_own_with_and_without_penalties(model):
    batch = batch_of([0, 2])
    embeds, mask = model.prompt_embeds(batch)
    for options in (DecodeOptions(max_new_tokens=9), DecodeOptions(3, 9), DecodeOptions(3, 9, repetition_penalty=1.5)):
        for i, answer in enumerate(transcripts(model, batch, replace(options, strict=True))):
            ids = torch.tensor([*answer.tokens, model.prompt.eos_id])[None]
            row = torch.cat([embeds[i : i + 1, mask[i] > 0], model.llm.get_input_embeddings()(ids)], 1)
            chances = model.llm(inputs_embeds=row).logits[0, -len(ids[0]) - 1 : -1].log_softmax(-1)
            own = chances.gather(1, ids.T)[:, 0].tolist()
            assert answer.logprobs == pytest.approx(own[: len(answer.logprobs)], abs=1e-4)
            assert len(answer.logprobs) == len(answer.tokens) + (answer.note != "cut")
            assert answer.confidence == pytest.approx(math.exp(sum(answer.logprobs) / len(answer.logprobs)))


def test_n_best_lists_have_scores_and_are_sorted(model):
    [answer] = transcripts(model, batch_of([0]), DecodeOptions(4, 6, nbest=3, length_penalty=0.5, strict=True))
    assert len(answer.alternatives) == 3 and answer.alternatives[0].text == answer.text
    scores = [score for _, score in answer.alternatives]
    assert scores == sorted(scores, reverse=True)
    count = len(answer.tokens) + 1
    if answer.note == "":
        assert scores[0] == pytest.approx(sum(answer.logprobs) / count**0.5, abs=1e-4)
    [only] = transcripts(model, batch_of([0]), DecodeOptions(4, 6, strict=True))
    assert only.alternatives == ()


def test_a_repetition_penalty_applies_to_the_answers_tokens_only(model):
    """So the first token is never penalised."""
    plain = transcripts(model, batch_of([0, 1]), DecodeOptions(max_new_tokens=30, strict=True))
    penal = transcripts(model, batch_of([0, 1]), DecodeOptions(max_new_tokens=30, strict=True, repetition_penalty=5.0))
    assert [one.tokens[0] for one in plain] == [one.tokens[0] for one in penal]
    assert all(len(set(one.tokens)) > len(set(other.tokens)) for one, other in zip(penal, plain, strict=True))


@pytest.mark.parametrize("beams", [1, 3])
def test_an_answer_of_an_llm_that_computes_nan_is_empty_and_noted(model, monkeypatch, beams):
    embeds, mask = model.prompt_embeds(batch_of(range(3)))
    embeds[1] = torch.nan
    monkeypatch.setattr(model, "prompt_embeds", lambda batch: (embeds, mask))
    answers = transcripts(model, batch_of(range(3)), DecodeOptions(beams, nbest=beams))
    assert answers[1] == Answer("", "nan") and answers[1].confidence == 0.0
    assert answers[0].confidence > 0 and answers[2].note != "nan"
