"""Texts of synthetic speech: sentences from the templates of language.json, and strings of random words.

The language is small on purpose (about 480 words), so that a model trained in minutes can learn it, and wide enough
that a sentence it has not seen is the normal case. Text is lowercase a-z, apostrophe and single spaces.

The hash of a text decides its split: one in 16 is held out. The same random generator gives the same texts anywhere."""

import hashlib
import json
import random
import re
from pathlib import Path

HELD_OUT_SHARE = 16  # one text in so many is held out
ALPHABET = "abcdefghijklmnopqrstuvwxyz' "

_LANGUAGE = json.loads(Path(__file__).with_name("language.json").read_text(encoding="utf-8"))
TEMPLATES: list[str] = _LANGUAGE["templates"]
_LISTS = {slot: tuple(words.split()) for slot, words in _LANGUAGE["words"].items()}
_IRREGULAR = {"mouse": "mice", "fish": "fish", "sheep": "sheep", "wolf": "wolves", "box": "boxes", "fox": "foxes"}
VOCABULARY = tuple(sorted({*sum(_LISTS.values(), ()), *re.sub(r"\{\w+\}", "", " ".join(TEMPLATES)).split()}))
"""Every word of the lists and templates, without plurals."""


def sentence(rng: random.Random) -> str:
    return re.sub(r"\{(\w+)\}", lambda slot: _fill(slot[1], rng), rng.choice(TEMPLATES))


def word_string(rng: random.Random, shortest: int = 3, longest: int = 10) -> str:
    """Words in random order, which cannot be guessed from each other."""
    return " ".join(rng.choice(VOCABULARY) for _ in range(rng.randint(shortest, longest)))


def is_held_out(text: str) -> bool:
    """Whether no model may train on this text: decided by the text alone (its SHA-256)."""
    return hashlib.sha256(text.encode("ascii")).digest()[0] % HELD_OUT_SHARE == 0


def draw(rng: random.Random, held_out: bool, random_share: float = 0.0) -> str:
    """A text of one side of the split; `random_share` of them are word strings instead of sentences."""
    while True:
        text = word_string(rng) if rng.random() < random_share else sentence(rng)
        if is_held_out(text) == held_out:
            return text


def _fill(slot: str, rng: random.Random) -> str:
    if slot == "digits":
        return " ".join(rng.choice(_LISTS["digit"]) for _ in range(rng.randint(3, 7)))
    if slot == "number":
        kind = rng.random()
        if kind < 0.7:
            return rng.choice(_LISTS["hour" if kind < 0.4 else "tens"])
        return f"{rng.choice(_LISTS['tens'])} {rng.choice(_LISTS['unit'])}"
    if slot.endswith("_many"):
        word = rng.choice(_LISTS[slot.removesuffix("_many")])
        return _IRREGULAR.get(word) or (word + "es" if word.endswith("ch") else word + "s")
    return rng.choice(_LISTS[slot])
