"""What a request for a transcript says: OpenAI's form fields, checked, and the recording."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from typing import Any, BinaryIO

from starlette.datastructures import UploadFile
from starlette.requests import Request

from decode.serving.connections import Refusal
from model.errors import hint

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
STREAMED = ("json", "text", "verbose_json")
FIELDS = ("file", "model", "response_format", "stream", "language", "prompt", "temperature")
FIELDS += ("timestamp_granularities[]", "timestamp_granularities", "chunking_strategy")
MOST_FIELDS = 20


class Upload:
    """An uploaded recording, in a temporary file without a name, which is gone when it is closed."""

    def __init__(self, file: UploadFile) -> None:
        self._file: Any = file.file
        self._path = f"/proc/self/fd/{self._file.fileno()}"
        self._file.flush()

    def open(self) -> BinaryIO:
        """A new reader, at the start."""
        reader = FileIO(self._path, "rb")
        reader.name = "IN"  # in messages: the number of a file of the server's says nothing to a client
        return reader

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class Asked:
    """A checked request."""

    upload: Upload
    format: str
    stream: bool
    language: str


async def read_request(request: Request, model: str) -> Asked:
    """The form of a request for the model named `model`. Refusal 400, 404, 408, 413, 415 or 503."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Refusal(
            415,
            f"the content type is {repr(kind[:80]) if kind else 'missing'}, expected multipart/form-data with a file",
        )
    try:
        form = await request.form(max_files=1, max_fields=MOST_FIELDS, max_part_size=10_000)
        try:
            return _checked(form, form.multi_items(), model)
        except (Refusal, OSError):
            await form.close()
            raise
    except OSError as error:  # of the temporary file
        raise Refusal(503, f"the server cannot store the upload: {error.strerror}; try again", None, 30) from None


def _checked(form: Mapping[str, Any], items: list[tuple[str, Any]], model: str) -> Asked:
    for name, _ in items:
        if name not in FIELDS:
            raise Refusal(400, f"unknown field {name[:80]!r}{hint(name[:80], FIELDS)}", name[:80])
    texts = {name: value.strip() for name, value in items if isinstance(value, str)}
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise Refusal(400, "there is no file; send the recording as the field `file`, with a file name", "file")
    if not file.size:
        raise Refusal(400, "the file is empty", "file")
    if texts.get("model", model) not in (model, ""):
        known = f"model {texts['model'][:80]!r} is not served here; ask for {model!r}"
        raise Refusal(404, known, "model", 0, "model_not_found")
    format = texts.get("response_format") or "json"
    if format not in FORMATS:
        raise Refusal(
            400, f"response_format is {format[:80]!r}, expected one of {', '.join(FORMATS)}", "response_format"
        )
    stream = texts.get("stream", "false").lower()
    if stream not in ("true", "false", "1", "0", ""):
        raise Refusal(400, f"stream is {stream[:80]!r}, expected true or false", "stream")
    streamed = stream in ("true", "1")
    if streamed and format not in STREAMED:
        raise Refusal(400, f"{format} cannot be streamed; ask for {', '.join(STREAMED)}, or without stream", "stream")
    _require_possible(texts, items)
    return Asked(Upload(file), format, streamed, texts.get("language", ""))


def _require_possible(texts: Mapping[str, str], items: list[tuple[str, Any]]) -> None:
    """Refusal 400 for what would change the transcript, and cannot."""
    if texts.get("prompt"):
        raise Refusal(400, "prompt cannot be given: the model was trained with one of its own; leave it out", "prompt")
    try:
        warm = float(texts.get("temperature") or 0) != 0
    except ValueError:
        warm = True
    if warm:
        raise Refusal(400, "temperature must be 0: the most likely transcript is searched for", "temperature")
    for name, value in items:  # several of one name are allowed
        if name.startswith("timestamp_granularities") and value not in ("segment", ""):
            raise Refusal(400, f"{name} is {str(value)[:80]!r}; only `segment` is there", name)
    if texts.get("chunking_strategy", "auto") not in ("auto", ""):
        raise Refusal(400, "chunking_strategy must be auto: recordings are cut at silences", "chunking_strategy")
    if len(texts.get("language", "")) > 20:
        raise Refusal(400, "language must be a code such as en", "language")
