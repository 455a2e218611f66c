"""Uploads an export to the Hugging Face hub: one commit of the export's own files, private unless told otherwise."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from decode.export.adapter import README
from model import weights
from model.errors import TransientError, UserError

OWN = re.compile(  # paths of the files that exports of all formats have
    r"README\.md|origin\.json|adapter\.(json|safetensors)|lora\.safetensors"
    r"|lora/adapter_(config\.json|model\.safetensors)"
    r"|((llm|encoder)/)?[\w-]*(config|tokenizer|token|tokens|vocab|index|map)[\w.-]*\.json"
    r"|((llm|encoder)/)?(merges\.txt|vocab\.txt|chat_template\.jinja|[\w-]+\.model)"
    r"|(llm|encoder)/(model[\w.-]*\.safetensors(\.index\.json)?|\w+\.py)"
    r"|slam_asr/[\w/]+\.py"
)


def push(folder: str | Path, repo_id: str, public: bool = False) -> str:
    """Uploads the export in `folder` to the model repository `repo_id`, which is made, private unless `public`, if it
    is not there; returns its address. Files of an earlier export that this one lacks are removed, in the same commit;
    files that no export has are left.

    The endpoint and the token are huggingface_hub's usual ones (HF_ENDPOINT, HF_TOKEN, `hf auth login`). UserError, and
    nothing is uploaded, for a folder that is no whole export, for files that do not belong to it, without a token, for
    a repository that is public although `public` is not given, and where the hub refuses."""
    folder = Path(folder)
    paths = own_files(folder)
    with _refusals(repo_id):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

        if get_token() is None:
            raise UserError("there is no token for the Hugging Face hub; set HF_TOKEN, or run `hf auth login`")
        api = HfApi()
        repo_id = api.create_repo(repo_id, private=not public, exist_ok=True).repo_id
        stored = api.model_info(repo_id)
        if not stored.private and not public:
            raise UserError(f"{repo_id} is a public repository; give --public to upload to it all the same, or another")
        old = [file.rfilename for file in stored.siblings or []]
        operations: list[Any] = [CommitOperationAdd(path, folder / path) for path in paths]
        operations += [CommitOperationDelete(path) for path in old if OWN.fullmatch(path) and path not in paths]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of README.md without metadata for the hub
            api.create_commit(repo_id, operations, commit_message="Upload an adapter of slam-asr")
    return f"{api.endpoint}/{repo_id} ({'private' if stored.private else 'public'})"


def own_files(folder: Path) -> list[str]:
    """The paths of the export's files, relative to it. UserError unless it is a whole export, and nothing else."""
    try:
        weights.read_adapter(folder)
    except UserError as error:
        raise UserError(f"{str(folder)!r} is no export of slam-asr that can be uploaded: {error}") from None
    paths = []
    for place, folders, names in os.walk(folder):
        for name in sorted(names + [one for one in folders if os.path.islink(os.path.join(place, one))]):
            path = os.path.relpath(os.path.join(place, name), folder)
            if os.path.islink(folder / path) or not OWN.fullmatch(path):
                advice = "upload a folder that slam-asr export wrote, as it wrote it"
                raise UserError(f"{str(folder)!r} holds {path!r}, which is no file of an export; {advice}")
            paths.append(path)
    if README not in paths:
        raise UserError(f"{str(folder)!r} has no {README}; upload a folder that slam-asr export wrote")
    return sorted(paths)


@contextmanager
def _refusals(repo_id: str) -> Iterator[None]:
    """Whatever the hub and its library raise, as one line."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} is no name of a repository; give OWNER/NAME ({_line(error)})") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        reasons = {
            401: "the hub does not know the token (401); run `hf auth login`, or set HF_TOKEN",
            403: f"the token may not write to {repo_id!r} (403); give one with write access, or another repository",
        }
        kind = TransientError if status >= 500 else UserError
        raise kind(
            reasons.get(status, f"the hub refused the upload to {repo_id!r} ({status}): {_line(error)}")
        ) from None
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it") from None
    except (httpx.HTTPError, ConnectionError) as error:
        from huggingface_hub import constants

        reached = f"the hub at {constants.ENDPOINT} cannot be reached"
        raise TransientError(f"{reached} ({_line(error)}); nothing was changed there, try again") from None


def _line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)[
        :200
    ]
