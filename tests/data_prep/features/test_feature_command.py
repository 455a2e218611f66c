"""`slam-asr prep features` as a person runs it: on several ranks, some of which die, with its questions and checks."""

import io
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.build.build import BuildOptions, build
from data_prep.features import build as feature_build
from data_prep.features.build import build_features, bytes_of, read_speed
from data_prep.shards.index import write_index
from data_prep.shards.opening import read_index
from data_prep.shards.reader import frames
from data_prep.shards.tar import ShardWriter, read_sample
from launch.command import main
from model.encoders import load_encoder
from tests import ranks
from tests.accidents import Signalled
from tests.data_prep.features.test_features import files
from tests.data_prep.reading import check
from tests.tiny import tiny_models

PUBLISH = "data_prep.shards.tar:ShardWriter.close"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return str(tiny_models(tmp_path_factory.mktemp("models"))[0])


@pytest.fixture
def audio(tmp_path, corpus):
    build(corpus, tmp_path / "audio", BuildOptions(shard_size=3))
    return read_index(tmp_path / "audio")


def start(arguments, numbers, size, log, before=None):
    """The ranks of these numbers, of `size`, running `slam-asr prep features ARGUMENTS`."""
    processes = []
    for rank in numbers:
        environment = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
        given = (["prep", "features", *map(str, arguments)], environment, str(log), before)
        processes.append(ranks.fork_server().Process(target=_rank, args=given, daemon=True))
        processes[-1].start()
    return ranks.Ranks(processes, log)


def _rank(arguments, environment, log, before):
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ |= environment
    if before:
        before(int(environment["RANK"]))
    sys.exit(main(arguments))


def test_two_ranks_make_the_bytes_of_one_though_ranks_die_on_the_way(tmp_path, audio, source):
    build_features(audio, load_encoder(source), tmp_path / "one")
    out, log = tmp_path / "many", tmp_path / "log"
    arguments = [audio.root, out, "--encoder", source, "--yes"]
    dies = Signalled(signal.SIGKILL, (1,), PUBLISH, 2)
    assert start(arguments, [1], 2, log, dies).wait() == [-signal.SIGKILL]  # its second shard is under a temporary name
    assert len(list(out.glob("shard-*.idx.json"))) == 1 and len(list(out.glob(".shard-*.tmp"))) == 1
    running = start(arguments, [0, 1, 2], 3, log, Signalled(signal.SIGKILL, (2,), PUBLISH, 1))
    codes = running.wait()
    assert codes[:2] == [0, 0] and codes[2] in (0, -signal.SIGKILL)  # it may come too late to write any
    if not (out / "index.json").exists():  # it died with a shard that the others had left to it
        assert start(arguments, [0], 1, log).wait() == [0]
    assert files(out) == files(tmp_path / "one") and check(out) == []
    assert "12 utterances were encoded again: the same frames" in running.text()
    speed = read_speed(out)
    assert speed is not None and speed.audio_seconds_per_second > 0 and 1 <= speed.ranks <= 3


def test_ranks_that_nothing_started_are_refused(tmp_path, audio, source, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "2")
    assert prep(audio.root, tmp_path / "out", "--encoder", source) == 2
    assert "RANK is set but WORLD_SIZE, LOCAL_RANK is not" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert prep(audio.root, tmp_path / "out", "--encoder", source) == 2
    assert "RANK=2, of 2 ranks" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_much_is_asked_for_before_it_is_begun(tmp_path, audio, source, monkeypatch, capsys):
    given = (audio.root, tmp_path / "out", "--encoder", source)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert prep(*given, "--ask-above", "0.00001") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "12 utterances" in said and "kB of float16" in said and "seconds of audio" in said
    assert "say --yes" in said and not (tmp_path / "out").exists()
    assert prep(*given, "--ask-above-hours", "0") == 2 and "say --yes" in capsys.readouterr().err
    monkeypatch.setattr(feature_build, "free_bytes", lambda out: 1000)
    assert prep(*given, "--yes") == 2
    assert "has 1 kB free; make room" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_person_at_a_terminal_may_say_yes_or_no(tmp_path, audio, source, monkeypatch, capsys):
    given = (audio.root, tmp_path / "out", "--encoder", source, "--ask-above-hours", "0")
    for answer, code in (("n\n", 2), ("", 2), ("y\n", 0)):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        assert prep(*given) == code and "go on? [y/N]" in capsys.readouterr().err
        assert (tmp_path / "out").exists() == (code == 0)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_the_bytes_are_known_before_they_are_written(tmp_path, audio, source, dtype):
    encoder = load_encoder(source)
    totals = build_features(audio, encoder, tmp_path / "out", dtype).totals
    assert totals is not None and bytes_of(audio, encoder, dtype, np.arange(len(audio))) == totals.bytes


def test_a_sound_cache_passes_the_check_by_its_own_settings_and_another_layer_does_not(tmp_path, audio, source, capsys):
    given = (audio.root, tmp_path / "out", "--encoder", source)
    assert prep(*given, "--layer", "mean", "--feature-dtype", "int8") == 0
    assert "12 utterances were encoded again: the same frames" in capsys.readouterr().out
    assert prep(*given, "--check", "--layer", "mean") == 0
    assert "12 utterances are there; 12 were encoded again: the same" in capsys.readouterr().out
    assert prep(*given, "--check") == 2
    said = capsys.readouterr().err
    assert "layer mean:1-2 of this encoder" in said and "layer 2" in said and "--layer mean:1-2" in said
    assert prep(*given, "--check", "--layer", "1") == 1
    assert "its encoder's layer is mean:1-2, that of the encoder given 1" in capsys.readouterr().out
    assert prep(audio.root, audio.root, "--encoder", source, "--check") == 2
    assert "holds audio" in capsys.readouterr().err


def test_the_check_finds_a_changed_frame_and_names_its_utterance(tmp_path, audio, source, capsys):
    out = tmp_path / "out"
    build_features(audio, load_encoder(source), out)
    victim = audio.key[5]
    rewrite(out, lambda key, media: media[:64] + bytes(4) + media[68:] if key == victim else media)
    assert check(out) == []  # it is sound in itself
    assert prep(audio.root, out, "--encoder", source, "--check") == 1
    said = capsys.readouterr().out
    assert f"utterance {victim}: frame 1 is" in said and "1 thing is wrong" in said
    assert prep(audio.root, out, "--encoder", source, "--check", "--verify", "0") == 0


def test_the_check_names_what_is_missing_too_many_or_of_other_audio(tmp_path, audio, source, corpus, capsys):
    out = tmp_path / "out"
    build_features(audio, load_encoder(source), out)
    other = [replace(corpus[0], text="another text"), *corpus[2:], replace(corpus[1], key="new")]
    build(other, tmp_path / "other", BuildOptions())
    assert prep(tmp_path / "other", out, "--encoder", source, "--check") == 1
    said = capsys.readouterr().out
    assert "1 utterance missing in the cache: new" in said and "in the cache and not in the audio: utt-01" in said
    assert "1 utterance made of other audio or of another transcript: utt-00" in said


class Terminal:
    """Standard input with a person at it."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self.answer


def prep(*arguments) -> int:
    return main(["prep", "features", *map(str, arguments)])


def rewrite(out: Path, change) -> None:
    """The same cache with other bytes, as a program would leave it that writes shards rightly."""
    index = read_index(out)
    shards = []
    for number, info in enumerate(index.shards):
        ids = np.flatnonzero(index.shard == number).tolist()
        samples = [read_sample(index, i) for i in ids]
        counts = [len(frames(index, i, sample)) for i, sample in zip(ids, samples, strict=True)]
        with ShardWriter(out / info.name) as writer:
            for i, sample, count in zip(ids, samples, counts, strict=True):
                media = change(sample.key, bytes(sample.media))
                writer.add(sample.key, "f16", media, sample.meta, int(index.samples[i]), count)
            shards.append(writer.close())
    write_index(out, "features", shards, index.fingerprint, index.options, index.totals)
