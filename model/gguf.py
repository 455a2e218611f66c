"""GGUF files (llama.cpp's) as Hugging Face folders, made once and kept in a cache.

transformers reads the file and expands its weights to bfloat16. The folder is named by the sha256 of the file, made
under another name and renamed, by one process at a time; whoever opens the file afterwards opens that folder."""

import logging
import os
import shutil
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

from model.errors import TransientError, UserError
from model.files import file_sha256, saving_pretrained

MAGIC = b"GGUF"
FOLDER = "SLAM_ASR_CACHE"  # environment; the cache of data_prep/shards/cache.py


def is_gguf(source: str) -> bool:
    """Whether it names a GGUF file, which need not be there."""
    return source.lower().endswith(".gguf")


def gguf_cache() -> Path:
    """Where the folders are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(FOLDER) or os.path.join(home, "slam-asr")).expanduser() / "gguf"


def gguf_folder(source: str) -> Path:
    """The Hugging Face folder of a GGUF file that is there, made if need be. UserError for what is no GGUF file, one of
    several files, without a tokenizer, or of an architecture that transformers does not read."""
    from filelock import FileLock  # comes with torch
    from safetensors import SafetensorError  # what its writer raises for a full disk

    file = Path(source).expanduser()
    try:
        with open(file, "rb") as opened:
            if opened.read(len(MAGIC)) != MAGIC:
                raise UserError(f"{source!r} is no GGUF file; give one, or the folder of a Hugging Face model")
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
        failed = f"cannot read the GGUF file {source!r}, or keep it as a folder in {gguf_cache()}"
        raise TransientError(f"{failed}: {reason}; check both, or set {FOLDER}") from None
    return folder


@cache
def _sha256(file: Path, size: int, changed: int) -> str:
    return file_sha256(file)


def _make(source: str, file: Path, folder: Path) -> None:
    """The folder, under its own name once it is whole."""
    for left in folder.parent.glob(f"{folder.name}.*.tmp"):  # of a process that was killed
        shutil.rmtree(left)
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        convert(source, file, temporary, f"slam-asr: {source} is kept as a Hugging Face folder in {folder}")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_gguf_reader(source: str) -> None:
    """UserError unless what transformers reads GGUF files with is installed."""
    try:
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
    except ImportError:
        raise UserError(
            f"{source!r} is a GGUF file, which needs two libraries that are not installed: pip install 'slam-asr[gguf]'"
        ) from None


def _whole_fields(source: str, file: Path) -> dict[str, Any]:
    """The file's metadata. UserError unless it has all of a model, its tokenizer included."""
    from gguf import GGUFReader

    try:
        fields = GGUFReader(file).fields
    except Exception as error:  # of a file cut short, anything from IndexError to MemoryError
        raise UserError(f"{source!r} is a damaged GGUF file ({_line(error)}); fetch it again") from None
    parts = int(fields["split.count"].contents()) if "split.count" in fields else 1
    if parts > 1:
        merge = "`llama-gguf-split --merge` makes one file of them"
        raise UserError(f"{source!r} is one of {parts} files that make one model, which are not read; {merge}")
    if "tokenizer.ggml.tokens" not in fields:
        raise UserError(f"{source!r} is a GGUF file without a tokenizer; use one that has it")
    return fields


def convert(source: str, file: Path, out: Path, note: str = "") -> None:
    """Writes weights, configuration and tokenizer of a GGUF file into the new folder `out`; messages name `source`.
    `note` is printed before the minutes that this takes. UserError for what transformers does not read whole."""
    require_gguf_reader(source)
    import torch
    from tqdm import tqdm
    from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils
    from transformers.utils.logging import disable_progress_bar
    from transformers.utils.quantization_config import GgufConfig

    fields, reader = _whole_fields(source, file), modeling_gguf_pytorch_utils
    if note:
        print(note, file=sys.stderr)
    vars(reader)["tqdm"] = partial(tqdm, disable=None)  # its bar is for a terminal only
    disable_progress_bar()
    logging.getLogger("transformers.modeling_gguf_pytorch_utils").setLevel(logging.ERROR)
    options: dict[str, Any] = {"gguf_file": file.name, "dtype": torch.bfloat16, "output_loading_info": True}
    try:
        expanded = GgufConfig(dequantize=True)
        loaded: Any = AutoModelForCausalLM.from_pretrained(str(file.parent), quantization_config=expanded, **options)
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever the library raises for what it does not know
        advice = "give the Hugging Face folder of this model"
        raise UserError(f"transformers cannot read the GGUF file {source!r}: {_line(error)}; {advice}") from None
    model, info = loaded
    lacking = sorted({*info["missing_keys"], *map(str, info["mismatched_keys"])})
    if lacking:
        lacks = f"lacks weights of its own architecture: {', '.join(lacking[:3])} ..."
        raise UserError(f"the GGUF file {source!r} {lacks}; give the Hugging Face folder of this model")
    # Ordinary weights from here on, which transformers would not save as long as it takes them for blocks.
    model.hf_quantizer, model.is_quantized = None, False
    vars(model.config).pop("quantization_config", None)
    model.should_save_on_this_rank = lambda is_main_process: True  # by itself on rank 0 alone
    _correct(tokenizer, fields)
    tokenizer.model_max_length = model.config.max_position_embeddings
    with saving_pretrained():
        model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _correct(tokenizer: Any, fields: dict[str, Any]) -> None:
    """Gives the tokenizer the special tokens of the file: transformers 5.17 makes a Llama's begin of sequence its end
    too, and leaves out whether texts begin with it."""
    from tokenizers.processors import TemplateProcessing

    def stated(key: str) -> Any:
        field = fields.get(f"tokenizer.ggml.{key}")
        return None if field is None else field.contents()

    tokenizer.clean_up_tokenization_spaces = False  # which it ignores, with a warning
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    for ours, theirs in names.items():
        number = stated(f"{theirs}_token_id")
        if number is not None:
            setattr(tokenizer, f"{ours}_token", tokenizer.convert_ids_to_tokens(int(number)))
    add_bos = stated("add_bos_token")
    if add_bos is None:  # llama.cpp's own rule
        add_bos = stated("model") == "llama" or stated("pre") in ("llama3", "llama-v3", "llama-bpe")
    if add_bos and tokenizer.encode("a")[:1] != [tokenizer.bos_token_id]:
        begin = (tokenizer.bos_token, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
