import random

import pytest

from data_prep.build.prepare import Limits
from data_prep.refusals import Refused
from data_prep.text import NORMALISERS, OLD_NAMES, normalised, normaliser, tidy_text, warn_about
from model.errors import UserError

REFUSED = {
    " \ufeff\t\n": "no-text",
    "?! ... --": "no-words",
    "nul \0 inside": "bad-text",
    "escape \x1b[31m": "bad-text",
    "lone \ud83d half": "bad-text",
    "lost \ufffd character": "bad-encoding",
    "größe".encode().decode("cp1252"): "bad-encoding",
    "it’s".encode().decode("cp1252"): "bad-encoding",
    "год и".encode().decode("cp1251"): "bad-encoding",
}
SPOKEN = "don't he said well known at 10:30 3.5 % & $5"
KEPT = ["größe", "CAFÉ «À»", "naïve — 5 €", "привет мир", "ÄÖÜ ß", "你好 世界", "नमस्ते", "می‌خواهم", "‏שלום‎", "e\u0301té"]


@pytest.mark.parametrize("text", REFUSED, ids=ascii)
def test_what_cannot_be_meant_is_refused_with_its_reason(text):
    with pytest.raises(Refused) as error:
        tidy_text(text)
    assert error.value.reason == REFUSED[text] and str(error.value).isprintable()


@pytest.mark.parametrize("text", KEPT, ids=ascii)
def test_text_of_every_script_is_kept_character_by_character(text):
    assert tidy_text(f"\ufeff {text}\r\n") == text and tidy_text(f"a\t {text}") == f"a {text}"


def test_ten_thousand_words_stay_ten_thousand_words():
    text = " ".join(f"word{number}" for number in range(10_000))
    assert tidy_text(text) == text == normalised(text, "plain")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("none", "Don’t, Mr. Smith!", "Don’t, Mr. Smith!"),
        ("verbatim", "Cafe\u0301,  Don’t", "Caf\u00e9, Don’t"),
        ("lowercase", "GRÖSSE Don’t!", "grösse don’t!"),
        ("plain", "“Don’t,” he said—‘well-known’ at 10:30, 3.5 % & $5", SPOKEN),
        ("plain", "'Tis the dogs' rock ’n’ roll", "tis the dogs rock n roll"),
        ("plain", "well-known, U.S.A. (really?)", "well known u s a really"),
        ("plain", "Straße ﬁn ÉTÉ Ａ５％ ½ m² ŉ №", "straße fin été a5% ½ m² n no"),
        ("plain", "soft\u00adhyphen\u200b \ufeffmark", "softhyphen mark"),
        ("plain", "‏שלום‎, می‌خواهم", "שלום می‌خواهم"),
        ("plain", "नमस्ते, दुनिया! 好。", "नमस्ते दुनिया 好"),
        ("spoken", "“Don’t,” he said—‘well-known’ at 10:30, 3.5 % & $5", SPOKEN),
        ("whisper-basic", "Größe — [laughs] Don't!", "größe don t"),
        ("whisper-english", "Mr. Smith won't pay twenty-one dollars", "mister smith will not pay $21"),
        ("whisper-english", "The colour", "the colour"),
        ("paper", "MISTER SMITH'S COLOUR, HMM, TWO HUNDRED AND SIX", "mister smith is color 206"),
        ("paper", "Mr Smith's color (laughs) 206!", "mister smith is color 206"),
    ],
)
def test_each_normaliser_spells_as_it_says(name, text, expected):
    assert normalised(text, name) == expected


def test_normalising_twice_equals_normalising_once():
    draw = random.Random(7)
    ranges = [range(32, 127), range(160, 0x2100), range(0xFF00, 0xFFEF), range(0x300, 0x370), range(0x10000, 0x1F000)]
    for _ in range(3000):
        text = "".join(chr(draw.choice(draw.choice(ranges))) for _ in range(8))
        for name in ("verbatim", "plain"):
            once = normaliser(name)(text)
            assert normaliser(name)(once) == once, ascii(text)


def test_a_loop_of_number_words_is_normalised():
    assert normaliser("paper")("million " * 800).startswith("1000") and len(normaliser("paper")("nine " * 5000)) == 5000
    with pytest.raises(ValueError, match="4300"):
        str(10**5000)  # Python's own limit is as it was


def test_a_transcript_of_which_nothing_is_left_is_refused_and_an_unknown_name_has_a_neighbour():
    with pytest.raises(Refused, match="nothing is left of the transcript"):
        normalised("[laughs]", "whisper-basic")
    with pytest.raises(UserError, match="did you mean 'lowercase'"):
        Limits(normalise="lower-case")
    with pytest.raises(UserError, match="did you mean 'none'"):
        Limits(normalise="nonee")
    with pytest.raises(UserError, match="'none' is not known; known: verbatim"):
        normaliser("none")


def test_old_names_are_accepted():
    assert set(NORMALISERS) == {"verbatim", "lowercase", "plain", "whisper-basic", "whisper-english", "paper"}
    assert Limits(normalise="spoken") and OLD_NAMES == {"spoken": "plain"}


def test_capitals_and_invisible_marks_are_warned_about_once(capsys):
    warn_about(["ALL CAPITALS", "MORE", "‏שלום‎", "می‌خواهم"], "none")
    assert "warning: 1 of 4 transcripts hold direction marks" in (said := capsys.readouterr().err)
    assert "CAPITALS" not in said
    warn_about(["ALL CAPITALS", "MORE", "less"], "none")
    assert "2 of 3 transcripts are in CAPITALS" in capsys.readouterr().err
    warn_about(["ALL CAPITALS"], "lowercase")
    assert not capsys.readouterr().err
