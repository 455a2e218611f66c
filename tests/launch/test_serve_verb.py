"""`slam-asr serve` refuses what it cannot do in one line, before it loads a model."""

import sys

import pytest

from launch.command import main
from launch.serving import TOKEN_VARIABLE


def refusal(capsys, *words: str) -> str:
    """The one line of a refused command."""
    try:
        code = main(["serve", *words])
    except SystemExit as ended:  # argparse's
        code = ended.code
    out, err = capsys.readouterr()
    *usage, line = err.splitlines()
    assert code == 2 and not out and all(part.startswith(("usage:", " ")) for part in usage)
    return line


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--port", "99999"], "--port 99999 is not a port; give a number from 0 to 65535"),
        (["--port", "-1"], "--port -1 is not a port"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1, port 8000: "),  # an address of documentation, RFC 5737
        (["--host", "no such host"], "cannot listen on no such host, port 8000: "),
        (["--vad", "silera"], "did you mean 'silero'"),
        (["--max-megabytes", "nan"], "--max-megabytes: 'nan' is not a number above 0"),
        (["--max-seconds", "0"], "--max-seconds: '0' is not a number above 0"),
        (["--max-requests", "0"], "--max-requests: "),
        (["--token-file", "no/such/file"], "--token-file no/such/file cannot be read: "),
        (["--port", "0"], "no-adapter"),
    ],
)
def test_what_cannot_be_served_is_one_line(capsys, flags, says):
    assert says in refusal(capsys, "no-adapter", *flags)


@pytest.mark.parametrize("token", ["", "two words", "schlüssel", b"\xff\xfe"])
def test_a_token_that_no_client_could_send_is_refused(capsys, tmp_path, monkeypatch, token):
    path = tmp_path / "token"
    path.write_bytes(token if isinstance(token, bytes) else token.encode())
    assert f"--token-file {path} " in refusal(capsys, "no-adapter", "--token-file", str(path))
    monkeypatch.setenv(TOKEN_VARIABLE, "schlüssel")
    assert TOKEN_VARIABLE in refusal(capsys, "no-adapter")


def test_what_the_extra_would_install_is_said(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("decode.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "serve needs uvicorn, which is not installed: pip install 'slam-asr[serve]'" in refusal(capsys, "adapter")
