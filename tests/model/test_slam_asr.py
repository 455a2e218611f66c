"""The recogniser's loss against transformers' own, and who gets gradients."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from model.adapters import AdapterSpec, build_adapter
from model.batch import Batch, cumulative, dequantise, pack, quantise, with_speech_rolled
from model.encoders import load_encoder
from model.errors import UserError
from model.llm import load_llm
from model.prompt import Prompt
from model.slam_asr import SlamAsr
from tests.tiny import LLM_DIM, STACK, TEMPLATE, tiny_models, tiny_recogniser

TEXTS = ["the cat sat", "", "a mat, and on it a rather long sentence"]
SECONDS = [0.9, 0.13, 2.0]
KEYS = ["first", "second", "third"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> SlamAsr:
    return tiny_recogniser(tmp_path_factory.mktemp("models"))[0]


@pytest.fixture(scope="module")
def waves() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [0.1 * torch.randn(int(16_000 * seconds), generator=generator) for seconds in SECONDS]


def batch_of(model: SlamAsr, waves: list[torch.Tensor], texts: list[str] = TEXTS) -> Batch:
    return pack(KEYS[: len(texts)], texts, [model.prompt.target_ids(text) for text in texts], waves=waves)


def each(model: SlamAsr, waves: list[torch.Tensor]) -> Iterator[Batch]:
    return (batch_of(model, [wave], [text]) for wave, text in zip(waves, TEXTS, strict=True))


def reference(model: SlamAsr, wave: torch.Tensor, text: str) -> tuple[torch.Tensor, int]:
    """Summed loss and right predictions of one utterance by transformers' own labels, every logit computed."""
    assert model.encoder is not None
    frames, _ = model.encoder(wave, cumulative([len(wave)]))
    usable = frames[: len(frames) // STACK * STACK].reshape(-1, STACK * model.encoder.dim)
    adapter: Any = model.adapter
    speech = adapter.linear2(torch.relu(adapter.linear1(usable)))
    before, after = TEMPLATE.split("<speech>")
    tokenizer, embed = model.prompt.tokenizer, model.llm.get_input_embeddings()
    first = tokenizer.encode(before)  # with BOS
    answered = f"{after} {text}" if text else after  # an empty answer is its end alone
    last = tokenizer.encode(answered, add_special_tokens=False) + [tokenizer.eos_token_id]
    answer = len(last) - len(tokenizer.encode(after, add_special_tokens=False))
    embeds = torch.cat([embed(torch.tensor(first)), speech, embed(torch.tensor(last))])[None]
    labels = torch.full(embeds.shape[:2], -100)
    labels[0, -answer:] = torch.tensor(last[-answer:])
    output = model.llm(inputs_embeds=embeds, labels=labels, use_cache=False)
    right = output.logits[0, -answer - 1 : -1].argmax(-1) == labels[0, -answer:]
    return output.loss * answer, int(right.sum())


def test_a_batch_is_the_sum_of_its_utterances_and_of_transformers_own_losses(model, waves):
    output = model(batch_of(model, waves))
    alone = [model(batch) for batch in each(model, waves)]
    theirs = [reference(model, wave, text) for wave, text in zip(waves, TEXTS, strict=True)]
    assert output.loss.dtype == torch.float32 and output.loss.ndim == 0
    torch.testing.assert_close(output.loss, sum(single.loss for single in alone), rtol=1e-5, atol=1e-4)
    for single, (loss, right) in zip(alone, theirs, strict=True):
        torch.testing.assert_close(single.loss, loss, rtol=1e-5, atol=1e-4)
        assert int(single.num_correct) == right
    assert int(output.num_correct) == sum(right for _, right in theirs)


def test_gradients_are_those_of_transformers_own_loss(model, waves):
    names, trained = zip(*model.adapter.named_parameters(), strict=True)
    ours = torch.autograd.grad(model(batch_of(model, waves)).loss, trained)
    total = sum((reference(model, wave, text)[0] for wave, text in zip(waves, TEXTS, strict=True)), torch.zeros(()))
    for name, mine, theirs in zip(names, ours, torch.autograd.grad(total, trained), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_cached_features_give_the_loss_of_their_audio(model, waves):
    batch = batch_of(model, waves)
    frames, frame_cu = model.encoder(batch.audio, batch.audio_cu)
    cached = pack(batch.keys, batch.texts, split(batch), features=list(frames.split(frame_cu.diff().tolist())))
    without_encoder = SlamAsr(None, model.adapter, load_like(model), model.prompt)
    assert torch.equal(without_encoder(cached).loss, model(batch).loss)
    assert without_encoder.speech_tokens(cached).tolist() == model.speech_tokens(batch).tolist() == [8, 1, 19]
    half = replace(cached, features=frames.half())
    torch.testing.assert_close(without_encoder(half).loss, model(batch).loss, rtol=1e-2, atol=0)


def test_frames_of_eight_bits_are_the_numbers_they_stand_for_masked_and_rolled_alike(model, waves):
    batch = batch_of(model, waves)
    frames, frame_cu = model.encoder(batch.audio, batch.audio_cu)
    rows = quantise(frames)
    assert rows.shape == (len(frames), model.encoder.dim + 2) and rows.dtype == torch.uint8
    for size in (1.0, 1e-4, 1e-6, 1e5):
        scale = quantise(frames * size)[:, :2].contiguous().view(torch.float16).float()
        assert bool(((dequantise(quantise(frames * size)) - frames * size).abs() <= 0.5001 * scale).all())
    eight, plain = (
        pack(batch.keys, batch.texts, split(batch), features=list(kept.split(frame_cu.diff().tolist())))
        for kept in (rows, dequantise(rows))
    )
    assert torch.equal(model(eight).loss, model(plain).loss)
    torch.testing.assert_close(model(eight).loss, model(batch).loss, rtol=3e-2, atol=0)
    generator = torch.Generator().manual_seed(1)
    masks = {
        "masked_frames": torch.rand(len(frames), generator=generator) < 0.3,
        "masked_dims": torch.rand(len(batch), model.encoder.dim, generator=generator) < 0.3,
    }
    eight, plain = (with_speech_rolled(replace(cached, **masks)).to("cpu") for cached in (eight, plain))
    assert torch.equal(model(eight).loss, model(plain).loss) and not torch.equal(model(plain).loss, model(batch).loss)


def test_a_frame_of_zeros_or_of_hardly_anything_stays_finite_in_eight_bits():
    frames = torch.tensor([[0.0, 0.0], [1e-9, -1e-9], [8e6, -8e6]])
    kept = dequantise(quantise(frames))
    assert torch.equal(kept[:2], torch.zeros(2, 2))
    torch.testing.assert_close(kept[2], frames[2], rtol=1e-3, atol=0)


def test_packed_and_padded_are_one_recogniser(model, waves):
    assert model.layout == "packed" and model.packing_note is None
    padded = SlamAsr(model.encoder, model.adapter, load_like(model), model.prompt, layout="padded")
    batch, trained = batch_of(model, waves), list(model.adapter.parameters())
    ours, theirs = model(batch), padded(batch)
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=1e-4)
    assert torch.equal(ours.num_correct, theirs.num_correct)
    gradients = [torch.autograd.grad(output.loss, trained) for output in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)
    assert all(torch.equal(*pair) for pair in zip(model.prompt_embeds(batch), padded.prompt_embeds(batch), strict=True))


def test_masked_frames_are_zero_for_audio_and_features_alike(model, waves):
    batch = batch_of(model, waves)
    frames, frame_cu = model.encoder(batch.audio, batch.audio_cu)
    generator = torch.Generator().manual_seed(1)
    masks = {
        "masked_frames": torch.rand(len(frames), generator=generator) < 0.3,
        "masked_dims": torch.rand(len(batch), model.encoder.dim, generator=generator) < 0.3,
    }
    zeroed = frames.clone()
    zeroed[masks["masked_frames"]] = 0
    for utterance, dims in zip(zeroed.split(frame_cu.diff().tolist()), masks["masked_dims"], strict=True):
        utterance[:, dims] = 0
    cached = pack(batch.keys, batch.texts, split(batch), features=list(frames.split(frame_cu.diff().tolist())))
    wanted = model(replace(cached, features=zeroed)).loss
    for source in (batch, cached):
        assert torch.equal(model(replace(source, **masks)).loss, wanted)
        assert not torch.equal(model(source).loss, wanted)


def test_masked_tokens_are_not_seen_and_still_predicted(model, waves):
    batch = batch_of(model, waves)
    is_last = torch.zeros(batch.num_targets, dtype=torch.bool).index_fill(0, batch.target_cu[1:] - 1, True)
    nothing, all_but_last = (replace(batch, masked_targets=mask) for mask in (is_last, ~is_last))
    assert torch.equal(model(nothing).loss, model(batch).loss)  # the end of an answer is never fed in
    assert not torch.equal(model(all_but_last).loss, model(batch).loss)
    eos = replace(all_but_last, targets=batch.targets[is_last], target_cu=torch.arange(len(batch) + 1))
    first = model(replace(eos, masked_targets=torch.ones(len(batch), dtype=torch.bool)))
    assert torch.equal(first.loss, model(replace(eos, masked_targets=None)).loss)  # nothing is fed in at all


def test_rolled_speech_gives_the_loss_of_the_next_utterances_audio(model, waves):
    batch = batch_of(model, waves)
    loss = model(with_speech_rolled(batch)).loss
    assert torch.equal(loss, model(batch_of(model, [waves[1], waves[2], waves[0]])).loss)
    assert loss != model(batch).loss


def split(batch: Batch) -> list[list[int]]:
    return [part.tolist() for part in batch.targets.split(batch.target_cu.diff().tolist())]


def load_like(model: SlamAsr):
    from model.llm import Llm

    return Llm(model.llm, model.prompt.tokenizer, {})


def test_every_answer_token_counts_and_the_end_is_one(model, waves):
    batch = batch_of(model, waves)
    assert batch.num_targets == sum(len(model.prompt.target_ids(text)) for text in TEXTS)
    rows = []
    hook = model.llm.get_output_embeddings().register_forward_hook(
        lambda head, given, logits: rows.append(given[0].shape)
    )
    with hook:
        model(batch)
    assert rows == [(batch.num_targets, LLM_DIM)]  # the head sees label places only
    ends = batch.target_cu[1:] - 1
    assert (batch.targets[ends] == model.prompt.eos_id).all()
    another = replace(batch, targets=batch.targets.index_fill(0, ends, 5))  # an end is never fed in, only predicted
    with model.llm.get_output_embeddings().register_forward_hook(lambda head, given, logits: rows.append(logits)):
        assert model(another).loss != model(batch).loss
    assert torch.equal(rows[-1], rows[-2])


def test_the_prompt_ends_where_the_answer_begins(model, waves):
    batch = batch_of(model, waves)
    embeds, mask = model.prompt_embeds(batch)
    around = len(model.prompt.prefix_ids) + len(model.prompt.suffix_ids)
    assert mask.sum(1).tolist() == [around + n for n in model.speech_tokens(batch).tolist()]
    assert (mask.diff(dim=1) >= 0).all() and embeds.shape == (*mask.shape, LLM_DIM)  # padded on the left
    last = model.llm.get_input_embeddings()(torch.tensor(model.prompt.suffix_ids))
    first = model.llm.get_input_embeddings()(torch.tensor(model.prompt.prefix_ids))
    for row, keep, single in zip(embeds, mask.bool(), each(model, waves), strict=True):
        assert torch.equal(row[-len(last) :], last) and torch.equal(row[keep][: len(first)], first)
        torch.testing.assert_close(row[keep], model.prompt_embeds(single)[0][0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_the_adapter_learns_and_in_float32(tmp_path, waves, dtype):
    encoder_source, llm_source = map(str, tiny_models(tmp_path))
    encoder, llm = load_encoder(encoder_source, dtype=dtype), load_llm(llm_source, dtype=dtype)
    torch.manual_seed(0)
    adapter = build_adapter(AdapterSpec("concat", STACK, 64, 0.1, encoder.dim, LLM_DIM))
    model = SlamAsr(encoder, adapter, llm, Prompt(llm.tokenizer, TEMPLATE)).train()
    assert adapter.training and not any(part.training for frozen in (encoder, llm.model) for part in frozen.modules())
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        f"adapter.{n}" for n in adapter.state_dict()
    }
    assert not any(p.requires_grad for p in encoder.parameters()) and llm.model.dtype == getattr(torch, dtype)
    before = [p.clone() for frozen in (encoder, llm.model) for p in frozen.parameters()]
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    first = loss_without_dropout(model, waves)
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(batch_of(model, waves)).loss
        loss.backward()
        assert loss.dtype == torch.float32
        assert all(
            p.grad is not None and p.grad.dtype == torch.float32 and p.grad.abs().sum() > 0
            for p in adapter.parameters()
        )
        optimizer.step()
    frozen = [p for part in (encoder, llm.model) for p in part.parameters()]
    assert all(p.grad is None and torch.equal(p, old) for p, old in zip(frozen, before, strict=True))
    assert loss_without_dropout(model, waves) < 0.9 * first


def loss_without_dropout(model: SlamAsr, waves: list[torch.Tensor]) -> float:
    model.eval()
    with torch.no_grad():
        loss = model(batch_of(model, waves)).loss.item()
    model.train()
    return loss


def test_what_does_not_fit_is_refused_by_its_key(model, waves, monkeypatch):
    short = batch_of(model, [waves[0], torch.zeros(1600), waves[2]])  # 0.1 s: 4 frames, the adapter stacks 5
    for batch in (short, batch_of(model, [waves[0], torch.zeros(100), waves[2]])):  # not even one frame
        for act in (model, model.prompt_embeds):
            with pytest.raises(UserError, match="utterance 'second' is too short for one speech embedding"):
                act(batch)
    batch = batch_of(model, waves)
    width = model.prompt_embeds(batch)[0].shape[1] + len(model.prompt.target_ids(TEXTS[2])) - 1
    monkeypatch.setattr(model.llm.config, "max_position_embeddings", width)
    model(batch)
    monkeypatch.setattr(model.llm.config, "max_position_embeddings", width - 1)
    with pytest.raises(UserError, match=f"utterance 'third' needs {width} LLM positions, this LLM has {width - 1}"):
        model(batch)
