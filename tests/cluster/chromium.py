"""What a test does with the page in a browser, and asks the server itself."""

import base64
import re
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

DROP = """([name, data, count]) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)), dropped = new DataTransfer();
    for (let i = 0; i < count; i++) dropped.items.add(new File([bytes], name));
    for (const kind of ["dragenter", "dragover", "drop"])
        document.querySelector("#lead").dispatchEvent(
            new DragEvent(kind, { dataTransfer: dropped, bubbles: true, cancelable: true }));
}"""
KEEP_WHAT_IS_SENT = """() => {
    const { send } = XMLHttpRequest.prototype;
    XMLHttpRequest.prototype.send = function (form) {
        window.sent = form.get("file").arrayBuffer().then((buffer) => new Uint8Array(buffer));
        send.call(this, form);
    };
}"""
DRAWN = """() => {
    const canvas = document.querySelector("#wave canvas"), context = canvas.getContext("2d");
    const row = context.getImageData(0, Math.round(canvas.height / 4), canvas.width, 1).data;
    return new Set(row.filter((value, i) => i % 4 === 3)).size;
}"""


def address_of(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Once it serves."""
    deadline = time.monotonic() + 120
    while not (found := re.search(r"serve: .* at (http://\S+)\n", log.read_text())):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    return found[1]


def drop(page: Any, name: str, data: bytes, count: int = 1) -> None:
    page.evaluate(DROP, [name, base64.b64encode(data).decode(), count])


def choose(page: Any, name: str, data: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "audio/wav", "buffer": data})


def wait_for_text(page: Any, selector: str, pattern: str) -> None:
    """Not page.wait_for_function, which evaluates strings in the page: its policy forbids that."""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_text(re.compile(pattern), timeout=20_000)


def read(page: Any) -> str:
    """The text, once it is whole."""
    page.wait_for_selector("#results", state="visible")
    return " ".join(page.locator("#segments p").all_inner_texts())


def ask(server: str, recording: bytes, response_format: str) -> str:
    """What the server itself answers."""
    parts = {"response_format": response_format.encode(), "file": recording}
    body = b"".join(
        f'--edge\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + value + b"\r\n"
        for name, value in parts.items()
        for file in ['; filename="a.flac"' if name == "file" else ""]
    )
    headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    return fetch(urllib.request.Request(f"{server}/v1/audio/transcriptions", body + b"--edge--\r\n", headers))


def fetch(request: str | urllib.request.Request) -> str:
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def similarity(long: np.ndarray, short: np.ndarray) -> float:
    """The correlation of float [N] with float [M] where it is largest."""
    size = 1 << (len(long) + len(short)).bit_length()
    products = np.fft.irfft(np.fft.rfft(long, size) * np.conj(np.fft.rfft(short, size)), size)
    return float(products.max() / np.linalg.norm(long) / np.linalg.norm(short))
