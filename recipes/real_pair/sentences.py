"""`python -m recipes.real_pair.sentences OUT`: sentences of 3 to 14 words from packages, for speech.py to have read.

OUT/wordnet.jsonl      the examples in WordNet's glosses: Debian's `wordnet-base`
OUT/fortunes.jsonl     sayings and quotations: Debian's `fortunes`
OUT/chatter.jsonl      everyday questions and answers (`pip install chatterbot-corpus`), and strings of four digits

Each line has `text`: lower-case words and apostrophes. A source that is not installed is left out, with a warning."""

import argparse
import json
import random
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from data_prep.text import normaliser

WORDNET, FORTUNES = Path("/usr/share/wordnet"), Path("/usr/share/games/fortunes")
# not the files of fortunes that are about computers, or drawn
TOPICS = "cookie education food fortunes humorists kids love medicine men-women miscellaneous news people pets"
TOPICS += " platitudes science songs-poems sports wisdom work"
TALK = "conversations emotion food gossip greetings health humor literature money movies psychology sports trivia"
WORDS = range(3, 15)
DIGITS = "zero one two three four five six seven eight nine".split()
SENTENCE_END = re.compile(r'(?<=[.!?;:])\s+|"|\s--\s|\s\(|\)\s')
PLAIN = re.compile(r"[a-z' ]+")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.real_pair.sentences", description="Write sentences to be read."
    )
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--without", type=Path, action="append", default=[], help="JSON lines of texts to leave out")
    args = parser.parse_args(arguments)
    lines = [json.loads(line) for path in args.without for line in path.read_text().splitlines()]
    left_out = {line["text"].lower() for line in lines}
    args.out.mkdir(parents=True, exist_ok=True)
    for name, source in (("wordnet", wordnet), ("fortunes", fortunes), ("chatter", chatter)):
        texts = sorted({text for line in source() for text in sentences(line)} - left_out)
        if not texts:
            print(f"warning: no {name}; see the head of {__name__}", file=sys.stderr)
            continue
        (args.out / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        print(f"{name}: {len(texts):,} sentences")
    return 0


def sentences(text: str) -> Iterator[str]:
    """Those of the text that have 3 to 14 words and no digit, abbreviation or sign."""
    spelt = normaliser("plain")
    for sentence in () if re.search(r"\w\.\w", text) else SENTENCE_END.split(text):
        plain = spelt(sentence)
        if PLAIN.fullmatch(plain) and len(plain.split()) in WORDS and not re.search(r"\b[A-Z]{2,}", sentence):
            yield plain


def wordnet() -> Iterator[str]:
    for path in sorted(WORDNET.glob("data.*")):
        for line in path.read_text("utf-8", "replace").splitlines():
            yield from re.findall(r'"([^"]+)"', line.partition(" | ")[2])


def fortunes() -> Iterator[str]:
    for topic in TOPICS.split():
        if (path := FORTUNES / topic).exists():
            for saying in path.read_text("utf-8", "replace").split("\n%\n"):
                yield " ".join(re.split(r"\n\s*-- ", saying)[0].split())


def chatter() -> Iterator[str]:
    found = find_spec("chatterbot_corpus")
    for folder in found.submodule_search_locations or () if found else ():
        for topic in TALK.split():
            lines = (Path(folder) / "data" / "english" / f"{topic}.yml").read_text("utf-8").splitlines()
            yield from (line.lstrip(" -").strip("'") for line in lines if line.lstrip().startswith("-"))
        rng = random.Random(1)
        yield from (" ".join(rng.choices(DIGITS, k=4)) for _ in range(300))


if __name__ == "__main__":
    sys.exit(main())
