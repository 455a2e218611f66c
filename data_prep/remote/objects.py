"""Bytes at addresses (`s3://bucket/key`, `https://...`), through fsspec; retries.py decides what is tried again.

One filesystem object a process comes from fsspec's own cache, which is emptied after a fork; threads share it.
Directory listings are not cached: objects that another machine has just written must be seen."""

import importlib.util
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from shutil import disk_usage
from typing import Any
from urllib.parse import urlsplit

from data_prep.addresses import REMOTE, without_secrets
from data_prep.durable import replacing
from data_prep.progress import Progress, Silent
from data_prep.retries import Forbidden, Missing, RemoteError, persistently, status_of
from model.errors import UserError

PIECE_BYTES = 16 << 20  # of a download: one request
PARALLEL_PIECES = 4  # requests at a time: a single connection to object storage gives 50 to 100 MB/s
PARALLEL_SIZES, MANY_SIZES = 32, 1000  # requests at a time; from this number on, progress is shown
NO_RANGES_BYTES = 64 << 20  # largest file that is read from a web server without ranges
DOCUMENT_BYTES = 1 << 30  # largest object that is read whole
CONNECT_SECONDS, ANSWER_SECONDS = 10, 30
WEB_SECONDS = 600  # for one answer of a web server: 16 MB in pieces of a few bytes would else never end
NEEDS = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}  # scheme: the package that reads it


def require_bare(address: str) -> str:
    """The address of a dataset, which is written to logs and files. UserError for one with a password or a query."""
    if not urlsplit(address).netloc:
        raise UserError(f"{address[:80]!r} names no bucket or host; give one, as in s3://bucket/folder")
    if without_secrets(address) != address:
        problem = "give it without user, password, '?' and '#'; credentials belong in the environment"
        raise UserError(f"{without_secrets(address)}: {problem}")
    return address


def require_writable(address: str) -> str:
    """The address, which can be written to by its kind. UserError for http addresses, and as `require_bare`."""
    if address.startswith("http"):
        raise UserError(f"{without_secrets(address)}: http cannot be written to; give a folder, s3:// or gs://")
    return require_bare(address)


def read_bytes(url: str, first: int = 0, length: int | None = None) -> bytes:
    """All bytes from `first` on, or `length` of them; fewer where the object ends before. RemoteError for all bytes of
    an object that has more than DOCUMENT_BYTES."""
    parts: list[bytes] = []
    most = DOCUMENT_BYTES + 2 * PIECE_BYTES if length is None else length
    for start in range(0, most, PIECE_BYTES):
        if length is None and start > DOCUMENT_BYTES:
            raise _error(url, f"it has more than {DOCUMENT_BYTES:,} bytes; check the address")
        wanted = min(PIECE_BYTES, most - start)
        parts.append(_read(url, first + start, wanted))
        if len(parts[-1]) < wanted:
            break
    return parts[0] if len(parts) == 1 else b"".join(parts)


def size(url: str) -> int:
    """Bytes of the object, -1 where there is none. RemoteError for a web server that does not state it."""
    try:
        info = _ask(url, lambda filesystem, path: filesystem.info(path))
    except Missing:
        return -1
    if info["type"] == "file" and info["size"] is None:
        raise _error(url, "the server does not say how many bytes it has; copy it to a disk")
    return int(info["size"]) if info["type"] == "file" else -1


def sizes(urls: Sequence[str]) -> list[int]:
    """Of each; -1 also where access is refused, as some storage calls what is missing, unless it is so for all."""

    def size_or_refusal(url: str) -> int | Forbidden:
        try:
            return size(url)
        except Forbidden as error:
            return error

    answers: list[int | Forbidden] = []
    progress_of = Progress if len(urls) >= MANY_SIZES else Silent
    with ThreadPoolExecutor(PARALLEL_SIZES) as pool, progress_of(len(urls), "objects", "ask sizes") as progress:
        for answer in pool.map(size_or_refusal, urls):
            answers.append(answer)
            progress.advance()
    refusals = [answer for answer in answers if isinstance(answer, Forbidden)]
    if refusals and len(refusals) == len(answers):
        raise refusals[0]
    return [-1 if isinstance(answer, Forbidden) else answer for answer in answers]


def pieces(url: str, total: int) -> Iterator[bytes]:
    """The first `total` bytes in order, read by several requests at a time; ends early where the object does."""
    starts = iter(range(0, total, PIECE_BYTES))
    pool, coming = ThreadPoolExecutor(PARALLEL_PIECES), deque[Future[bytes]]()
    try:
        while True:
            for start in islice(starts, PARALLEL_PIECES - len(coming)):
                coming.append(pool.submit(_read, url, start, min(PIECE_BYTES, total - start)))
            piece = coming.popleft().result() if coming else b""
            if not piece:
                return
            yield piece
    finally:
        pool.shutdown(cancel_futures=True)


def download(url: str, path: Path) -> int:
    """The object as the file `path`, which appears whole or not at all; returns its bytes. Missing if there is none."""
    total = size(url)
    if total < 0:
        raise Missing(2, f"there is no {without_secrets(url)}; check the address")
    if total > (free := disk_usage(path.parent).free):
        raise _error(url, f"it has {total:,} bytes, the disk of {path.parent} {free:,} free ones")
    with replacing(path) as file:
        written = sum(file.write(piece) for piece in pieces(url, total))
        if written != total:
            raise _error(url, f"{written:,} bytes came of {total:,}; it was changed meanwhile, try again")
    return total


def upload(path: Path, url: str) -> None:
    """The file as the object, whose size is checked afterwards (S3 also checks the CRC that botocore sends)."""
    _ask(require_writable(url), lambda filesystem, there: filesystem.put_file(str(path), there))
    _require_size(url, path.stat().st_size)


def write_bytes(url: str, data: bytes) -> None:
    """The bytes as the object."""
    _ask(require_writable(url), lambda filesystem, there: filesystem.pipe_file(there, data))
    _require_size(url, len(data))


def remove(url: str) -> None:
    """Also where there is none."""
    with suppress(Missing):
        _ask(require_writable(url), lambda filesystem, there: filesystem.rm_file(there))


def listing(url: str) -> list[str]:
    """Sorted names of the objects directly under the address; none where there is nothing."""
    try:
        paths = _ask(url, lambda filesystem, path: filesystem.ls(path, detail=False))
    except Missing:
        return []
    return sorted({str(path).rstrip("/").rpartition("/")[2] for path in paths})


def _ask(url: str, request: Callable[[Any, str], Any]) -> Any:
    """The answer to `request(filesystem, path)`, which is repeated while it may help."""
    filesystem, path = _filesystem(url)
    return persistently(lambda: request(filesystem, path), url)


def _read(url: str, first: int, length: int) -> bytes:
    """Up to `length` bytes from `first` on, by one request."""

    def request(filesystem: Any, path: str) -> bytes:
        try:
            if url.startswith("http"):
                from fsspec.asyn import sync

                data: Any = sync(filesystem.loop, _web_range, filesystem, path, first, length)
                return data
            return _at_most(length, filesystem.cat_file(path, start=first, end=first + length), url)
        except Exception as error:
            if status_of(error) == 416:  # the object ends before `first`
                return b""
            raise

    return _ask(url, request)


async def _web_range(filesystem: Any, url: str, first: int, length: int) -> bytes:
    """As `_read`. fsspec's own would read whatever a server sends, also the whole of a file without ranges. Compressed
    answers are refused: a few bytes could become any number of them."""

    async def body(most: int) -> bytes:
        data = bytearray()
        while len(data) < most and (piece := await response.content.read(most - len(data))):
            data += piece
        return bytes(data)

    session = await filesystem.set_session()
    headers = {"Range": f"bytes={first}-{first + length - 1}", "Accept-Encoding": "identity"}
    async with session.get(filesystem.encode_url(url), headers=headers) as response:
        response.raise_for_status()
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _error(url, "the server sends it compressed; ask for it to be sent as it is")
        if response.status == 206:
            stated = response.headers.get("Content-Range", "")
            if not stated.startswith(f"bytes {first}-"):
                raise _error(url, f"asked for byte {first:,}, the server sends {stated[:40]!r}")
            return _at_most(length, await body(length + 1), url)
        if response.content_length is None or response.content_length > NO_RANGES_BYTES:
            limit = f"{NO_RANGES_BYTES >> 20} MB"
            raise _error(url, f"the server gives no ranges, so no file over {limit} is read from it")
        return (await body(NO_RANGES_BYTES))[first : first + length]


def _at_most(length: int, data: bytes, url: str) -> bytes:
    if len(data) > length:
        raise _error(url, f"asked for {length:,} bytes, the server sends more; check the address")
    return data


def _filesystem(url: str) -> tuple[Any, str]:
    """fsspec's filesystem and the address's path in it. UserError for another scheme or a missing package."""
    scheme = url.partition("://")[0]
    if "::" in url or scheme not in REMOTE:
        known = ", ".join(REMOTE)
        raise UserError(f"{without_secrets(url)[:100]!r} is no known address; give a path, or {known}://...")
    import fsspec

    package = NEEDS.get(scheme)
    if package and importlib.util.find_spec(package) is None:
        version = f"=={fsspec.__version__}" if package != "aiohttp" else ""  # the two are released together
        raise UserError(f"{scheme}:// needs the package {package}, which is not there: pip install {package}{version}")
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "s3":
        config = {"retries": {"total_max_attempts": 1}, "max_pool_connections": 2 * PARALLEL_SIZES}
        options["config_kwargs"] = config | {"connect_timeout": CONNECT_SECONDS, "read_timeout": ANSWER_SECONDS}
    elif scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=WEB_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS)
        options["client_kwargs"] = {"timeout": timeout, "auto_decompress": False}
    filesystem: Any = fsspec.filesystem(scheme, **options)
    if scheme == "s3":
        filesystem.retries = 1
    return filesystem, filesystem._strip_protocol(url)


def _require_size(url: str, expected: int) -> None:
    if (stored := size(url)) != expected:
        raise _error(url, f"it has {stored:,} bytes after {expected:,} were written; run it again")


def _error(url: str, problem: str) -> RemoteError:
    return RemoteError(f"{without_secrets(url)}: {problem}")
