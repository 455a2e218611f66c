"""Transcripts: which are refused, which are kept as they are, and the normalisers of `prep build` and `score`.

| the transcript has | rule |
|---|---|
| nothing | refused: no-text; kept with --allow-empty: nothing is said (silence, noise, music) |
| no letter and no digit | refused: no-words |
| a control character (NUL, escape ...) or half a surrogate pair | refused: bad-text |
| U+FFFD, or UTF-8 that was read as another encoding ("grÃ¶ÃŸe") | refused: bad-encoding |
| more characters than can be spoken in its time | refused: text-too-long (prepare.py) |
| byte-order marks, tabs, line ends, runs of spaces | single spaces |
| direction marks and other invisible format characters | kept, with a warning; some scripts need them |
| only CAPITALS, as most transcripts of the corpus | kept, with a warning |
| anything else | kept, character by character; nothing is ever cut off |"""

import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from data_prep.refusals import EMPTY_TEXT, Refused
from model.errors import require_known

APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\uff07\u00b4\u0060", "'"))
JOINERS = "\u200c\u200d"  # Persian and the scripts of India are spelt with them
SPOKEN_SIGNS = frozenset("%&@#\u00a7$\u20ac\u00a3\u00a5\u00b0+='.,:")  # signs that may be words, or parts of them
NOT_IN_A_WORD = re.compile(r"(?<!\w)'|'(?!\w)|(?<!\d)[.,:]|[.,:](?!\d)")
MISREAD_AS = ("cp1252", "cp1251")
NUMERIC_FORMS = ("<super>", "<sub>", "<fraction>")  # compatibility characters whose letters alone would lose meaning
SPELLINGS = Path(__file__).with_name("spellings.json")


def tidy_text(text: str | None, allow_empty: bool = False) -> str:
    """The transcript with single spaces and no byte-order mark. Refused by the rules above, and where it is None."""
    if text is None:
        raise Refused("no-transcript", "no transcript is given")
    text = " ".join(text.replace("\ufeff", " ").split())
    if not text:
        if allow_empty:
            return text
        raise Refused(EMPTY_TEXT, "the transcript is empty")
    control = [] if text.isprintable() else [c for c in text if unicodedata.category(c) in ("Cc", "Cs")]
    if control:
        raise Refused("bad-text", f"the transcript holds the control character U+{ord(control[0]):04X}")
    if "\ufffd" in text:
        around = text[max(0, text.index("\ufffd") - 15) :][:30]
        raise Refused("bad-encoding", f"the transcript holds U+FFFD, a character that was lost: {around!r}")
    for encoding in () if text.isascii() else MISREAD_AS:
        with suppress(UnicodeError):  # text of that encoding is hardly ever valid UTF-8 by chance
            meant = text.encode(encoding).decode("utf-8")
            raise Refused("bad-encoding", f"the transcript is UTF-8 read as another encoding: {meant[:40]!r} is meant")
    if not any(character.isalnum() for character in text):
        raise Refused("no-words", f"the transcript {text[:40]!r} has no letter and no digit")
    return text


def normalised(text: str, name: str) -> str:
    """A tidy transcript after a normaliser of `prep build`; unchanged for "none". Refused if nothing is left of it,
    unless it was empty."""
    if name == "none" or not text:
        return text
    spelt = normaliser(name)(text)
    if not spelt:
        raise Refused("no-words", f"nothing is left of the transcript {text[:40]!r} by --normalise {name}")
    return spelt


def printable(text: str) -> str:
    """Characters that would move a terminal's cursor or turn its direction as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def verbatim(text: str) -> str:
    """Every character counts; Unicode NFC, so that a letter has one encoding."""
    return unicodedata.normalize("NFC", text)


def plain(text: str) -> str:
    """Lower case without punctuation, but with apostrophes in words and marks in numbers (3.5, 10:30). Hyphens split
    words; signs that are spoken (% & @ $ + ...) are kept; curly apostrophes are straightened, ligatures and full-width
    forms become plain letters (but not ½ or ²), and invisible format characters are removed.

    No spoken content is lost, so it suits both training and scoring: case is not folded (ß stays ß)."""
    text = unicodedata.normalize("NFC", "".join(map(_letters, text)).lower())
    return NOT_IN_A_WORD.sub(" ", "".join(map(_in_words, text)))


@cache
def _letters(character: str) -> str:
    straight = _visible(character.translate(APOSTROPHES))
    if straight != character or unicodedata.decomposition(character).startswith(NUMERIC_FORMS):
        return straight
    return unicodedata.normalize("NFKC", character).translate(APOSTROPHES)


@cache
def _in_words(character: str) -> str:
    return " " if unicodedata.category(character)[0] in "PS" and character not in SPOKEN_SIGNS else character


@cache
def _whisper(kind: str) -> Callable[[str], str]:
    from transformers.models.whisper import english_normalizer as normalizers

    if kind == "basic":
        return normalizers.BasicTextNormalizer()
    spellings = json.loads(SPELLINGS.read_text("utf-8"))["spellings"] if kind == "paper" else {}
    english = normalizers.EnglishTextNormalizer(spellings)

    def spelt(text: str) -> str:
        with _numbers_of_any_length():
            return english(text)

    return spelt


@contextmanager
def _numbers_of_any_length() -> Iterator[None]:
    """Lifts Python's limit of 4,300 digits for printing integers: "million" 800 times is such a number."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)


NORMALISERS: dict[str, Callable[[str], str]] = {
    "verbatim": verbatim,
    "lowercase": str.lower,
    "plain": plain,
    # Whisper's evaluation (Radford et al. 2022, appendix C), as in transformers: for any language, no punctuation,
    # nothing in brackets; for English, numbers as digits, contractions and titles in full, British spellings kept.
    "whisper-basic": lambda text: _whisper("basic")(text),
    "whisper-english": lambda text: _whisper("english")(text),
    # For the SLAM-ASR paper's results: SLAM-LLM's examples/asr_librispeech/scripts/decode_*.sh apply whisper_tn.py,
    # Whisper's English normaliser with its list of British spellings, to references and hypotheses.
    "paper": lambda text: _whisper("paper")(text),
}
OLD_NAMES = {"spoken": "plain"}  # still in the index.json of older shards, and in scripts


def normaliser(name: str) -> Callable[[str], str]:
    """The function, with single spaces in its result. UserError for an unknown name; old names are accepted."""
    require_normaliser(name)
    function = NORMALISERS[OLD_NAMES.get(name, name)]
    return lambda text: " ".join(function(text).split())


def require_normaliser(name: str, *others: str) -> None:
    """UserError for a name that is neither in NORMALISERS nor in `others`."""
    if name not in OLD_NAMES:
        require_known("normaliser", name, (*others, *NORMALISERS))


def warn_about(texts: Iterable[str | None], normaliser: str) -> None:
    """Warns once of transcripts that language models handle badly; nothing is changed."""
    if normaliser != "none":
        return
    total = capitals = invisible = 0
    for text in filter(None, texts):
        total += 1
        capitals += text.isupper()
        invisible += not text.isprintable() and not all(map(_visible, text))
    if capitals > total / 2:
        problem = "are in CAPITALS, which language models spell badly; --lowercase writes them in lower case"
        print(f"warning: {capitals:,} of {total:,} transcripts {problem}", file=sys.stderr)
    if invisible:
        problem = "hold direction marks or other invisible characters, which are kept; --normalise plain removes them"
        print(f"warning: {invisible:,} of {total:,} transcripts {problem}", file=sys.stderr)


def _visible(character: str) -> str:
    return character if character in JOINERS or unicodedata.category(character) != "Cf" else ""
