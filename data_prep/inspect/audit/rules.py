"""What an audit judges: each judgement is a number an utterance, a limit with its reason, and the rule in words.

They are warnings. A clean corpus of read speech should raise few; what is raised is for a person to look at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from data_prep.figures import counted
from data_prep.inspect.audit import scores
from data_prep.inspect.audit.audio import SILENCE_BELOW_LOUD_DB, SILENCE_DBFS
from data_prep.inspect.audit.scores import Score, column
from data_prep.inspect.audit.text import names_of

SHARED_LETTERS = 15  # shorter transcripts ("yes", "stop the music") are the same by nature
LONG_WORD = 40  # characters: the longest in German and Finnish dictionaries are shorter; longer is glued together
FAST_CHARACTERS = 30  # a second: auctioneers reach 25
SLOW_CHARACTERS = 0.5  # a second: "yes" in six seconds
FAST_WORDS = 7  # a second: fast talk has 5
FAST_MIN_SECONDS = 0.5  # shorter cuts are judged by their rounding
UNUSUAL_RATE = 5  # robust deviations: a third or three times the usual
SHORT_SECONDS = 0.3  # less than one spoken word
LONG_SECONDS = 40  # corpora are cut at 30 to 35; attention costs the square
CLIPPED_SHARE = 0.001  # of samples: a few peaks are not heard, 16 in a second are
LOW_LEVEL_DBFS = -45  # loud frames: 7 bits of 16 are left
DC_SHARE = 0.02  # of full scale: -34 dBFS, as loud as soft speech
FLAT_RANGE_DB = 6  # vowels and pauses lie 20 dB apart; noise, hum and music beds do not
FLAT_MIN_SECONDS = 1  # one vowel alone is flat
SILENT_SHARE = 0.7  # of frames: a word of a second within two more
EDGE_SILENCE_SECONDS = 3
SPEAKER_SHARE = 0.3  # of the hours
QUIET = f"{SILENCE_BELOW_LOUD_DB:g} dB below the loud ones, or below {SILENCE_DBFS:g} dBFS"


@dataclass(frozen=True)
class Judgement:
    """A number an utterance held against a limit; NaN is never beyond it."""

    rule: str
    """In words, with the limit."""
    score: Score
    limit: float
    show: Callable[[float], str]
    """The score as the reader sees it."""
    below: bool = False
    """Whether scores under the limit are meant."""
    once: str = ""
    """Column: of utterances that share its value, one is shown as an example."""
    keeps_first: bool = False
    """Whether the first of such utterances is sound, and only the others are to be flagged."""


def _nothing(_: float) -> str:
    """The judgement's name says it all."""
    return ""


def _number_of(what: str) -> Callable[[float], str]:
    return lambda score: counted(round(score), what)


TEXT_JUDGEMENTS = {
    "duplicate-text": Judgement(
        f"the same words as another utterance, {SHARED_LETTERS} letters or more",
        scores.duplicates("text_hash", SHARED_LETTERS),
        1,
        "{:,.0f} share it".format,
        once="text_hash",
        keeps_first=True,
    ),
    "capitals": Judgement(
        f"every letter is a CAPITAL, {scores.CAPITALS_LETTERS} letters or more", scores.capitals, 0, _nothing
    ),
    "markup": Judgement("<tags>, [notes], {notes}, addresses, &entities;", column("markup"), 0, _number_of("mark")),
    "foreign-script": Judgement(
        f"letters of a script that {scores.RARE_SCRIPT:.0%} of its language's utterances have or fewer, or it alone",
        scores.foreign_scripts,
        0,
        lambda score: names_of(int(score)),
    ),
    "digits": Judgement("digits, which can be read in several ways", column("digits"), 0, _number_of("digit")),
    "control": Judgement(
        "control, direction or zero-width characters, private or unassigned ones",
        column("control"),
        0,
        _number_of("character"),
    ),
    "broken-encoding": Judgement("U+FFFD, or UTF-8 that was read as Latin-1", column("broken"), 0, _number_of("place")),
    "long-word": Judgement(
        f"a word of more than {LONG_WORD} characters", column("longest_word"), LONG_WORD, _number_of("character")
    ),
    "fast-characters": Judgement(
        f"more than {FAST_CHARACTERS} characters a second, in {FAST_MIN_SECONDS} s or more",
        scores.per_second("characters", FAST_MIN_SECONDS),
        FAST_CHARACTERS,
        "{:.1f} a second".format,
    ),
    "slow-characters": Judgement(
        f"less than {SLOW_CHARACTERS} characters a second",
        scores.per_second("characters"),
        SLOW_CHARACTERS,
        "{:.2f} a second".format,
        below=True,
    ),
    "fast-words": Judgement(
        f"more than {FAST_WORDS} words a second, in {FAST_MIN_SECONDS} s or more",
        scores.per_second("words", FAST_MIN_SECONDS),
        FAST_WORDS,
        "{:.1f} a second".format,
    ),
    "unusual-rate": Judgement(
        f"characters a second {UNUSUAL_RATE} robust deviations (of the logarithm) from the median of its language, "
        f"where that has {scores.UNUSUAL_RATE_MIN_UTTERANCES} utterances",
        scores.rate_deviation,
        UNUSUAL_RATE,
        "{:.1f} deviations".format,
    ),
}
AUDIO_JUDGEMENTS = {
    "duplicate-audio": Judgement(
        "the same samples as another utterance, all of them",
        scores.duplicates("audio_hash"),
        1,
        "{:,.0f} are the same".format,
        once="audio_hash",
        keeps_first=True,
    ),
    "contradiction": Judgement(
        "the same samples as another utterance, with other words",
        scores.contradictions,
        1,
        _number_of("transcript"),
        once="audio_hash",
    ),
    "short": Judgement(
        f"shorter than {SHORT_SECONDS} s", column("seconds"), SHORT_SECONDS, "{:.2f} s".format, below=True
    ),
    "long": Judgement(f"longer than {LONG_SECONDS} s", column("seconds"), LONG_SECONDS, "{:,.1f} s".format),
    "clipping": Judgement(
        f"more than {CLIPPED_SHARE:.1%} of the samples at full scale", column("clipped"), CLIPPED_SHARE, "{:.2%}".format
    ),
    "low-level": Judgement(
        f"its loud frames (95 %) below {LOW_LEVEL_DBFS} dBFS",
        column("level"),
        LOW_LEVEL_DBFS,
        "{:.1f} dBFS".format,
        below=True,
    ),
    "dc-offset": Judgement(f"a mean beyond {DC_SHARE:.0%} of full scale", column("dc"), DC_SHARE, "{:.1%}".format),
    "flat-level": Judgement(
        f"loud (95 %) and quiet (5 %) frames less than {FLAT_RANGE_DB} dB apart, in {FLAT_MIN_SECONDS} s or more: "
        "noise or hum rather than speech",
        column("range", FLAT_MIN_SECONDS),
        FLAT_RANGE_DB,
        "{:.1f} dB".format,
        below=True,
    ),
    "silence": Judgement(
        f"more than {SILENT_SHARE:.0%} of the frames {QUIET}", column("silence"), SILENT_SHARE, "{:.0%}".format
    ),
    "leading-silence": Judgement(
        f"begins with more than {EDGE_SILENCE_SECONDS} s of frames {QUIET}",
        column("leading"),
        EDGE_SILENCE_SECONDS,
        "{:.1f} s".format,
    ),
    "trailing-silence": Judgement(
        f"ends with more than {EDGE_SILENCE_SECONDS} s of frames {QUIET}",
        column("trailing"),
        EDGE_SILENCE_SECONDS,
        "{:.1f} s".format,
    ),
}
SET_JUDGEMENTS = {
    "no-language": Judgement(
        "no language, where others of the set have one", scores.missing("language", "languages"), 0, _nothing
    ),
    "no-speaker": Judgement(
        "no speaker, where others of the set have one", scores.missing("speaker", "speakers"), 0, _nothing
    ),
    "speaker-imbalance": Judgement(
        f"one of {scores.SPEAKER_MIN_SPEAKERS} or more speakers has more than {SPEAKER_SHARE:.0%} of the hours",
        scores.speaker_share,
        SPEAKER_SHARE,
        "{:.0%} of the hours".format,
        once="speaker",
    ),
}
JUDGEMENTS = TEXT_JUDGEMENTS | AUDIO_JUDGEMENTS | SET_JUDGEMENTS
