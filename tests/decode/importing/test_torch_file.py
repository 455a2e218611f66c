"""A file of torch.save gives its tensors; anything else is one line, and runs nothing."""

import os
import struct
import zipfile

import pytest
import torch

from decode.importing.torch_file import read_tensors
from model.errors import UserError

NESTED = b"\x80\x02})q\x00" + b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(60)) + b"K\x01s."
"""A key of a tuple of two tuples of two tuples ..., 60 deep."""


def test_the_tensors_of_a_state_dict(tmp_path):
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    torch.save(weights | {"tied": weights["a"]}, tmp_path / "model.pt")
    found = read_tensors(tmp_path / "model.pt")
    assert found.keys() == {"a", "b", "tied"} and torch.equal(found["a"], weights["a"])
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "model.pt")
    assert read_tensors(tmp_path / "model.pt").keys() == {"weight", "bias"}


class Code:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_file_is_refused_and_not_run(tmp_path):
    torch.save({"encoder_projector.linear1.weight": Code(tmp_path / "ran")}, tmp_path / "model.pt")
    with pytest.raises(
        UserError, match=r"holds code, '(posix|nt).system', not weights alone; it was not run"
    ) as refused:
        read_tensors(tmp_path / "model.pt")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()


def archive(path, pickle=b"\x80\x02}.", compression=zipfile.ZIP_STORED, **more):
    with zipfile.ZipFile(path, "w", compression) as made:
        made.writestr("archive/data.pkl", pickle)
        for name, data in more.items():
            made.writestr(f"archive/{name}", data)
    return path


def test_files_that_are_no_weights_are_one_line(tmp_path):
    path = tmp_path / "model.pt"
    cases = {
        "is no zip file": lambda: path.write_bytes(b"\x80\x02}." * 10),
        "is compressed, as torch.save never": lambda: archive(path, compression=zipfile.ZIP_DEFLATED, x=bytes(10**6)),
        "has no data.pkl of at most": lambda: archive(path, bytes(16_000_001)),
        "holds dict, not weights by their names": lambda: torch.save({}, path),
        "holds list, not weights": lambda: torch.save([torch.zeros(1)], path),
        "holds int under 'epoch', not a weight": lambda: torch.save({"epoch": 3}, path),
        "shape \\[1000000, 1000000\\], more than": lambda: torch.save({"w": torch.zeros(1).expand(10**6, 10**6)}, path),
        "holds code, 'STACK_GLOBAL'": lambda: archive(path, b"\x80\x04\x8c\x05posix\x8c\x06system\x93."),
        "holds code, 'builtins.bytearray'": lambda: archive(path, b"\x80\x02cbuiltins\nbytearray\nK\x01\x85R."),
        "holds code, 'BINGET'": lambda: archive(path, NESTED),
        "holds code, 'DUP'": lambda: archive(path, b"\x80\x02}" + b")" + b"2\x86" * 60 + b"K\x01s."),
        "is damaged": lambda: archive(path, b"\x80\x02}X\xff\xff\xff\xff."),
        "cannot be read: No such file": path.unlink,
    }
    for message, make in cases.items():
        make()
        with pytest.raises(UserError, match=message) as refused:
            read_tensors(path)
        assert "\n" not in str(refused.value)
    torch.save({"w": torch.ones(1000)}, path)
    whole = path.read_bytes()
    sizes = whole.replace(struct.pack("<II", 4000, 4000), struct.pack("<II", 2**31, 2**31))
    for damaged in (whole[: len(whole) // 2], sizes):
        path.write_bytes(damaged)
        with pytest.raises(UserError):
            read_tensors(path)
