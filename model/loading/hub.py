"""Whether a model is on this machine or on the Hugging Face hub, asked once before transformers asks for every file.

huggingface_hub tries a request five times, for half a minute, for each file that is not in its cache: also where there
is no such model, or no network. One request with a short timeout comes first, then transformers gets a place that it
can open; downloads keep their retries.
"""

from pathlib import Path

from model.errors import UserError
from model.loading.pretrained import local_folder

TIMEOUT_SECONDS = 5.0


class ModelNotFound(UserError):
    """There is no such model: no folder, nothing in the cache, nothing on the hub that can be reached."""


def place_to_open(what: str, source: str) -> str:
    """What `from_pretrained` shall open for a folder or a hub id: the folder, the id, or the id's folder in the cache
    where the hub does not answer for it.

    ModelNotFound, in a few seconds, where it is nowhere.
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
    """Why the hub cannot give this id; empty where it can, or where one answer does not settle it."""
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
        return "it has not the form of a hub id"
    except HfHubHTTPError as error:
        status, code = error.response.status_code, error.response.headers.get("X-Error-Code")
        if status not in (401, 404) or code not in (None, "RepoNotFound"):
            return ""  # gated, overloaded ...: transformers' own attempts and messages are right there
        return f"{constants.ENDPOINT} has no such model (HTTP {status}), or it is private and needs `hf auth login`"
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        return f"{constants.ENDPOINT} cannot be reached ({' '.join(str(error).split()) or 'timeout'})"
    except httpx.TransportError:  # it is slow, or hung up on us
        return ""
    return ""
