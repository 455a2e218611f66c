"""Asks the Hugging Face hub once, with a short timeout, whether it has a model, before transformers asks for each file.

huggingface_hub tries a request five times, for half a minute, for each file that is not cached, even if there is no
such model or no network. Downloads keep their retries.
"""

from pathlib import Path

from model.errors import UserError
from model.loading.pretrained import local_folder

TIMEOUT_SECONDS = 5.0


class ModelNotFound(UserError):
    """There is no such model: no folder, nothing in the cache, nothing on the hub that can be reached."""


def place_to_open(what: str, source: str) -> str:
    """What `from_pretrained` can open: the folder, the hub id, or its folder in the cache if the hub lacks it.

    ModelNotFound, within seconds, if there is none.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return str(folder)
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
        get_hf_file_metadata(hf_hub_url(source, "config.json"), timeout=TIMEOUT_SECONDS)
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
