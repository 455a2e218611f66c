"""Two training loops to compare with, written again from what their sources do, over the same models and adapter.

slam_llm    SLAM-LLM (X-LANCE), examples/asr_librispeech: batches of random utterances; the waveforms padded to the
            longest and encoded together with an attention mask; the adapter over the padded frames; the LLM's input
            padded to the longest; logits at every position, and an argmax over all of them for the accuracy.
one_by_one  the plain script that this project grew from: utterances encoded one after the other and padded after it;
            logits at every position.

B utterances, N samples, T frames, S positions, H LLM width. What is not compared is left out of both: reading, mixed
precision, logging. Both give the sum of the answers' negative log likelihoods, as SlamAsr.forward does.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench.toys import Spoken
from model.encoders.waveform import normalise
from model.slam_asr import SlamAsr

IGNORED = -100


def slam_llm(model: SlamAsr, spoken: Sequence[Spoken], label_logits: bool = False) -> Tensor:
    """The padded batch: from waves or, where every utterance has them, from cached frames.

    `label_logits` computes the logits at the answers alone, and no argmax: then only the batching is compared.
    """
    frames, counts = _frames(model, spoken)
    speech = _adapt(model, frames)  # [B, T // k, H]
    embeds, mask, labels = _compose(model, speech, model.adapter.out_len(counts), spoken)
    if label_logits:
        return _loss_at_labels(model, embeds, mask, labels)
    logits = model.llm(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits
    (logits.argmax(-1)[:, :-1] == labels[:, 1:]).sum()  # the accuracy that it reports
    return _loss(logits, labels)


def one_by_one(model: SlamAsr, spoken: Sequence[Spoken]) -> Tensor:
    """Utterances encoded each at its own length, then one padded batch for the LLM."""
    assert model.encoder is not None
    with torch.no_grad():
        encoded = [
            model.encoder.model(_input(model, normalise(one.wave.to(model.device)))[None]).last_hidden_state[0]
            for one in spoken
        ]
    counts = torch.tensor([len(frames) for frames in encoded])
    speech = _adapt(model, pad_sequence(encoded, batch_first=True))
    embeds, mask, labels = _compose(model, speech, model.adapter.out_len(counts), spoken)
    logits = model.llm(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits
    return _loss(logits, labels)


def _input(model: SlamAsr, wave: Tensor) -> Tensor:
    assert model.encoder is not None
    return wave.to(model.encoder.model.dtype)


def _frames(model: SlamAsr, spoken: Sequence[Spoken]) -> tuple[Tensor, Tensor]:
    """[B, T, D] padded, and the B numbers of frames."""
    cached = [one.frames for one in spoken if one.frames is not None]
    if cached:
        return pad_sequence(cached, batch_first=True).to(model.device), torch.tensor([len(part) for part in cached])
    assert model.encoder is not None
    waves = [normalise(one.wave.to(model.device)) for one in spoken]
    samples = torch.tensor([len(wave) for wave in waves])
    padded = _input(model, pad_sequence(waves, batch_first=True))
    mask = (torch.arange(padded.shape[1])[None] < samples[:, None]).to(torch.int64)
    with torch.no_grad():
        frames = model.encoder.model(padded, attention_mask=mask.to(padded.device)).last_hidden_state
    return frames, model.encoder.out_len(samples)


def _adapt(model: SlamAsr, frames: Tensor) -> Tensor:  # [B, T, D] -> [B, T // k, H]
    adapter: Any = model.adapter
    whole = frames[:, : frames.shape[1] - frames.shape[1] % adapter.spec.stack]
    stacked = whole.reshape(len(frames), -1, adapter.spec.stack * adapter.spec.encoder_dim)
    return adapter.linear2(torch.relu(adapter.linear1(stacked.to(adapter.linear1.weight.dtype))))


def _compose(model: SlamAsr, speech: Tensor, counts: Tensor, spoken: Sequence[Spoken]) -> tuple[Tensor, Tensor, Tensor]:
    """The LLM's input [B, S, H], its mask and labels [B, S]; padded on the right."""
    words = model.llm.get_input_embeddings()
    prefix, suffix = model.prompt.prefix_ids, model.prompt.suffix_ids
    rows, labels = [], []
    for one, row, count in zip(spoken, speech, counts.tolist(), strict=True):
        before = words(torch.tensor(prefix, device=speech.device))
        after = words(torch.tensor([*suffix, *one.targets], device=speech.device))
        rows.append(torch.cat([before, row[:count].to(before.dtype), after]))
        labels.append(torch.tensor([IGNORED] * (len(rows[-1]) - len(one.targets)) + one.targets, device=speech.device))
    embeds = pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(embeds.shape[1])[None] < lengths[:, None]).to(torch.int64).to(speech.device)
    return embeds, mask, pad_sequence(labels, batch_first=True, padding_value=IGNORED)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    flat = logits[:, :-1].flatten(0, 1).float()
    return F.cross_entropy(flat, labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")


def _loss_at_labels(model: SlamAsr, embeds: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    hidden = model.llm.base_model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).last_hidden_state
    asked = labels[:, 1:] != IGNORED
    logits = model.llm.get_output_embeddings()(hidden[:, :-1][asked])
    return F.cross_entropy(logits.float(), labels[:, 1:][asked], reduction="sum")
