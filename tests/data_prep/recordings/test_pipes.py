"""Commands in place of recordings: run without a shell, bounded, their failures explained."""

import re
import sys

import pytest

from data_prep.audio.decode import AudioError
from data_prep.recordings import pipes
from data_prep.recordings.pipes import output_of, stages


@pytest.mark.parametrize("end", ["; rm x", "&& rm x", "|| rm x", "& rm x", "> x", ">> x", "< x", "$(rm x)", "`rm x`"])
def test_what_only_a_shell_could_run_is_refused_by_name(end):
    for command in (f"cat a {end}", f"cat a{end}", f"cat a | cat {end}"):
        with pytest.raises(AudioError, match=re.escape(repr(command[:80]))) as error:
            output_of(command, allowed=True)
        assert error.value.reason == "pipe-refused" and repr(end.split("rm")[0].split()[0]) in str(error.value)
    with pytest.raises(AudioError, match=r"\$\("):
        stages('cat "$(rm x)"')
    assert stages(f"cat '{end}'") == [["cat", end]]


def test_a_command_is_bounded_and_its_failure_explained(tmp_path, monkeypatch):
    assert output_of(r"printf 'a b|c' | tr \  \" | cat", allowed=True) == b'a"b|c'
    assert output_of("yes | head -c 4", allowed=True) == b"y\ny\n"  # the first ends by a signal, as it should
    for command, message in [
        ("sh -c 'echo oh >&2; echo no no >&2; exit 3'", "'sh' .*3: no no"),
        ("cat /nowhere | cat", "'cat' .*1: cat: /nowhere"),
        ("no-such-program a", "'no-such-program'"),
        ("cat a | no-such-program", "'no-such-program'"),
        ("true", "'true'"),
    ]:
        with pytest.raises(AudioError, match=message) as error:
            output_of(command, allowed=True)
        assert error.value.reason == "pipe-failed"
    monkeypatch.setattr(pipes, "MAX_BYTES", 1000)
    with pytest.raises(AudioError, match="1,000 bytes"):
        output_of("yes", allowed=True)
    monkeypatch.setattr(pipes, "MAX_COMMAND_SECONDS", 0.3)
    with pytest.raises(AudioError, match="0.3 s"):
        output_of(f"{sys.executable} -S -c 'import time; time.sleep(60)' | cat", allowed=True)
