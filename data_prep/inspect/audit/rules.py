"""The rules of the audit: each is a score an utterance, a limit with its reason, and the rule in words.

They give warnings. A clean corpus of read speech should raise few; what is raised is for a person to look at. A score
is float [N] of the N rows measured, NaN for "not judged"."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data_prep.inspect.audit.measures import SCRIPTS, SILENCE_BELOW_LOUD_DB, SILENCE_DBFS, Measured, names_of
from model.errors import counted

Score = Callable[[Measured], np.ndarray]
SHARED_LETTERS = 15  # shorter transcripts ("yes", "stop the music") are the same by nature
CAPITALS_LETTERS = 6  # fewer may be initials
RARE_SCRIPT = 0.05  # share of a language's utterances; an English word in a tenth of Chinese speech is usual
FAST_SECONDS = 0.5  # shorter cuts are judged by their rounding
UNUSUAL_RATE_MIN_DEVIATION = 0.15  # of a logarithm: reading aloud varies at least so much
UNUSUAL_RATE_MIN_UTTERANCES = 50  # of a language, to know what is usual
FLAT_SECONDS = 1  # one vowel alone is flat
SPEAKER_MIN_SPEAKERS = 10  # in smaller sets one speaker may have most of the hours
QUIET = f"{SILENCE_BELOW_LOUD_DB:g} dB below the loud ones, or below {SILENCE_DBFS:g} dBFS"


@dataclass(frozen=True)
class Rule:
    """A score held against a limit; NaN is never beyond it."""

    name: str
    text: str  # in words; {} stands for the limit
    score: Score
    limit: float = 0
    show: Callable[[float], str] = lambda score: ""
    """The score as the reader sees it; nothing where the rule's name is enough."""
    once: str = ""  # column: of utterances that share its value, one is shown as an example
    keeps_first: bool = False  # whether the first of such utterances is sound, and only the others are to be flagged
    below: bool = False  # whether scores under the limit are meant


def duplicates(field: str, least_letters: int = 0) -> Score:
    """How many utterances have the same value; 1 of a value of its own."""

    def score(measured: Measured) -> np.ndarray:
        values = measured.rows[field]
        _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
        judged = (measured.rows["letters"] >= least_letters) & (values != 0)
        return np.where(judged, counts[places].astype(float), np.nan)

    return score


def contradictions(measured: Measured) -> np.ndarray:
    """How many different transcripts the same audio has."""
    audio = measured.rows["audio_hash"]
    pairs = np.unique(measured.rows[["audio_hash", "text_hash"]])
    values, counts = np.unique(pairs["audio_hash"], return_counts=True)
    return np.where(audio != 0, counts[np.searchsorted(values, audio)].astype(float), np.nan)


def foreign_scripts(measured: Measured) -> np.ndarray:
    """Bits of the scripts that few utterances of the same language have; 0 for none."""
    foreign = np.zeros(len(measured.rows), np.uint64)
    for mine in _by_language(measured):
        scripts = measured.rows["scripts"][mine]
        shares = {bit: np.mean(scripts >> np.uint64(bit) & np.uint64(1)) for bit in range(len(SCRIPTS))}
        few = max(RARE_SCRIPT, 1 / len(mine))  # in a small set one utterance is rare, whatever its share
        main = max(shares.values())
        rare = sum(1 << bit for bit, share in shares.items() if 0 < share < main and share <= few)
        foreign[mine] = scripts & np.uint64(rare)
    return foreign.astype(float)


def rate_deviation(measured: Measured) -> np.ndarray:
    """|deviation| of log(characters a second) from its language's median, in robust standard deviations."""
    score = np.full(len(measured.rows), np.nan)
    for mine in _by_language(measured):
        mine = mine[measured.rows["characters"][mine] > 0]
        if len(mine) >= UNUSUAL_RATE_MIN_UTTERANCES:
            rows = measured.rows[mine]
            logs = np.log(rows["characters"] / np.maximum(rows["seconds"], 1e-3))
            off = np.abs(logs - np.median(logs))
            score[mine] = off / max(1.4826 * float(np.median(off)), UNUSUAL_RATE_MIN_DEVIATION)
    return score


def speaker_share(measured: Measured) -> np.ndarray:
    """Share of the hours that the utterance's speaker has."""
    rows, nameless = measured.rows, _nameless(measured.speakers)
    if np.count_nonzero(~nameless) < SPEAKER_MIN_SPEAKERS:
        return np.full(len(rows), np.nan)
    shares = np.bincount(rows["speaker"], rows["seconds"], len(nameless)) / rows["seconds"].sum()
    return np.where(nameless[rows["speaker"]], np.nan, shares[rows["speaker"]])


def missing(field: str) -> Score:
    """1 where a language or speaker is empty that others have."""

    def score(measured: Measured) -> np.ndarray:
        nameless = _nameless(getattr(measured, f"{field}s"))
        return nameless[measured.rows[field]].astype(float) * (not nameless.all())

    return score


def spoken(score: Score) -> Score:
    """Judges only utterances that have a transcript: where nothing is said, nothing need be heard, nor anyone named."""
    return lambda m: np.where(m.rows["characters"] > 0, score(m), np.nan)


def column(field: str, least_seconds: float = 0.0) -> Score:
    return lambda m: np.where(m.rows["seconds"] >= least_seconds, m.rows[field].astype(float), np.nan)


def per_second(field: str, least_seconds: float = 0.0) -> Score:
    return lambda m: column(field, least_seconds)(m) / np.maximum(m.rows["seconds"], 1e-3)


def capitals(measured: Measured) -> np.ndarray:
    return (measured.rows["capitals"] & (measured.rows["letters"] >= CAPITALS_LETTERS)).astype(float)


def _by_language(measured: Measured) -> list[np.ndarray]:
    languages = measured.rows["language"]
    return [np.flatnonzero(languages == number) for number in np.unique(languages)]


def _nameless(names: list[str]) -> np.ndarray:
    return np.array([not name for name in names] or [True], bool)


def _number_of(what: str) -> Callable[[float], str]:
    return lambda score: counted(round(score), what)


_SAME_WORDS = f"the same words as another utterance, {SHARED_LETTERS} letters or more"
_SCRIPT = f"letters of a script that {RARE_SCRIPT:.0%} of its language's utterances have or fewer, or it alone"
_CONTROL = "control, direction or zero-width characters, private or unassigned ones"
_FAST, _SLOW = f"a second, in {FAST_SECONDS} s or more", "less than {} characters a second"
_UNUSUAL = (
    "characters a second {} robust deviations (of the logarithm) from the median of its language, "
    f"where that has {UNUSUAL_RATE_MIN_UTTERANCES} utterances"
)
_FLAT = f"loud (95 %) and quiet (5 %) frames less than {{}} dB apart, in {FLAT_SECONDS} s or more: noise or hum"
_SAME_SAMPLES = "the same samples as another utterance, all of them"
_OTHER_WORDS = "the same samples as another utterance, with other words"
_IMBALANCE = f"one of {SPEAKER_MIN_SPEAKERS} or more speakers has more than {{:.0%}} of the hours"
_EDGE = f"with more than {{}} s of frames {QUIET}"
_FAST_CHARACTERS, _FAST_WORDS = per_second("characters", FAST_SECONDS), per_second("words", FAST_SECONDS)
_SECONDS, _LEVEL = "{:.1f} s".format, "{:.1f} dBFS".format
_SAME_TEXT, _SAME_AUDIO = duplicates("text_hash", SHARED_LETTERS), duplicates("audio_hash")
RULES: dict[str, tuple[Rule, ...]] = {
    "text": (
        Rule("duplicate-text", _SAME_WORDS, _SAME_TEXT, 1, "{:,.0f} share it".format, "text_hash", True),
        Rule("capitals", f"every letter is a CAPITAL, {CAPITALS_LETTERS} letters or more", capitals),
        Rule("markup", "<tags>, [notes], {{notes}}, addresses, &entities;", column("markup"), 0, _number_of("mark")),
        Rule("foreign-script", _SCRIPT, foreign_scripts, 0, lambda score: names_of(int(score))),
        Rule("digits", "digits, which can be read in several ways", column("digits"), 0, _number_of("digit")),
        Rule("control", _CONTROL, column("control"), 0, _number_of("character")),
        Rule("broken-encoding", "U+FFFD, or UTF-8 that was read as Latin-1", column("broken"), 0, _number_of("place")),
        # The longest words in German and Finnish dictionaries are shorter; a longer one is glued together.
        Rule("long-word", "a word of more than {} characters", column("longest_word"), 40, _number_of("character")),
        # Auctioneers reach 25 characters a second, fast talk 5 words; "yes" in six seconds has half a character.
        Rule("fast-characters", f"more than {{}} characters {_FAST}", _FAST_CHARACTERS, 30, "{:.1f} a second".format),
        Rule("slow-characters", _SLOW, spoken(per_second("characters")), 0.5, "{:.2f} a second".format, below=True),
        Rule("fast-words", f"more than {{}} words {_FAST}", _FAST_WORDS, 7, "{:.1f} a second".format),
        # A third of the usual rate, or three times as much.
        Rule("unusual-rate", _UNUSUAL, rate_deviation, 5, "{:.1f} deviations".format),
    ),
    "audio": (
        Rule("duplicate-audio", _SAME_SAMPLES, _SAME_AUDIO, 1, "{:,.0f} are the same".format, "audio_hash", True),
        Rule("contradiction", _OTHER_WORDS, contradictions, 1, _number_of("transcript"), once="audio_hash"),
        # Less than one spoken word; corpora are cut at 30 to 35 s, and attention costs the square.
        Rule("short", "shorter than {} s", column("seconds"), 0.3, "{:.2f} s".format, below=True),
        Rule("long", "longer than {} s", column("seconds"), 40, "{:,.1f} s".format),
        # A few peaks are not audible, 16 in a second are.
        Rule("clipping", "more than {:.1%} of the samples at full scale", column("clipped"), 0.001, "{:.2%}".format),
        # 7 bits of 16 are left.
        Rule("low-level", "its loud frames (95 %) below {} dBFS", spoken(column("level")), -45, _LEVEL, below=True),
        # -34 dBFS, as loud as soft speech.
        Rule("dc-offset", "a mean beyond {:.0%} of full scale", column("dc"), 0.02, "{:.1%}".format),
        # Vowels and pauses lie 20 dB apart; in noise, hum and music beds they do not.
        Rule("flat-level", _FLAT, spoken(column("range", FLAT_SECONDS)), 6, "{:.1f} dB".format, below=True),
        # A word of a second within two more.
        Rule("silence", f"more than {{:.0%}} of the frames {QUIET}", spoken(column("silence")), 0.7, "{:.0%}".format),
        Rule("leading-silence", f"begins {_EDGE}", spoken(column("leading")), 3, _SECONDS),
        Rule("trailing-silence", f"ends {_EDGE}", spoken(column("trailing")), 3, _SECONDS),
    ),
    "set": (
        Rule("no-language", "no language, where others of the set have one", spoken(missing("language"))),
        Rule("no-speaker", "no speaker, where others of the set have one", spoken(missing("speaker"))),
        Rule("speaker-imbalance", _IMBALANCE, speaker_share, 0.3, "{:.0%} of the hours".format, once="speaker"),
    ),
}
