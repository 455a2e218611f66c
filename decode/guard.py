"""Recognises answers that are not transcripts from their text alone: loops, echoes of the prompt, refusals.

A *loop* is a pattern of words that is repeated without a break 4 or more times, over 16 or more words. People do not
speak so: "no no no", "ha ha ha ha" and "zero zero zero zero" are not loops, and none of the 2,608 transcripts of
LibriSpeech's dev-clean-2 and train-clean-5 repeats a pattern more than 2 times in a row. Punctuation may differ between
the rounds, and may loop itself; characters of scripts written without spaces count as words; within one word the
pattern is of characters, over 32 or more ("hahaha ...").

An *echo* has four consecutive words of the prompt's instruction. A *refusal* begins with the LLM's statement that it is
a language model, or that it cannot process audio; an apology alone is not a refusal."""

import re
from collections.abc import Sequence

REPEATS, WORDS, CHARACTERS = 4, 16, 32
LONGEST_PATTERN = 40  # words
ECHOED_WORDS = 4
REFUSAL_CHARACTERS = 400  # of an answer's beginning that are looked at

_ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
"""Thai, Lao, Burmese, Khmer, kana and Han: written without spaces between words."""
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+(?:['\u2019][^\W{_ALONE}]+)*|[^\w\s]")
_PLACEHOLDER = re.compile(r"<[^<>\s]*>")  # special tokens in a chat template

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
"""The beginning of an answer, casefolded; typical of an LLM with an untrained adapter."""


def is_loop(text: str) -> bool:
    """Whether a pattern is repeated in the text more often than in speech."""
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
    """False for an empty text or one of white space only."""
    return _WORD.search(text) is not None


def is_echo(text: str, template: str) -> bool:
    """Whether the text has ECHOED_WORDS consecutive words of the prompt's template."""
    answer = _letters_only(text)
    return any(
        words[start : start + ECHOED_WORDS] == answer[place : place + ECHOED_WORDS]
        for words in map(_letters_only, _PLACEHOLDER.split(template))
        for start in range(len(words) - ECHOED_WORDS + 1)
        for place in range(len(answer) - ECHOED_WORDS + 1)
    )


def is_refusal(text: str) -> bool:
    """Whether the text begins as an LLM's refusal does."""
    return _REFUSAL.match(text.strip()[:REFUSAL_CHARACTERS].casefold().replace("\u2019", "'")) is not None


def fault_of(text: str, template: str) -> str:
    """The kind of fault, "loop", "refusal" or "echo"; "" for a text that may be a transcript."""
    if is_loop(text):
        return "loop"
    return "refusal" if is_refusal(text) else "echo" if is_echo(text, template) else ""


def _first_repetition(items: Sequence[str], least: int, longest: int) -> int | None:
    """The place of the last item of the first round of a pattern of at most `longest` items that is repeated REPEATS or
    more times in a row, over `least` or more items; None if there is none. The shortest such pattern counts."""
    for period in range(1, min(longest, len(items) // REPEATS) + 1):
        wanted, run = max(REPEATS * period, least) - period, 0
        for place in range(period, len(items)):
            run = run + 1 if items[place] == items[place - period] else 0
            if run >= wanted:
                return place - run  # the last item of the first round
    return None


def _letters_only(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.casefold()) if word[0].isalnum()]
