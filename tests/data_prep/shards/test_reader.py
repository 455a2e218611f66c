import io
import threading
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from data_prep.audio.decode import AudioError, decode_media, encode_flac
from data_prep.build.build import BuildOptions, build
from data_prep.shards.index import ShardError, ShardIndex, write_index
from data_prep.shards.opening import read_index
from data_prep.shards.reader import MIN_BYTES, Buffers, read_batch
from data_prep.shards.tar import ShardWriter
from model.prompt import Prompt
from tests.data_prep.conftest import tone


class Letters:
    """The least tokenizer that Prompt works with."""

    eos_token_id, pad_token_id, bos_token_id = 0, 0, None

    def encode(self, text, **options):
        return list(text.encode())

    def convert_ids_to_tokens(self, ids):
        return [chr(i) for i in ids]


PROMPT = Prompt(Letters())


@pytest.fixture
def audio(tmp_path, corpus) -> ShardIndex:
    build(corpus, tmp_path / "audio", BuildOptions(shard_size=5))
    return read_index(tmp_path / "audio")


def test_a_batch_holds_the_bits_that_soundfile_reads_from_each_file(audio, corpus):
    ids = [7, 0, 11, 4]
    batch, by_key = read_batch(audio, ids, PROMPT), {utterance.key: utterance for utterance in corpus}
    assert batch.audio is not None and batch.features is None and batch.keys == tuple(audio.key[i] for i in ids)
    starts, targets = batch.audio_cu.tolist(), batch.target_cu.tolist()
    for number, key in enumerate(batch.keys):
        wave, _ = soundfile.read(by_key[key].audio, dtype="float32")
        assert np.array_equal(batch.audio[starts[number] : starts[number + 1]].numpy(), wave)
        tokens = batch.targets[targets[number] : targets[number + 1]].tolist()
        assert tokens == PROMPT.target_ids(by_key[key].text) and batch.texts[number] == by_key[key].text
    assert starts[-1] == len(batch.audio) and batch.feature_cu.tolist() == [0] * 5


def test_a_batch_of_frames_holds_the_bits_that_were_written(tmp_path):
    frames = [torch.randn(count, 24, generator=torch.Generator().manual_seed(count)).bfloat16() for count in (3, 1, 7)]
    meta = {"text": "hello", "seconds": 1.0, "language": "", "speaker": "", "task": "", "meta": {}}
    with ShardWriter(tmp_path / "shard-000000.tar") as writer:
        for number, of_one in enumerate(frames):
            media = of_one.view(torch.uint8).numpy().tobytes()
            writer.add(f"utt-{number}", "bf16", media, meta, 16000, len(of_one))
        shard = writer.close()
    write_index(tmp_path, "features", [shard], {"feature_dtype": "bfloat16", "dim": 24}, {}, {})
    index = read_index(tmp_path)
    batches = [read_batch(index, ids, PROMPT) for ids in ([2, 0, 1], [1, 2])]
    assert batches[0].features is not None and batches[1].features is not None
    assert torch.equal(batches[0].features, torch.cat([frames[2], frames[0], frames[1]]))
    assert torch.equal(batches[1].features, torch.cat([frames[1], frames[2]]))  # and the first is still as it was
    assert batches[0].feature_cu.tolist() == [0, 7, 10, 11] and batches[0].audio is None
    with pytest.raises(ShardError, match="utt-1: 48 bytes.* 2 frames of 24"):
        read_batch(replace(index, frames=np.array([3, 2, 7])), [0, 1], PROMPT)


def test_an_index_that_lies_about_lengths_is_refused_before_memory_is_taken(audio):
    for samples in (audio.samples + 1, audio.samples + 2**50):
        with pytest.raises(ShardError, match=f"utterance {audio.key[3]}: .*{samples[3]:,}.*prep check {audio.root}"):
            read_batch(replace(audio, samples=samples), [3], PROMPT)


def test_only_what_a_shard_holds_is_decoded_in_place():
    wave, out = tone(0.5), np.empty(8000, np.float32)
    decode_media(encode_flac(wave), "flac", out)
    assert np.abs(out - wave).max() < 1 / 32768
    for rate, channels, kind in ((8000, 1, "FLAC"), (16000, 2, "FLAC"), (16000, 1, "WAV")):
        other = io.BytesIO()
        soundfile.write(other, np.stack([wave] * channels, axis=1), rate, format=kind, subtype="PCM_16")
        with pytest.raises(AudioError) as error:
            decode_media(other.getvalue(), "flac", out)
        assert error.value.reason == "not-ready"
    with pytest.raises(AudioError, match="8,000 .*7,999"):
        decode_media(encode_flac(wave), "flac", out[1:])
    with pytest.raises(AudioError) as error:
        decode_media(encode_flac(wave)[:-400], "flac", out)
    assert error.value.reason in ("damaged", "truncated")


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_taken_again_only_when_no_tensor_is_left_over_it():
    buffers = Buffers()
    array = buffers.empty(MIN_BYTES, np.float32)
    first = address(array)
    part = torch.from_numpy(array).view(torch.uint8).view(torch.float16).view(-1, 64)[100:, 3]
    del array
    assert address(buffers.empty(MIN_BYTES, np.float32)) != first
    looked_at = part.numpy()
    del part
    assert address(buffers.empty(MIN_BYTES, np.float32)) != first
    del looked_at
    taken = {address(one) for one in [buffers.empty(MIN_BYTES, np.float32) for _ in range(2)]}
    assert first in taken


def test_memory_much_too_large_or_too_small_is_not_taken_and_only_some_is_kept():
    buffers = Buffers(max_free=3)
    sizes = [MIN_BYTES * number for number in (1, 5, 20, 40, 80)]
    arrays = [buffers.empty(size, np.uint8) for size in sizes]
    assert [len(array) for array in arrays] == sizes
    while arrays:
        del arrays[0]
    assert sorted(block.nbytes for block in buffers._free) == sizes[-3:]
    assert len(buffers.empty(MIN_BYTES * 6, np.uint8)) == MIN_BYTES * 6
    kept = {address(block) for block in buffers._free}
    assert address(buffers.empty(MIN_BYTES * 30, np.uint8)) in kept


def test_threads_never_get_the_same_memory():
    buffers, wrong = Buffers(), []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(200):
            array = buffers.empty(int(random.integers(1, 3) * MIN_BYTES), np.uint8)
            tensor = torch.from_numpy(array)
            del array
            tensor[:: 1 << 16] = seed
            if not (tensor[:: 1 << 16] == seed).all():
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong
