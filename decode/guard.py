"""Answers that are no transcripts, known from their text alone: loops, echoes of the prompt, refusals.

A *loop* is a pattern of words that follows itself without a break, 4 times or more and over 16 words or more: speech
does not. "no no no", "ha ha ha ha" and "zero zero zero zero" are none, and of the 2,608 transcripts of LibriSpeech
dev-clean-2 and train-clean-5 none has more than 2 in a row. Punctuation may differ between the rounds, and may loop
itself; characters of scripts written without spaces count as words; inside one word the pattern is of characters, over
32 or more ("hahaha ...").

An *echo* has four words in a row of the prompt's own instruction. A *refusal* is an LLM that speaks of itself, or of
audio that it cannot hear; that somebody is sorry is no sign of one."""

import re
from collections.abc import Sequence

REPEATS, WORDS, CHARACTERS = 4, 16, 32
LONGEST_PATTERN = 40  # words
ECHOED_WORDS = 4
REFUSAL_CHARACTERS = 400  # of an answer's beginning that are looked at

_ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
"""Thai, Lao, Burmese, Khmer, kana and Han: written without spaces between words."""
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+(?:['\u2019][^\W{_ALONE}]+)*|[^\w\s]")
_PLACEHOLDER = re.compile(r"<[^<>\s]*>")  # special tokens of a chat template, as written in it

_SORRY = r"(?:i'm sorry|i am sorry|sorry|i apologi[sz]e|unfortunately)(?: for (?:any|the) \w+)?,? (?:but )?"
_UNABLE = (
    r"i ?(?:can ?not|can't|am (?:not able|unable) to|'m (?:not able|unable) to|do(?: not|n't) have the ability to)"
)
_MACHINE = r"an? (?:[\w-]+ ){0,3}?(?:language model|chatbot|ai assistant|text-based ai)\b"
_REFUSAL = re.compile(
    rf"{_SORRY}{_UNABLE} assist (?:you )?with"
    rf"|(?:{_SORRY})?{_UNABLE} (?:transcrib\w+|(?:listen to|process) (?:the |this )?(?:audio|speech|recordings?))\b"
    rf"|(?:{_SORRY})?(?:as an ai,|as {_MACHINE}|i(?:'m| am) (?:just |only )?{_MACHINE})"
    r"|(?:please|could you(?: please)?) provide (?:\w+ )*?(?:audio|speech|recording)\b.*\btranscrib"
)
"""At the beginning of an answer, casefolded: of LLMs whose adapter tells them nothing yet."""


def is_loop(text: str) -> bool:
    """Whether a pattern repeats in the text as it does not in speech."""
    return loop_start(text) is not None


def loop_start(text: str) -> int | None:
    """Characters of the text up to the end of a loop's first round; None if there is no loop."""
    everything = list(_WORD.finditer(text))
    words = [word for word in everything if word.group()[0].isalnum()]
    for found in (words, everything):
        last = _first_repetition([word.group().casefold() for word in found], WORDS, LONGEST_PATTERN)
        if last is not None:
            return found[last].end()
    for word in words:
        if len(word.group()) >= CHARACTERS:
            found = _first_repetition(word.group().casefold(), CHARACTERS, CHARACTERS)
            if found is not None:
                return word.start() + found + 1
    return None


def has_words(text: str) -> bool:
    """False for a text of white space, or of nothing."""
    return _WORD.search(text) is not None


def is_echo(text: str, template: str) -> bool:
    """Whether the text has ECHOED_WORDS words in a row that are so in the prompt's template."""
    said = _letters_only(text)
    return any(
        words[start : start + ECHOED_WORDS] == said[place : place + ECHOED_WORDS]
        for words in map(_letters_only, _PLACEHOLDER.split(template))
        for start in range(len(words) - ECHOED_WORDS + 1)
        for place in range(len(said) - ECHOED_WORDS + 1)
    )


def is_refusal(text: str) -> bool:
    """Whether the text begins with an LLM's words about itself, or about audio that it does not have."""
    return _REFUSAL.match(text.strip()[:REFUSAL_CHARACTERS].casefold().replace("\u2019", "'")) is not None


def fault_of(text: str, template: str) -> str:
    """ "loop", "refusal", "echo", or "" for a text that may be a transcript."""
    if is_loop(text):
        return "loop"
    return "refusal" if is_refusal(text) else "echo" if is_echo(text, template) else ""


def _first_repetition(items: Sequence[str], least: int, longest: int) -> int | None:
    """The last item of the first round of a pattern of at most `longest` items that is there REPEATS times or more in a
    row, over `least` items or more; None if there is none. The shortest pattern that is found."""
    for period in range(1, min(longest, len(items) // REPEATS) + 1):
        wanted, run = max(REPEATS * period, least) - period, 0
        for place in range(period, len(items)):
            run = run + 1 if items[place] == items[place - period] else 0
            if run >= wanted:
                return place - run  # the last item of the first round
    return None


def _letters_only(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.casefold()) if word[0].isalnum()]
