"""A model.bin of CTranslate2 is read whole or refused in one line, whatever is in it."""

import random
from pathlib import Path

import numpy as np
import pytest

from launch.fetch.ctranslate2 import Model, read_model
from model.errors import UserError
from tests.launch.fetch.ctranslate2_files import written

SMALL = {"encoder/a": np.arange(6, dtype="<f2").reshape(2, 3), "encoder/b": np.array(3, "<i1")}


def read(path: Path, data: bytes) -> Model:
    path.write_bytes(data)
    return read_model(path)


def refused(path: Path, data: bytes) -> str:
    with pytest.raises(UserError) as caught:
        read(path, data)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def test_arrays_and_aliases_of_a_ctranslate2_file_are_read(tmp_path):
    specification, arrays = read(tmp_path / "model.bin", written(SMALL, {"again": "encoder/a"}))
    assert specification == "WhisperSpec" and list(arrays) == ["encoder/a", "encoder/b", "again"]
    assert np.array_equal(arrays["encoder/a"], SMALL["encoder/a"]) and int(arrays["encoder/b"]) == 3
    assert arrays["again"] is arrays["encoder/a"]


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path):
    whole = written(SMALL, {"again": "encoder/a"})
    for length in range(len(whole)):
        assert "early; fetch it again" in refused(tmp_path / "model.bin", whole[:length])


def test_a_file_with_any_byte_changed_is_read_or_refused(tmp_path):
    """Never another exception, nor memory for what is not there (a size of 4 GB in a file of 100 bytes)."""
    rng, whole = random.Random(0), written(SMALL, {"again": "encoder/a"})
    for at in range(len(whole)):
        for value in (0, 255, rng.randrange(256)):
            try:
                read(tmp_path / "model.bin", whole[:at] + bytes([value]) + whole[at + 1 :])
            except UserError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it ends 4 bytes early"),
        (b"\3" + written({})[1:], "its version is 3, supported are 4 to 6"),
        (written(SMALL) + b"\0", "1 bytes follow its end"),
        (written(SMALL, {"encoder/b": "encoder/a"}), "'encoder/b' is there twice"),
        (written(SMALL, {"x": "y"}), "'x' is an alias of 'y', which does not exist"),
        (written({"a": SMALL["encoder/b"]}).replace(b"\2\0a\0\0\1", b"\2\0a\0\0\5"), "'a' is of type 5"),
        (written({"a": SMALL["encoder/b"]}).replace(b"\2\0a\0\0", b"\2\0a\0\x09"), "'a' has 9 dimensions"),
        (written({"a": np.zeros(7, "<i1")}).replace(b"\7\0\0\0\1", b"\xff\xff\xff\xff\1"), r"shape \[4294967295\]"),
        (written({"a": SMALL["encoder/b"]}).replace(b"a\0", b"\xff\0"), "invalid start byte"),
    ],
)
def test_what_a_hostile_file_says_is_refused(tmp_path, data, why):
    with pytest.raises(UserError, match=why):
        read(tmp_path / "model.bin", data)


def test_a_model_that_is_no_file_is_refused(tmp_path):
    (tmp_path / "model.bin").mkdir()
    with pytest.raises(UserError, match="cannot be read as a model of CTranslate2: "):
        read_model(tmp_path / "model.bin")
