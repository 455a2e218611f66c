"""A corpus of few speakers parted: whole speakers, as near to the fractions as they allow, no part empty."""

from collections import Counter
from dataclasses import replace

import pytest

from data_prep.build.split import parse_fractions, split
from data_prep.shards.opening import read_index
from data_prep.utterance import Utterance, write_jsonl
from launch.command import main
from model.errors import UserError

NINE_TO_ONE = parse_fractions("train=0.9,dev=0.1")


def spoken(**sizes: int) -> list[Utterance]:
    """So many utterances of each speaker, one speaker after the other."""
    return [Utterance(f"{name}-{i}", "a.wav", "words", speaker=name) for name, n in sizes.items() for i in range(n)]


def speakers(part: list[Utterance]) -> set[str]:
    return {utterance.speaker for utterance in part}


@pytest.mark.parametrize("many", [3, 5, 6, 20, 40])
def test_balanced_parts_share_no_speaker_and_none_is_empty(many):
    corpus = spoken(**{f"s{i}": 10 for i in range(many)})
    parts = split(corpus, NINE_TO_ONE, "balanced", 0)
    assert not speakers(parts["train"]) & speakers(parts["dev"])
    assert len(speakers(parts["dev"])) == max(1, round(0.1 * many))
    assert split(corpus, NINE_TO_ONE, "balanced", 0) == parts
    of_each_seed = {frozenset(speakers(split(corpus, NINE_TO_ONE, "balanced", seed)["dev"])) for seed in range(40)}
    assert len(of_each_seed) > 1  # the seed chooses among speakers of one size


def test_balanced_comes_nearest_where_speakers_differ_in_size():
    corpus = spoken(large=60, middle=25, small=10, least=5)
    assert speakers(split(corpus, NINE_TO_ONE, "balanced", 0)["dev"]) == {"small"}
    parts = split(corpus, parse_fractions("train=0.6,dev=0.2,test=0.2"), "balanced", 0)
    assert {name: len(part) for name, part in parts.items()} == {"train": 60, "dev": 25, "test": 15}


@pytest.mark.parametrize("sizes", [{"": 100}, {"only": 100}, {"one": 50, "other": 50}])
def test_balanced_goes_by_utterance_where_fewer_than_three_speakers_are_named(sizes):
    corpus = spoken(**sizes)
    parts = split(corpus, NINE_TO_ONE, "balanced", 0)
    assert Counter({name: len(part) for name, part in parts.items()}) == {"train": 90, "dev": 10}
    assert [len(part) for part in split(corpus[:2], NINE_TO_ONE, "balanced", 0).values()] == [1, 1]
    with pytest.raises(UserError, match="dev gets none of 1 utterance"):
        split(corpus[:1], NINE_TO_ONE, "balanced", 0)


@pytest.mark.parametrize(("names", "told"), [("abcd", "4 is in two parts"), ("a", "1 speaker named"), (" ", "no spe")])
def test_the_command_says_whether_speakers_or_utterances_are_divided(tmp_path, corpus, capsys, names, told):
    named = [replace(utterance, speaker=names[i % len(names)].strip()) for i, utterance in enumerate(corpus)]
    write_jsonl(tmp_path / "u.jsonl", named)
    command = ["prep", "build", str(tmp_path / "u.jsonl"), str(tmp_path / "out"), "--split", "train=0.75,dev=0.25"]
    for _ in range(2):  # the second time finds it built
        assert main([*command, "--split-by", "balanced", "--workers", "1"]) == 0
        assert told in capsys.readouterr().err
    assert [len(read_index(tmp_path / "out" / name)) for name in ("train", "dev")] == [9, 3]
