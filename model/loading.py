"""Opens pretrained models: a folder, the Hugging Face cache or the hub, strictly, with one-line errors.

A model is loaded in its stored dtype, fingerprinted, then cast, so that its fingerprint does not depend on the dtype.

The hub is asked once, with a short timeout, whether it has a model: huggingface_hub tries a request five times, for
half a minute, for each file that is not cached, even if there is no such model or no network."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.errors import UserError
from model.files import file_sha256
from model.gguf import gguf_folder, is_gguf

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HUB_TIMEOUT_SECONDS = 5.0


class ModelNotFound(UserError):
    """There is no such model: no folder, nothing in the cache, nothing on the hub that can be reached."""


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is cuda if torch finds a GPU and DS_ACCELERATOR is not cpu, else the CPU. UserError if it is not here."""
    if name == "auto":
        use_gpu = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"
        return torch.device("cuda" if use_gpu else "cpu")
    try:
        device = torch.device(name)
        if device.type != "cpu":
            torch.zeros(1, device=device)
        return device
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"device {name!r} is not on this machine; use auto, cpu or one that is") from None


def choose_dtype(name: str, device: torch.device | str) -> torch.dtype:
    """The dtype of frozen weights. `auto` is bfloat16 on a GPU that computes it natively, else float32."""
    if name != "auto":
        if name not in DTYPES:
            raise UserError(f"unknown dtype {name!r}; known: auto, {', '.join(DTYPES)}")
        return DTYPES[name]
    on_gpu = torch.device(device).type == "cuda"
    return torch.bfloat16 if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32


def cpu_has(half: str) -> bool:
    """Whether this CPU, an x86, multiplies matrices of `half`, "bfloat16" or "float16", by instructions of its own."""
    short, able = {"bfloat16": "bf16", "float16": "fp16"}[half], torch.cpu.get_capabilities()
    return bool(able.get(f"avx512_{short}") or able.get(f"amx_{short}"))


def slow_dtype(name: str, device: torch.device) -> str:
    """That the CPU computes the dtype slowly; else empty. 4.7 times as slowly as float32 on an AMD EPYC."""
    slow = name == "float16" and device.type == "cpu" and not cpu_has("float16")
    return "this CPU computes float16 several times more slowly than float32" if slow else ""


def open_pretrained(
    auto_class: Any,
    what: str,
    source: str,
    place: str,
    trust_remote_code: bool,
    may_miss: tuple[str, ...] = (),
    more: dict[str, Any] | None = None,
) -> Any:
    """`auto_class.from_pretrained(place)`, frozen, in the stored dtype; UserError if the checkpoint lacks weights.

    `place` is from `place_to_open`; messages name `source`. `may_miss`: suffixes of weights that inference never
    uses; missing ones are zero, so that the fingerprint of a checkpoint is always the same. `more`: further arguments
    of from_pretrained."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    downloads_shown = not are_progress_bars_disabled()
    disable_progress_bar()  # of reading weights from disk; it disables those of downloads too
    if downloads_shown:
        enable_progress_bars()
    with loading(what, source):
        options = {"dtype": "auto", "trust_remote_code": trust_remote_code, "output_loading_info": True}
        model, info = auto_class.from_pretrained(place, **options, **(more or {}))
    missing = [name for name in info["missing_keys"] if not name.endswith(may_miss)]
    if missing or info["mismatched_keys"]:
        wrong = sorted(missing)[:3] or [str(key) for key in list(info["mismatched_keys"])[:3]]
        lacks = f"lacks weights of its own architecture: {', '.join(wrong)} ..."
        raise UserError(f"{what} {source!r} {lacks}; use a whole checkpoint")
    freeze(model)
    for name in info["missing_keys"]:
        model.get_parameter(name).zero_()
    return model


@contextmanager
def loading(what: str, source: str, advice: str = "") -> Iterator[None]:
    """Turns whatever the libraries raise for a wrong folder or id into a UserError of one line, ending in `advice`."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # anything from OSError to TypeError
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "trust_remote_code" in str(error):
            advice = "it comes with its own code; set model.trust_remote_code: true only if you trust it"
        elif not advice and Path(source).expanduser().is_dir():
            advice = "the folder needs config.json, safetensors weights and, of an LLM, a tokenizer"
        advice = advice or f"give a local folder, or fetch it first with `hf download {source}`"
        raise UserError(f"cannot load the {what} {source!r}: {reason}; {advice}") from error


def kind_of(model_type: str) -> str:
    """What config.json's `model_type` is: "a speech model", "an LLM", or "a model of another kind"."""
    from transformers.models.auto import modeling_auto as auto

    speech = (auto.MODEL_FOR_CTC_MAPPING_NAMES, auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES)
    if any(model_type in names for names in (*speech, auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES)):
        return "a speech model"
    return "an LLM" if model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else "a model of another kind"


def freeze(module: Any) -> Any:
    """The module in eval mode, without gradients."""
    return module.eval().requires_grad_(False)


def place_to_open(what: str, source: str) -> str:
    """A place that `from_pretrained` can open: the folder, the converted folder of a GGUF file, the hub id, or its
    folder in the cache if the hub does not have it. ModelNotFound, within seconds, if there is none."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return str(folder)
    if is_gguf(source):
        if what != "LLM":
            raise UserError(f"{source!r} is a GGUF file, which holds an LLM; give the {what} as a folder or a hub id")
        if not folder.is_file():
            raise ModelNotFound(f"cannot load the LLM {source!r}: there is no such file; give a GGUF file or a folder")
        return str(gguf_folder(source))
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise ModelNotFound(f"cannot load the {what} {source!r}: there is no such folder; give a folder or a hub id")
    reason = why_not_on_hub(source)
    if not reason:
        return source
    cached = local_folder(source)
    if cached is not None and (cached / "config.json").is_file():
        return str(cached)
    raise ModelNotFound(
        f"cannot load the {what} {source!r}: there is no such folder, it is not in the cache, and {reason}; check the "
        f"name, give a local folder, or fetch it first with `hf download {source}`"
    )


def why_not_on_hub(source: str) -> str:
    """Why the hub cannot give this id; empty if it can, or if one answer does not settle it."""
    import httpx
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        validate_repo_id(source)
        get_hf_file_metadata(hf_hub_url(source, "config.json"), timeout=HUB_TIMEOUT_SECONDS)
    except HFValidationError:
        return "it is not a valid hub id"
    except HfHubHTTPError as error:
        status, code = error.response.status_code, error.response.headers.get("X-Error-Code")
        if status in (401, 404) and code in (None, "RepoNotFound"):  # others: gated, overloaded ...
            return f"{constants.ENDPOINT} has no such model (HTTP {status}), or it is private and needs `hf auth login`"
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        return f"{constants.ENDPOINT} cannot be reached ({' '.join(str(error).split()) or 'timeout'})"
    except httpx.TransportError:  # slow, or it hung up
        pass
    return ""


def local_folder(source: str) -> Path | None:
    """The folder of a folder, GGUF file or hub id on this machine; None if there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if is_gguf(source):
        return gguf_folder(source) if folder.is_file() else None
    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def files_digest(source: str) -> str | None:
    """sha256 over names and contents of a checkpoint's configuration and weights files; None if they are not on this
    machine. Other files may hold the same weights: only equal digests say much."""
    folder = local_folder(source)
    files = [path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin")] if folder else []
    if all(path.suffix == ".json" for path in files):
        return None
    return _digest_of_all(lambda path: path.name.encode() + b" " + bytes.fromhex(file_sha256(path)), sorted(files))


def fingerprint(module: nn.Module) -> str:
    """sha256 over name, dtype, shape and bytes of every parameter and stored buffer; 1.5 GB/s and core."""
    stored = module.state_dict().keys()
    buffers = [(name, buffer) for name, buffer in module.named_buffers() if name in stored]

    def digest(item: tuple[str, torch.Tensor]) -> bytes:
        name, tensor = item
        header = f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        return hashlib.sha256(header + hashlib.sha256(data.data).digest()).digest()

    return _digest_of_all(digest, sorted([*module.named_parameters(), *buffers]))


def _digest_of_all(digest: Callable[[Any], bytes], items: Iterable[Any]) -> str:
    """sha256 (hex) over the digests of all items, computed in threads."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return hashlib.sha256(b"".join(pool.map(digest, items))).hexdigest()
