"""`slam-asr export`: a format's own options, and one line for those of others."""

import pytest

from launch.command import main
from model.weights import read_card
from tests.tiny import tiny_recogniser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "merge"], "format of an export 'merge' is not known, did you mean 'merged'?; known: adapter,"),
        (["--llm", "x"], "--llm is for --format merged or hf, not adapter; give that, or leave it out"),
        (["--trust-remote-code", "--format", "averaged"], "--trust-remote-code is for --format merged, not averaged"),
        (["--last", "2"], "--last is for --format averaged, not adapter; give that, or leave it out"),
        (["--format", "merged", "--score", "s"], "not merged; score OUT, then `slam-asr export OUT OUT --score DIR`"),
        (["--format", "averaged"], "the mean of one checkpoint, '{adapter}', is that checkpoint; name several"),
        (["--format", "averaged", "--last", "x"], "--last: invalid int value: 'x'"),
        (["--format", "merged"], "has no LoRA to merge; leave --format merged out"),
        (["--format", "merged", "--dtype", "float61"], "'float61' is not known, did you mean 'float16'"),
        (["--dtype", "float61"], "'float61' is not known, did you mean 'float16'"),
    ],
)
def test_options_that_do_not_fit_are_one_line(adapter, tmp_path, capsys, arguments, message):
    assert main(["export", str(adapter), str(tmp_path / "out"), *arguments]) == 2
    out, err = capsys.readouterr()
    assert message.format(adapter=adapter) in err and err.count("\n") == 1 and not out
    assert not (tmp_path / "out").exists()


def test_several_sources_are_for_the_average(adapter, tmp_path, capsys):
    assert main(["export", str(adapter), str(adapter), str(tmp_path / "out")]) == 2
    assert "2 sources are named, --format adapter takes one; give one, or --format averaged" in capsys.readouterr().err
    assert main(["export", str(adapter), str(adapter), str(tmp_path / "out"), "--format", "averaged"]) == 2
    assert "have the same weights; name each checkpoint once" in capsys.readouterr().err
    assert main(["export", str(adapter), str(tmp_path / "out"), "--dtype", "float16"]) == 0
    assert f"{tmp_path}/out: adapter of step 7 for " in capsys.readouterr().out
    assert read_card(tmp_path / "out").step == 7


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return tiny_recogniser(tmp_path_factory.mktemp("tiny"))[1]
