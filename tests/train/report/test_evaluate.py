"""What the decoded dev set is said to be."""

import pytest

from decode.dataset import Hypothesis
from train.report.evaluate import decoded


def test_words_on_silence_are_counted_and_are_insertions_of_the_whole():
    spoken = [Hypothesis("a", "one two three four", "one two tree four"), Hypothesis("b", "five", "five")]
    assert decoded(spoken) == {"wer": pytest.approx(1 / 5)}
    silent = [Hypothesis("c", "", "thank you"), Hypothesis("d", " ", ""), Hypothesis("e", "...", "")]
    counts = {"hallucinated_words": 2, "silent_utterances": 3}
    assert decoded(spoken + silent) == {"wer": pytest.approx(3 / 5), **counts}
    assert decoded(silent) == counts
