"""The server's page as it lies: everything is its own and shipped, and it knows what the server knows."""

import ast
import re
from fnmatch import fnmatch
from pathlib import Path

from data_prep.audio.decode import EXTENSIONS, SAMPLE_RATE
from decode.recordings import outputs
from decode.serving.page import CONTENT_SECURITY_POLICY, HEADERS, page_files

ROOT = Path(__file__).parents[3]
FILES = {path: content.decode() for path, (_, content) in page_files().items()}


def test_every_file_that_is_named_is_served_and_lies_beside_the_page():
    named = re.findall(r'(?:src|href)="([^"]+)"', FILES["/"])
    imported = [name for text in FILES.values() for name in re.findall(r'from "\./([^"]+)"', text)]
    assert {f"/{name}" for name in [*named, *imported]} == FILES.keys() - {"/"}


def test_no_request_leaves_the_server_and_nothing_becomes_markup():
    for path, text in FILES.items():
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), path
        assert not re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|localStorage", text), path
    assert not re.findall(r"<style|<script(?! type=\"module\" src)|\sstyle=|\son\w+=", FILES["/"])
    assert "unsafe" not in CONTENT_SECURITY_POLICY and "default-src 'none'" in HEADERS["Content-Security-Policy"]


def test_setup_ships_every_file():
    call = next(n for n in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(n, ast.Call))
    data = next(ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg == "package_data")
    for path in FILES:
        name = path[1:] or "index.html"
        assert any(fnmatch(name, pattern) for pattern in data["decode.serving.page"]), name


def test_formats_rate_and_captions_are_those_of_the_project():
    (read,) = re.findall(r'const READ = "([^"]*)"', FILES["/sound.js"])
    assert read.split() == list(EXTENSIONS)
    assert f"RATE = {SAMPLE_RATE};" in FILES["/sound.js"]
    sizes = f"LINE = {outputs.LINE_CHARACTERS}, LINES = {outputs.LINES}, SECONDS = {outputs.CAPTION_SECONDS}"
    assert f"{sizes}, SLACK = {outputs.SLACK_CHARACTERS};" in FILES["/captions.js"]
