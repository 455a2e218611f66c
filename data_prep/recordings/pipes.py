"""Recordings that a command writes, as Kaldi's `sph2pipe -f wav a.sph |`: run without a shell, time and size bounded.

A command is programs with their words, joined by `|`. Quotes and backslashes mean what they mean in a shell; nothing
else does: redirections, `;`, `&&`, `$(...)`, variables and backticks are refused by name."""

import os
import re
import selectors
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from tempfile import TemporaryFile
from typing import IO

from data_prep.audio.decode import AudioError

MAX_BYTES = 2 << 30  # an hour of 48 kHz float32 stereo is 1.4 GB
MAX_COMMAND_SECONDS = 600  # from start to end; a command that waits for something must not stop a build for good
READ_BYTES = 1 << 20
KEPT_BYTES = 4096  # of standard error
TOKEN = re.compile(
    r"""(?P<space>[ \t]+)
    | (?P<word>(?:[^\s|&;<>()`$'"\\] | \\[^\n] | '[^']*' | "(?:[^"\\`$]|\\.)*")+)
    | (?P<other>\|\|?|&&?|\$\(|<\(|>\(|>>|<<|.)""",
    re.VERBOSE | re.DOTALL,
)


def output_of(command: str, allowed: bool) -> bytes:
    """The standard output of `command`. AudioError: "pipe-refused" where commands are not allowed, or for more than
    programs and `|`; "pipe-failed" with the last line of standard error; "pipe-too-long", "pipe-too-large"."""
    if not allowed:
        raise AudioError("pipe-refused", f"{command[:80]!r} is a command; --allow-pipes runs it")
    chain = stages(command)
    running: list[subprocess.Popen[bytes]] = []
    with TemporaryFile() as errors:
        try:
            source = subprocess.DEVNULL
            for words in chain:
                try:
                    process = subprocess.Popen(
                        words, stdin=source, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
                    )
                except (OSError, ValueError) as error:
                    reason = error.strerror if isinstance(error, OSError) else str(error)
                    raise AudioError("pipe-failed", f"cannot run {words[0][:80]!r}: {reason}") from None
                if running and running[-1].stdout:
                    running[-1].stdout.close()  # so that the program before gets SIGPIPE when this one ends
                running.append(process)
                source = process.stdout
            output = _read(running[-1], time.monotonic() + MAX_COMMAND_SECONDS)
            for process, words in zip(running, chain, strict=True):
                _require_success(process, words, errors, is_last=process is running[-1])
        finally:
            for process in running:
                if process.poll() is None:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()
    if not output:
        raise AudioError("pipe-failed", f"{command[:80]!r} wrote nothing")
    return output


def stages(command: str) -> list[list[str]]:
    """The words of each program of a chain. AudioError "pipe-refused" for anything but programs and `|`."""
    chain: list[list[str]] = [[]]
    for token in TOKEN.finditer(command.strip()):
        if token["word"]:
            chain[-1] += shlex.split(token["word"])
        elif token["other"] == "|":
            chain.append([])
        elif token["other"]:
            rest = command.strip()[token.start() :]
            inside = re.match(r'"(?:[^"\\`$]|\\.)*(\$\(?|`)', rest, re.DOTALL)  # what a shell replaces in quotes
            problem = repr(inside[1] if inside else token["other"])
            if not inside and token["other"] in "'\"\\":
                problem = "a quote that stays open"
            raise AudioError("pipe-refused", f"{command[:80]!r} has {problem}; only programs and | are run, no shell")
    if not all(chain):
        raise AudioError("pipe-refused", f"{command[:80]!r} lacks a program before or after a |")
    return chain


def _read(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """All of its standard output, within the bounds; the program has then closed it."""
    assert process.stdout is not None
    output = bytearray()
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not ready.select(max(0.0, deadline - time.monotonic())):
                raise AudioError("pipe-too-long", f"the command has not ended after {MAX_COMMAND_SECONDS} s")
            part = os.read(process.stdout.fileno(), READ_BYTES)
            if not part:
                return bytes(output)
            output += part
            if len(output) > MAX_BYTES:
                raise AudioError("pipe-too-large", f"the command wrote more than {MAX_BYTES:,} bytes")


def _require_success(process: subprocess.Popen[bytes], words: list[str], errors: IO[bytes], is_last: bool) -> None:
    try:
        status = process.wait(5.0)
    except subprocess.TimeoutExpired:
        raise AudioError("pipe-too-long", f"{words[0][:80]!r} goes on after the chain's end") from None
    if status and (is_last or status != -signal.SIGPIPE):  # cut short by the next one, as `head` does
        tail = os.pread(errors.fileno(), KEPT_BYTES, max(0, os.fstat(errors.fileno()).st_size - KEPT_BYTES))
        lines = [" ".join(line.split()) for line in tail.decode("utf-8", "replace").split("\n") if line.strip()]
        reason = lines[-1][:200] if lines else "no message"
        raise AudioError("pipe-failed", f"{words[0][:80]!r} failed with {status}: {reason}")
