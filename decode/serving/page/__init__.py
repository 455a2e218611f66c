"""The server's one page: index.html, its style and its modules, served as they lie here.

No build step, no framework, and no request that leaves the server: HEADERS forbids it to the browser, and inline code
and markup made from strings too.

| file | job |
|---|---|
| index.html, page.css, icon.svg | what is seen |
| page.js | what the buttons do, in order: a recording, its upload, its transcript |
| server.js | the upload with its progress, server-sent events, errors in one line |
| sound.js | decoding in the browser, 16 kHz WAV |
| microphone.js | recording |
| player.js | the waveform, the segments on it, playing |
| transcript.js | the list of segments, as it grows |
| captions.js | txt, srt and vtt as decode/recordings/outputs.py writes them |
"""

from pathlib import Path

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "media-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ]
)
HEADERS = {  # of every answer below; changed files show at the next reload
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def page_files() -> dict[str, tuple[str, bytes]]:
    """{path to be served: (content type, content)}; "/" is the page itself, which names the others relative to it."""
    files = [file for file in sorted(Path(__file__).parent.iterdir()) if file.suffix in CONTENT_TYPES]
    return {
        "/" if file.name == "index.html" else f"/{file.name}": (CONTENT_TYPES[file.suffix], file.read_bytes())
        for file in files
    }
