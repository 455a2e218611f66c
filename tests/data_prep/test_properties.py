"""Whatever goes into a shard comes out of it; whatever happens to its bytes is found or changes nothing."""

import hashlib
import json
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.durable import canonical_json, strict_json
from data_prep.recordings.tar_members import members
from data_prep.shards.index import write_index
from data_prep.shards.opening import read_index
from data_prep.shards.tar import ShardWriter, read_meta, read_sample, walk
from data_prep.utterance import KEY, safe_key
from model.errors import UserError

keys = st.from_regex(KEY, fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
metas = st.fixed_dictionaries(
    {
        "text": texts,
        "seconds": st.floats(0, 3600),
        "language": texts,
        "speaker": texts,
        "task": texts,
        "meta": st.dictionaries(texts, values, max_size=3),
    }
)
samples = st.integers(0, 3600 * 16000).flatmap(
    lambda count: st.tuples(st.binary(min_size=1, max_size=1500), metas, st.just(count), st.integers(0, count))
)
sets = st.dictionaries(keys, samples, min_size=1, max_size=5)
extensions = st.sampled_from(["flac", "opus", "f16", "bf16"])
QUICK = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def written(folder: Path, content: dict[str, Any], extension: str) -> None:
    with ShardWriter(folder / "shard-000000.tar") as writer:
        for key, (media, meta, count, frames) in content.items():
            writer.add(key, extension, media, meta, count, frames)
        shard = writer.close()
    write_index(folder, "audio", [shard], {}, {}, {})


@QUICK
@given(sets, extensions)
def test_what_is_written_is_read_and_is_an_ordinary_tar(content, extension):
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        for folder in (one, other):
            written(Path(folder), content, extension)
        index = read_index(one)
        assert index.key == list(content)
        for i, (media, meta, count, frames) in enumerate(content.values()):
            sample = read_sample(index, i)
            assert (bytes(sample.media), sample.meta) == (media, meta) and read_meta(index, i) == meta
            assert (index.samples[i], index.frames[i]) == (count, frames)
            assert (index.characters[i], index.text_bytes[i]) == (len(meta["text"]), len(meta["text"].encode()))
        path = Path(one) / "shard-000000.tar"
        with tarfile.open(path, "r:") as tar:
            found = {member.name: getattr(tar.extractfile(member), "read")() for member in tar}  # noqa: B009
        assert found == {f"{key}.{extension}": sample[0] for key, sample in content.items()} | {
            f"{key}.json": canonical_json(sample[1]) for key, sample in content.items()
        }
        assert [tuple(member) for member in members(path)] == list(walk(path))
        for name in ("shard-000000.tar", "shard-000000.idx.json", "index.json"):
            assert (Path(one) / name).read_bytes() == (Path(other) / name).read_bytes()


@QUICK
@given(st.text(max_size=200))
def test_a_key_is_made_of_any_text(raw):
    key = safe_key(raw)
    assert KEY.fullmatch(key) and safe_key(key) == key


@QUICK
@given(values)
def test_canonical_json_is_read_back_and_written_alike(value):
    data = canonical_json(value)
    assert strict_json(data) == value and canonical_json(strict_json(data)) == data


damages = st.tuples(
    st.sampled_from(["shard-000000.tar", "shard-000000.idx.json", "index.json"]),
    st.sampled_from(["flip", "cut", "grow"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 7),
)


@settings(QUICK, max_examples=15)
@given(sets, st.lists(damages, min_size=20, max_size=20))
def test_damage_anywhere_is_found_or_changes_nothing_that_is_read(content, hurt):
    with TemporaryDirectory() as folder:
        root = Path(folder)
        written(root, content, "flac")
        for name, how, where, bit in hurt:
            right = (root / name).read_bytes()
            damage(root / name, how, where, bit)
            require_found_or_harmless(root, content)
            (root / name).write_bytes(right)


def require_found_or_harmless(root: Path, content: dict[str, Any]) -> None:
    try:
        index = read_index(root)
        found = [read_sample(index, i) for i in range(len(index))]
    except UserError as error:
        assert "\n" not in str(error) and str(root) in str(error)
        return
    assert [sample.key for sample in found] == list(content)
    assert [(bytes(sample.media), sample.meta) for sample in found] == [sample[:2] for sample in content.values()]
    assert index.samples.tolist() == [sample[2] for sample in content.values()]


def damage(path: Path, how: str, where: float, bit: int) -> None:
    data = bytearray(path.read_bytes())
    place = int(where * len(data))
    if how == "flip" and data:
        data[place] ^= 1 << bit
    elif how == "cut":
        del data[place:]
    else:
        data[place:place] = bytes([bit])
    path.write_bytes(data)


def test_columns_changed_with_all_their_hashes_are_found_when_read(tmp_path):
    meta = {"text": "words", "seconds": 1.0, "language": "", "speaker": "", "task": "", "meta": {}}
    written(tmp_path, {key: (bytes(700 + n), meta, 400, 0) for n, key in enumerate("abc")}, "flac")
    path, document = tmp_path / "shard-000000.idx.json", tmp_path / "index.json"
    right, listing = json.loads(path.read_bytes()), json.loads(document.read_bytes())
    for name in ("offset", "length", "crc32", "meta_offset", "meta_length"):
        for change in (-512, -1, 1, 512):
            values = list(right["columns"][name])
            values[1] += change
            data = canonical_json(right | {"columns": right["columns"] | {name: values}})
            path.write_bytes(data)
            listing["shards"][0]["columns_sha256"] = hashlib.sha256(data).hexdigest()
            document.write_bytes(canonical_json(listing))
            with pytest.raises(UserError):
                index = read_index(tmp_path)
                read_sample(index, 1)
