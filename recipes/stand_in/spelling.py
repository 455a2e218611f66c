"""Soft spelling: texts laid out the way speech embeddings will be, so that an LLM can learn to read them.

Shapes: B texts of a batch, S places in the sequence, D width of the LLM.
"""

import random

import torch
from transformers import PreTrainedTokenizerFast

from data_prep.synth import sentences

PAD, BOS, EOS = 0, 1, 2
BEFORE_SPEECH, AFTER_SPEECH = "USER: ", " Transcribe speech to text. ASSISTANT:"
FRAME_MS = 100.0  # five encoder frames of 20 ms
SILENCE = "_"
MOST_LETTERS = 4  # averaged into one frame; more than these are dropped
IGNORED = -100  # label of a place that is not learned from

Example = tuple[list[list[int]], list[int], range]
"""(frames, answer ids, which frames are soft); a frame is the token ids whose embeddings are averaged."""


class Spelling:
    """Texts as rows of frames: a frame is up to `MOST_LETTERS` token ids to be averaged; a token is a frame of one."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        def ids(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False)["input_ids"]

        self.ids = ids
        self.before = [BOS, *ids(BEFORE_SPEECH)]
        self.after = ids(AFTER_SPEECH)
        self.letter = {letter: ids(letter)[0] for letter in sentences.ALPHABET + SILENCE}

    def spell(self, text: str, rng: random.Random) -> list[list[int]]:
        """Soft spelling of `text`: one list of letter ids per 100 ms frame, silence where no letter falls."""
        clock_ms, wrong, pause = rng.uniform(45, 110), rng.uniform(0, 0.25), rng.uniform(0, 0.15)
        time_ms = rng.uniform(0, 350)
        frames: dict[int, list[int]] = {}
        for letter in text:
            kind = rng.random() / wrong if wrong else 1.0
            if kind < 0.5:  # another letter
                letter = rng.choice(sentences.ALPHABET)
            if not 0.5 <= kind < 0.8:  # else none at all
                frames.setdefault(int(time_ms / FRAME_MS), []).append(self.letter[letter])
            time_ms += clock_ms * rng.uniform(0.5, 1.5)
            if letter == " " and rng.random() < pause:
                time_ms += rng.uniform(50, 300)
        length = int((time_ms + rng.uniform(0, 300)) / FRAME_MS) + 1
        return [frames.get(i, [self.letter[SILENCE]])[:MOST_LETTERS] for i in range(length)]

    def example(self, text: str, rng: random.Random) -> Example:
        """`text` before its answer, which is `text`: 75 % soft spelling, 15 % clean copy, 10 % plain text."""
        answer = [*self.ids(" " + text), EOS]
        kind = rng.random()
        if kind < 0.10:
            return [[BOS]], answer, range(0)
        if kind < 0.25:
            speech = [[i] for i in self.ids(rng.choice(("", " ")) + text)]
            soft = range(0)
        else:
            speech = self.spell(text, rng)
            soft = range(len(self.before), len(self.before) + len(speech))
        return [[i] for i in self.before] + speech + [[i] for i in self.after], answer, soft


def collate(
    table: torch.Tensor, examples: list[Example], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [B, S, D] and labels [B, S] (shifted: labels[s] is what follows s), padded right.

    Soft frames get noise of up to 0.6 of the table's rms and are blurred into their neighbours by up to a quarter each.
    """
    longest = max(len(frames) + len(answer) for frames, answer, _ in examples)
    ids = torch.zeros(len(examples), longest, MOST_LETTERS, dtype=torch.long)
    weights = torch.zeros(len(examples), longest, MOST_LETTERS)
    soft = torch.zeros(len(examples), longest, 1)
    labels = torch.full((len(examples), longest), IGNORED)
    for row, (frames, answer, soft_range) in enumerate(examples):
        for column, letters in enumerate([*frames, *([i] for i in answer)]):
            ids[row, column, : len(letters)] = torch.tensor(letters)
            weights[row, column, : len(letters)] = 1 / len(letters)
        labels[row, len(frames) - 1 : len(frames) - 1 + len(answer)] = torch.tensor(answer)
        soft[row, soft_range.start : soft_range.stop] = 1.0
    exact = (table[ids] * weights[..., None]).sum(2)  # [B, S, D]
    blur = soft * 0.25 * torch.rand(len(examples), 1, 1, generator=generator)
    blurred = (1 - 2 * blur) * exact + blur * (exact.roll(1, 1) + exact.roll(-1, 1))
    level = 0.6 * torch.rand(len(examples), 1, 1, generator=generator) * table.detach().square().mean().sqrt()
    return blurred + soft * level * torch.randn(exact.shape, generator=generator), labels
