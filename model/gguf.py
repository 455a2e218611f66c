"""GGUF files (llama.cpp's) as Hugging Face folders, converted once and kept in a cache.

transformers reads the file and dequantises its weights to bfloat16. The folder is named by the sha256 of the file. It
is written by one process at a time, under a temporary name, then renamed; later uses of the file open that folder."""

import logging
import os
import shutil
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

from model.errors import TransientError, UserError
from model.files import CACHE, cache_path, file_sha256, saving_pretrained

MAGIC = b"GGUF"


def is_gguf(source: str) -> bool:
    """Whether `source` is the name of a GGUF file, which need not exist."""
    return source.lower().endswith(".gguf")


def gguf_cache() -> Path:
    """Where the folders are kept."""
    return cache_path() / "gguf"


def gguf_folder(source: str) -> Path:
    """The Hugging Face folder of an existing GGUF file, converted if necessary. UserError if it is not a GGUF file, is
    one part of a split model, has no tokenizer, or is of an architecture that transformers cannot load."""
    from filelock import FileLock  # comes with torch
    from safetensors import SafetensorError  # what its writer raises for a full disk

    file = Path(source).expanduser()
    try:
        with open(file, "rb") as opened:
            if opened.read(len(MAGIC)) != MAGIC:
                raise UserError(f"{source!r} is not a GGUF file; give one, or the folder of a Hugging Face model")
        status = file.stat()
        place = gguf_cache()
        folder = place / _sha256(file, status.st_size, status.st_mtime_ns)
        if folder.is_dir():
            return folder
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(place / f"{folder.name}.lock"):
            if not folder.is_dir():
                _make(source, file, folder)
    except (OSError, SafetensorError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or _line(error)
        failed = f"cannot read the GGUF file {source!r}, or write its folder in {gguf_cache()}"
        raise TransientError(f"{failed}: {reason}; check both, or set {CACHE}") from None
    return folder


@cache
def _sha256(file: Path, size: int, changed: int) -> str:
    return file_sha256(file)


def _make(source: str, file: Path, folder: Path) -> None:
    """Converts `file` into `folder`, which appears whole or not at all."""
    for left in folder.parent.glob(f"{folder.name}.*.tmp"):  # of a process that was killed
        shutil.rmtree(left)
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        convert(source, file, temporary, f"slam-asr: converting {source} into the Hugging Face folder {folder}")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_gguf_reader(source: str) -> None:
    """UserError unless the libraries that transformers needs for GGUF files are installed."""
    try:
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
    except ImportError:
        raise UserError(
            f"{source!r} is a GGUF file, which needs two libraries that are not installed: pip install 'slam-asr[gguf]'"
        ) from None


def _whole_fields(source: str, file: Path) -> dict[str, Any]:
    """The file's metadata. UserError unless the file holds a whole model with its tokenizer."""
    try:
        from gguf import GGUFReader

        fields = GGUFReader(file).fields
    except Exception as error:  # of a file cut short, anything from IndexError to MemoryError
        raise UserError(f"{source!r} is a damaged GGUF file ({_line(error)}); fetch it again") from None
    parts = int(fields["split.count"].contents()) if "split.count" in fields else 1
    if parts > 1:
        merge = "join them with `llama-gguf-split --merge`"
        raise UserError(f"{source!r} is one of {parts} parts of a split model, which is not supported; {merge}")
    if "tokenizer.ggml.tokens" not in fields:
        raise UserError(f"{source!r} is a GGUF file without a tokenizer; use one that has it")
    return fields


def convert(source: str, file: Path, out: Path, note: str = "") -> None:
    """Writes weights, configuration and tokenizer of a GGUF file into the new folder `out`; messages name `source`.
    `note` is printed before the minutes that this takes. UserError if transformers cannot load all of it."""
    require_gguf_reader(source)
    import torch
    from tqdm import tqdm
    from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils
    from transformers.utils.logging import disable_progress_bar
    from transformers.utils.quantization_config import GgufConfig

    fields, reader = _whole_fields(source, file), modeling_gguf_pytorch_utils
    if note:
        print(note, file=sys.stderr)
    vars(reader)["tqdm"] = partial(tqdm, disable=None)  # shows its progress bar on a terminal only
    disable_progress_bar()
    logging.getLogger("transformers.modeling_gguf_pytorch_utils").setLevel(logging.ERROR)
    options: dict[str, Any] = {"gguf_file": file.name, "dtype": torch.bfloat16, "output_loading_info": True}
    try:
        dequantised = GgufConfig(dequantize=True)
        loaded: Any = AutoModelForCausalLM.from_pretrained(str(file.parent), quantization_config=dequantised, **options)
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # transformers raises many types for architectures that it does not know
        advice = "give the Hugging Face folder of this model"
        raise UserError(f"transformers cannot read the GGUF file {source!r}: {_line(error)}; {advice}") from None
    model, info = loaded
    lacking = sorted({*info["missing_keys"], *map(str, info["mismatched_keys"])})
    if lacking:
        lacks = f"lacks weights of its own architecture: {', '.join(lacking[:3])} ..."
        raise UserError(f"the GGUF file {source!r} {lacks}; give the Hugging Face folder of this model")
    # The weights are not quantised any more; transformers refuses to save them while these attributes are set.
    model.hf_quantizer, model.is_quantized = None, False
    vars(model.config).pop("quantization_config", None)
    model.should_save_on_this_rank = lambda is_main_process: True  # by default on rank 0 only
    _correct(tokenizer, fields)
    tokenizer.model_max_length = model.config.max_position_embeddings
    with saving_pretrained():
        model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _correct(tokenizer: Any, fields: dict[str, Any]) -> None:
    """Gives the tokenizer the special tokens of the file: transformers 5.17 uses a Llama's BOS token as EOS too, and
    ignores whether BOS is prepended to texts."""
    from tokenizers.processors import TemplateProcessing

    def metadata(key: str) -> Any:
        field = fields.get(f"tokenizer.ggml.{key}")
        return None if field is None else field.contents()

    tokenizer.clean_up_tokenization_spaces = False  # True would be ignored, with a warning
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    for name, gguf_name in names.items():
        token_id = metadata(f"{gguf_name}_token_id")
        if token_id is not None:
            setattr(tokenizer, f"{name}_token", tokenizer.convert_ids_to_tokens(int(token_id)))
    add_bos = metadata("add_bos_token")
    if add_bos is None:  # llama.cpp's own rule
        add_bos = metadata("model") == "llama" or metadata("pre") in ("llama3", "llama-v3", "llama-bpe")
    if add_bos and tokenizer.encode("a")[:1] != [tokenizer.bos_token_id]:
        bos = (tokenizer.bos_token, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
