"""Adapters: lengths told beforehand are those that come out, and an utterance never sees its neighbours."""

from typing import Any

import numpy as np
import pytest
import torch

from model.adapters import ADAPTERS, AdapterSpec, build_adapter
from model.batch import cumulative
from model.errors import UserError


@pytest.mark.parametrize("type", ADAPTERS)
@pytest.mark.parametrize("stack", [1, 5])
def test_out_len_is_what_forward_gives(type, stack):
    adapter = build_adapter(AdapterSpec(type, stack, 8, 0.1, 6, 4)).eval()
    lengths = list(range(0, 3 * stack + 2)) + [499, 500]
    speech, speech_cu = adapter(torch.randn(sum(lengths), 6), cumulative(lengths))
    counts = speech_cu.diff().tolist()
    assert speech.shape == (sum(counts), 4) and speech.dtype == torch.float32
    assert [adapter.out_len(n) for n in lengths] == counts == adapter.out_len(torch.tensor(lengths)).tolist()
    assert adapter.out_len(np.array(lengths)).tolist() == counts


@pytest.mark.parametrize("type", ADAPTERS)
def test_an_utterance_is_adapted_as_if_alone_and_its_rest_is_left_out(type):
    adapter: Any = build_adapter(AdapterSpec(type, 5, 8, 0.0, 6, 4))
    utterances = [torch.randn(n, 6) for n in (13, 4, 10)]
    speech, _ = adapter(torch.cat(utterances), cumulative([13, 4, 10]))
    expected = [
        adapter.linear2(torch.relu(adapter.linear1(part.reshape(-1, 30))))
        for part in (utterances[0][:10], utterances[2])
    ]
    torch.testing.assert_close(speech, torch.cat(expected))


def test_half_precision_features_are_computed_in_float32():
    adapter = build_adapter(AdapterSpec("concat", 5, 8, 0.0, 6, 4))
    frames = torch.randn(10, 6).bfloat16()
    speech, _ = adapter(frames, cumulative([10]))
    torch.testing.assert_close(speech, adapter(frames.float(), cumulative([10]))[0], rtol=0, atol=0)


def test_an_unknown_adapter_is_named_with_the_known():
    with pytest.raises(UserError, match="adapter type 'concatt' is not known, did you mean 'concat'"):
        build_adapter(AdapterSpec("concatt", 5, 8, 0.0, 6, 4))
