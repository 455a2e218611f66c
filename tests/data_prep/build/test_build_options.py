import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from data_prep.audio.decode import decode, encode_flac, encode_opus, write_flac
from data_prep.build.assign import Layout, Sizes, divide
from data_prep.build.build import BuildOptions, build
from data_prep.build.prepare import Limits
from data_prep.build.split import build_parts, parse_fractions, split
from data_prep.inspect.audit.audit import audit
from data_prep.shards.index import ShardIndex
from data_prep.shards.opening import read_index
from data_prep.shards.tar import read_sample
from data_prep.utterance import Utterance, write_jsonl
from launch.command import main
from launch.prep.arguments import parse_bytes
from model.errors import UserError
from tests.data_prep.build.test_build import contents
from tests.data_prep.conftest import tone
from tests.data_prep.reading import check, read_wave


def test_another_command_is_another_input(tmp_path, corpus):
    limits, out = Limits(allow_pipes=True), tmp_path / "out"

    def piped(utterance):
        return [replace(corpus[0], audio=f"cat '{utterance.audio}'", part="pipe")]

    build(piped(corpus[1]), out, BuildOptions(limits=limits))
    assert build(piped(corpus[1]), out, BuildOptions(limits=limits)).already_built
    with pytest.raises(UserError, match="another input"):
        build(piped(corpus[2]), out, BuildOptions(limits=limits))


def shards_of(index: ShardIndex) -> list[list[str]]:
    return [[index.key[i] for i in np.flatnonzero(index.shard == n)] for n in range(len(index.shards))]


def test_options_at_their_defaults_are_not_recorded_so_that_new_ones_change_no_build(tmp_path, corpus):
    build(corpus, tmp_path / "out", BuildOptions(shard_size=5))
    index = read_index(tmp_path / "out")
    assert set(index.options) == {"shard_size", "seed", "min_seconds", "max_seconds", "verify"}
    assert set(read_sample(index, 0).meta) == {"text", "seconds", "language", "speaker", "task", "meta"}


def test_the_corpus_is_in_its_own_order_where_that_is_asked_for(tmp_path, corpus):
    build(corpus, tmp_path / "out", BuildOptions(shard_size=5, shuffle="none"))
    assert read_index(tmp_path / "out").key == [utterance.key for utterance in corpus]


def test_sorted_shards_hold_like_lengths_and_are_themselves_in_random_order(tmp_path, corpus):
    build(corpus[::-1], tmp_path / "out", BuildOptions(shard_size=2, shuffle="sorted"))
    shards = shards_of(read_index(tmp_path / "out"))
    assert sorted(shards) == [[f"utt-{i:02}", f"utt-{i + 1:02}"] for i in range(0, 12, 2)] != shards
    build(corpus, tmp_path / "again", BuildOptions(shard_size=2, shuffle="sorted", workers=2))
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def test_stratified_shards_have_a_like_mix_of_lengths_languages_and_speakers(tmp_path, corpus):
    generator = np.random.default_rng(0)
    seconds = generator.uniform(1, 20, 600)
    speakers = [("en" if i % 4 else "de", f"speaker{i % 6}") for i in range(600)]
    keys, sizes = [f"u{i}" for i in range(600)], Sizes(seconds.tolist(), [1000] * 600)
    for layout in (Layout(shard_size=100, shuffle="stratified"), Layout(shard_bytes=100_000, shuffle="stratified")):
        shards = divide(keys, sizes, speakers, layout)
        assert [len(shard) for shard in shards] == [100] * 6 and sorted(sum(shards, [])) == list(range(600))
        for shard in shards:
            assert abs(sum(speakers[i][0] == "de" for i in shard) - 25) <= 1
            assert abs(seconds[shard].mean() - seconds.mean()) < 0.3  # by chance: 0.55
            by_speaker = Counter(speakers[i][1] for i in shard)
            assert len(by_speaker) == 6 and max(by_speaker.values()) - min(by_speaker.values()) <= 10


def test_shards_by_bytes_come_near_and_do_not_depend_on_workers(tmp_path, corpus):
    many = [replace(corpus[i % 12], key=f"copy-{i}") for i in range(120)]
    totals = build(many, tmp_path / "one", BuildOptions(shard_bytes=200_000))
    sizes = [shard.bytes for shard in read_index(tmp_path / "one").shards]
    assert totals.shards > 5 and all(0.85 < size / 200_000 < 1.1 for size in sizes[:-1])
    build(many, tmp_path / "two", BuildOptions(shard_bytes=200_000, workers=2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert "shard_size" not in read_index(tmp_path / "one").options


def test_opus_shards_are_checked_and_hold_every_sample(tmp_path, corpus):
    for name in ("one", "two"):
        build(corpus, tmp_path / name, BuildOptions(shard_size=5, limits=Limits(media="opus")))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    index = read_index(tmp_path / "one")
    assert index.options["media"] == "opus" and check(tmp_path / "one") == []
    for i, key in enumerate(index.key):
        given = decode(next(utterance.audio for utterance in corpus if utterance.key == key))
        assert len(read_wave(index, i)) == index.samples[i] == len(given)
    assert sum(shard.bytes for shard in index.shards) < 12 * 6_000


def test_opus_of_the_right_kind_is_copied_and_not_encoded_once_more(tmp_path, corpus):
    data = encode_opus(tone(1.0))
    (tmp_path / "a.opus").write_bytes(data)
    given = Utterance("a", str(tmp_path / "a.opus"), "words")
    build([given], tmp_path / "out", BuildOptions(limits=Limits(media="opus")))
    assert read_sample(read_index(tmp_path / "out"), 0).media == data


def test_silent_ends_are_cut_off_with_a_margin_and_told(tmp_path, corpus):
    silence = np.random.default_rng(0).normal(0, 1e-4, 16000).astype(np.float32)
    wave = np.concatenate([silence, tone(1.0), silence, tone(0.5), silence[:8000]])
    write_flac(tmp_path / "long.flac", wave)
    write_flac(tmp_path / "tight.flac", tone(1.0))
    utterances = [Utterance(name, str(tmp_path / f"{name}.flac"), "words") for name in ("long", "tight")]
    build(utterances, tmp_path / "out", BuildOptions(limits=Limits(trim_silence=40.0)))
    index = read_index(tmp_path / "out")
    samples = {index.key[i]: read_sample(index, i) for i in range(2)}
    assert samples["tight"].media == encode_flac(tone(1.0)) and "trimmed_seconds" not in samples["tight"].meta
    assert samples["long"].meta["trimmed_seconds"] == [0.85, 0.35] and samples["long"].meta["seconds"] == 2.8
    assert samples["long"].media == encode_flac(wave[13600:-5600])


def test_recordings_in_which_nothing_is_said_are_kept_as_they_are_where_that_is_asked_for(tmp_path, corpus):
    write_flac(tmp_path / "zeros.flac", np.zeros(16000))
    faint = np.random.default_rng(0).normal(0, 1e-4, 16000).astype(np.float32)
    write_flac(tmp_path / "click.flac", np.concatenate([faint, tone(0.1), faint]))
    given = [Utterance(name, str(tmp_path / f"{name}.flac"), text) for name, text in (("zeros", ""), ("click", " \n"))]
    given += [replace(corpus[0], text=None), replace(corpus[1], text="..."), *corpus[2:]]
    limits = Limits(normalise="plain", trim_silence=40.0)
    totals = build(given, tmp_path / "without", BuildOptions(max_bad=0.5, limits=limits))
    assert totals.bad == {"no-text": 2, "no-transcript": 1, "no-words": 1}
    totals = build(given, tmp_path / "out", BuildOptions(max_bad=0.5, limits=replace(limits, allow_empty=True)))
    assert totals.bad == {"no-transcript": 1, "no-words": 1} and totals.utterances == len(given) - 2
    index = read_index(tmp_path / "out")
    assert index.options["allow_empty"] and "allow_empty" not in read_index(tmp_path / "without").options
    for name in ("zeros", "click"):
        i = index.key.index(name)
        sample = read_sample(index, i)
        assert sample.meta["text"] == "" and (index.characters[i], index.text_bytes[i]) == (0, 0)
        assert sample.media == (tmp_path / f"{name}.flac").read_bytes()
    checked = audit(tmp_path / "out")
    of_speech = {"slow-characters", "low-level", "flat-level", "silence", "leading-silence", "trailing-silence"}
    assert not checked.problems and not of_speech & {finding.name for finding in checked.raised}


def test_a_normalised_transcript_keeps_the_one_that_was_written(tmp_path, corpus):
    given = [replace(corpus[0], text="Hello, World!"), replace(corpus[1], text="hello world")]
    build(given, tmp_path / "out", BuildOptions(shuffle="none", limits=Limits(normalise="spoken")))
    index = read_index(tmp_path / "out")
    metas = [read_sample(index, i).meta for i in range(2)]
    assert [meta["text"] for meta in metas] == ["hello world"] * 2 and index.options["normalise"] == "spoken"
    assert metas[0]["raw_text"] == "Hello, World!" and "raw_text" not in metas[1]


def test_no_speaker_is_in_two_parts_and_none_moves_when_others_come(corpus):
    fractions = parse_fractions("train=0.6,dev=0.2,test=0.2")
    many = [Utterance(f"u{i}", "a.wav", "words", speaker=f"s{i % 200}") for i in range(2000)]
    parts = split(many, fractions, "speaker", 0)
    speakers = {name: {utterance.speaker for utterance in part} for name, part in parts.items()}
    assert sum(map(len, speakers.values())) == 200
    for name, fraction in fractions.items():
        assert abs(len(parts[name]) / 2000 - fraction) < 0.1
    others = [Utterance(f"v{i}", "a.wav", "words", speaker=f"t{i}") for i in range(50)]
    more = split([*many, *others], fractions, "speaker", 0)
    assert all(part == more[name][: len(part)] for name, part in parts.items())
    by_key = split(many, fractions, "hash", 0)
    assert abs(len(by_key["dev"]) / 2000 - 0.2) < 0.03
    with pytest.raises(UserError, match=r"gets none of 1 utterance; .*--split-by balanced"):
        split(many[:1], fractions, "speaker", 0)
    with pytest.raises(UserError, match="names no speaker; --split-by hash"):
        split([replace(many[0], speaker="")], fractions, "speaker", 0)


def test_the_command_builds_parts_and_prints_their_shares(tmp_path, corpus, capsys):
    spoken = [replace(utterance, speaker=f"speaker{i}") for i, utterance in enumerate(corpus)]
    spoken.append(replace(corpus[0], key="gone", audio="nowhere.flac", speaker="speaker1"))
    write_jsonl(tmp_path / "u.jsonl", spoken)
    command = ["prep", "build", str(tmp_path / "u.jsonl"), str(tmp_path / "out"), "--split", "train=0.5,dev=0.5"]
    command += ["--workers", "1", "--max-bad", "0.08", "--no-verify", "--shard-bytes", "2MB"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "quarantine.jsonl" in said and "50.0% asked for" in said
    train, dev = (read_index(tmp_path / "out" / name) for name in ("train", "dev"))
    assert len(train) + len(dev) == 12 and train.options["part"] == "train of train=0.5,dev=0.5 by speaker"
    assert train.options["verify"] is False and train.options["shard_bytes"] == 2_000_000
    command[3] = str(tmp_path / "again")
    assert main([*command, "--max-bad", "0.07"]) == 2  # 1 of 13, in whichever part
    notes = [*tmp_path.glob("again/*/quarantine.jsonl")]
    assert len(notes) == 1 and json.loads(notes[0].read_text())["reason"] == "missing-audio"


def test_no_part_of_another_split_stays_beside_the_new_ones(tmp_path, corpus, capsys):
    options, by = BuildOptions(shard_size=5), "hash"
    build_parts(corpus, tmp_path, options, {"train": 0.5, "test": 0.5}, by)
    (tmp_path / "test" / "notes.txt").write_text("mine")
    build(corpus, tmp_path / "other", options)  # no part, and of no matter
    new = {"train": 0.6, "dev": 0.4}
    with pytest.raises(UserError, match="holds test, a part of another split"):
        build_parts(corpus, tmp_path, options, new, by)
    with pytest.raises(UserError, match=r"another part \(train of train=0.5,test=0.5 by hash, now train of train=0.6,"):
        build(corpus, tmp_path / "train", replace(options, part="train of train=0.6,dev=0.4 by hash"))
    build_parts(corpus, tmp_path, replace(options, overwrite=True), new, by)
    assert f"{tmp_path / 'test'} was a part of another split and is removed" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "test").iterdir()] == ["notes.txt"]
    assert len(read_index(tmp_path / "train")) + len(read_index(tmp_path / "dev")) == 12
    assert len(read_index(tmp_path / "other")) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shuffle", "sort"], "did you mean 'sorted'"),
        (["--normalise", "plian"], "did you mean 'plain'"),
        (["--format", "mp3"], "known: flac, opus"),
        (["--trim-silence", "-40"], "decibels below"),
        (["--shard-bytes", "many"], "write 500MB"),
        (["--split", "train=0.5,dev=0.4"], "add up to 0.9"),
        (["--split", "train=0.5,train=0.5"], "is not NAME=FRACTION"),
        (["--split", "train=0.5,dev=0.5", "--split-by", "speakers"], "did you mean 'speaker'"),
    ],
)
def test_a_mistake_in_an_option_is_one_line_and_leaves_nothing(arguments, message, tmp_path, corpus, capsys):
    write_jsonl(tmp_path / "u.jsonl", corpus)
    assert main(["prep", "build", str(tmp_path / "u.jsonl"), str(tmp_path / "out"), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_bytes_are_read_as_people_write_them():
    assert [parse_bytes(text) for text in ("", "500MB", "1.5 gb", "2GiB", "1000")] == [0, 5e8, 1.5e9, 2 << 30, 1000]
