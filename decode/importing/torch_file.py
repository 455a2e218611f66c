"""Reads the weights in a file of torch.save, without running what may be in it. The only place that unpickles.

The pickle inside is looked through first: only the names that tensors need may occur, so that a file with code in it is
refused by the name of that code. torch.load then reads it with weights_only=True, which itself calls nothing else."""

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from model.errors import UserError

MAX_PICKLE_BYTES = 16_000_000  # names and shapes of some 100,000 tensors
STORAGES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
ALLOWED = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    *(f"torch.{kind}Storage" for kind in STORAGES),
}
NEVER_SAVED = {"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "DUP", "GET", "MEMOIZE"}
"""Opcodes that torch.save does not use. A tuple that is used twice is refused too: 60 of them, each of two of the one
before, take forever to hash."""
ADVICE = "give a file that torch.save wrote of a model's weights"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """{name: tensor} of a state dict; the tensors are mapped from the file, not read. UserError, in one line, for a
    file that cannot be read, is no zip file of torch.save, is compressed or too large, holds anything but tensors under
    names, or names code."""
    for name in _names_in_pickle(path):
        if name not in ALLOWED:
            raise UserError(
                f"{path} holds code, {name[:80]!r}, not weights alone; it was not run. {ADVICE.capitalize()}"
            )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    except Exception as error:  # UnpicklingError, RuntimeError, KeyError: whatever a damaged file leads to
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"{path} is damaged ({reason[:200]}); {ADVICE}") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} holds {type(content).__name__}, not weights by their names; {ADVICE}")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            under = repr(name[:80]) if isinstance(name, str) else f"a {type(name).__name__}"
            raise UserError(f"{path} holds {type(tensor).__name__} under {under}, not a weight; {ADVICE}")
        if tensor.numel() * tensor.element_size() > path.stat().st_size:  # strides of 0 make much of few bytes
            raise UserError(
                f"{path}: {name[:80]!r} has the shape {list(tensor.shape)}, more than the file holds; {ADVICE}"
            )
    return content


def _names_in_pickle(path: Path) -> Iterator[str]:
    """What the pickle in the file names, such as `posix.system`; nothing is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise UserError(f"{path} is compressed, as torch.save never writes it; {ADVICE}")
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise UserError(f"{path}: its parts are larger than the file; {ADVICE}")
            pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
            if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
                raise UserError(f"{path} has no data.pkl of at most {MAX_PICKLE_BYTES:,} bytes; {ADVICE}")
            content = archive.read(pickles[0])
        previous, tuples = "", set()
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "GLOBAL":
                yield str(argument).replace(" ", ".")
            elif opcode.name in NEVER_SAVED or (opcode.name in ("BINGET", "LONG_BINGET") and argument in tuples):
                yield opcode.name
            elif opcode.name in ("BINPUT", "LONG_BINPUT") and previous.startswith("TUPLE"):
                tuples.add(argument)
            previous = opcode.name
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; {ADVICE}") from None
    except zipfile.BadZipFile:
        raise UserError(f"{path} is no zip file, as torch.save writes since torch 1.6; {ADVICE}") from None
    except UserError:
        raise
    except Exception as error:  # of pickletools and zipfile, for damaged ones
        raise UserError(f"{path} is damaged ({error}); {ADVICE}") from None
