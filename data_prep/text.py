"""Transcripts: which are refused, which are kept as they are, and the spellings of --normalise.

| the transcript has | rule |
|---|---|
| nothing, or no letter and no digit | refused: no-text, no-words |
| a control character (NUL, escape ...) or half a surrogate pair | refused: bad-text |
| U+FFFD, or UTF-8 that was read as another encoding ("grÃ¶ÃŸe") | refused: bad-encoding |
| more characters than can be spoken in its time | refused: text-too-long (prepare.py) |
| byte-order marks, tabs, line ends, runs of spaces | single spaces |
| direction marks and other invisible format characters | kept, with a warning; some scripts need them |
| only CAPITALS, as most transcripts of the corpus | kept, with a warning |
| anything else | kept, character by character; nothing is ever cut off |"""

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache

from data_prep.refusals import Refused
from model.errors import require_known

APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\uff07\u00b4\u0060", "'"))
JOINERS = "\u200c\u200d"  # Persian and the scripts of India are spelt with them
SPOKEN_SIGNS = frozenset("%&@#\u00a7$\u20ac\u00a3\u00a5\u00b0+='.,:")  # signs that may be words, or parts of them
NOT_IN_A_WORD = re.compile(r"(?<!\w)'|'(?!\w)|(?<!\d)[.,:]|[.,:](?!\d)")
MISREAD_AS = ("cp1252", "cp1251")


def tidy_text(text: str) -> str:
    """The transcript with single spaces and no byte-order mark. Refused by the rules above."""
    text = " ".join(text.replace("\ufeff", " ").split())
    if not text:
        raise Refused("no-text", "the transcript is empty")
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
    """A tidy transcript in the spelling that NORMALISERS has under `name`. Refused where nothing is left of it."""
    if name == "none":
        return text
    spelt = " ".join(NORMALISERS[name](text).split())
    if not spelt:
        raise Refused("no-words", f"nothing is left of the transcript {text[:40]!r} by --normalise {name}")
    return spelt


def printable(text: str) -> str:
    """Characters that would move a terminal's cursor or turn its direction as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def spoken(text: str) -> str:
    """Lower case without punctuation, but with apostrophes in words, and marks in numbers (3.5, 10:30). Curly
    apostrophes are straightened, hyphens part words, signs that are spoken (% & @ $ + ...) stay, invisible format
    characters vanish."""
    text = unicodedata.normalize("NFC", text.translate(APOSTROPHES)).lower()
    text = "".join(" " if unicodedata.category(c)[0] in "PS" and c not in SPOKEN_SIGNS else _visible(c) for c in text)
    return " ".join(NOT_IN_A_WORD.sub(" ", text).split())


@cache
def _whisper(kind: str) -> Callable[[str], str]:
    from transformers.models.whisper import english_normalizer as normalizers

    return normalizers.EnglishTextNormalizer({}) if kind == "english" else normalizers.BasicTextNormalizer()


NORMALISERS: dict[str, Callable[[str], str]] = {
    "none": str,
    "lowercase": str.lower,
    "spoken": spoken,
    # Whisper's evaluation: for any language, no marks, nothing in brackets; for English, numbers as digits, but without
    # its list of British spellings.
    "whisper-basic": lambda text: _whisper("basic")(text),
    "whisper-english": lambda text: _whisper("english")(text),
}


def require_normaliser(name: str) -> None:
    """UserError for a name that NORMALISERS does not have."""
    require_known("normaliser", name, NORMALISERS)


def warn_about(texts: Iterable[str], normaliser: str) -> None:
    """Warns once of transcripts that language models handle badly; nothing is changed."""
    if normaliser != "none":
        return
    total = capitals = invisible = 0
    for text in texts:
        total += 1
        capitals += text.isupper()
        invisible += not text.isprintable() and not all(map(_visible, text))
    if capitals > total / 2:
        problem = "are in CAPITALS, which language models spell badly; --lowercase writes them in lower case"
        print(f"warning: {capitals:,} of {total:,} transcripts {problem}", file=sys.stderr)
    if invisible:
        problem = "hold direction marks or other invisible characters, which are kept; --normalise spoken removes them"
        print(f"warning: {invisible:,} of {total:,} transcripts {problem}", file=sys.stderr)


def _visible(character: str) -> str:
    return character if character in JOINERS or unicodedata.category(character) != "Cf" else ""
