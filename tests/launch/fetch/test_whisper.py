"""A Whisper comes back from CTranslate2's form as it was, or is refused."""

import numpy as np
import pytest
import torch

from launch.fetch.ctranslate2 import Model
from launch.fetch.whisper import whisper_of
from model.errors import UserError
from tests.launch.fetch.ctranslate2_files import END, START, stored, tiny_whisper


def test_a_whisper_comes_back_from_ctranslate2_with_equal_weights_and_equal_output():
    own = tiny_whisper()
    back = whisper_of(stored(own), END, START)
    assert back.state_dict().keys() == own.state_dict().keys()
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in own.state_dict().items())
    assert back.proj_out.weight is back.model.decoder.embed_tokens.weight
    mel, ids = torch.randn(1, 80, 3000), torch.tensor([[START, 5, 7]])
    with torch.no_grad():
        assert torch.equal(*(model.float()(mel, decoder_input_ids=ids).logits for model in (own, back)))


MISSHAPEN = np.zeros((3, 3), "<f2")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"encoder/layer_1/ffn/linear_0/bias": None}, "lacks encoder/layer_1/ffn/linear_0/bias"),
        ({"decoder/layer_0/gate": MISSHAPEN}, "has arrays that no Whisper has: decoder/layer_0/gate"),
        ({"encoder/layer_7/ffn/linear_0/bias": MISSHAPEN}, "lacks encoder/layer_2/self_attention"),
        ({"decoder/layer_0/ffn/linear_1/weight": MISSHAPEN}, r"fc2.weight is \[3, 3\], expected \[8, 16\]"),
        ({"encoder/layer_0/self_attention/linear_0/weight": np.zeros((4, 8), "<f2")}, "not 3 equal parts"),
        ({"encoder/layer_0/self_attention/linear_0/bias": np.ones(24, "<f2")}, "bias is not zero for k"),
        ({"encoder/layer_norm/gamma": np.array(1, "<f2")}, r"layer_norm/gamma is \[\], "),
        ({"encoder/layer_norm/gamma": np.ones(8, "<i1")}, "is of int8, not of a floating-point type"),
        ({"encoder/conv1/weight": MISSHAPEN}, "expected 3 dimensions"),
        ({"encoder/conv1/weight": np.zeros((8, 0, 3), "<f2")}, "expected 3 dimensions"),
        ({"encoder/conv1/weight": np.zeros((2_000_000, 1, 1), "<f2")}, "expected"),  # a layer of 4e12 weights
        ({"encoder/num_heads": np.array(3, "<i2")}, "3, which does not divide the width 8"),
        ({"encoder/num_heads": np.array(0, "<i2")}, "0, which does not divide"),
        ({"decoder/activation": np.array(0, "<i1")}, "decoder/activation is 0, for Whisper it must be 3"),
        ({"decoder/alibi": MISSHAPEN}, "decoder/alibi is not one number"),
        ({"decoder/projection/weight": np.zeros((40, 8), "<f2")}, "output layer is not tied to its embeddings"),
    ],
)
def test_weights_that_are_not_exactly_a_whispers_are_refused(changes, why):
    arrays = stored(tiny_whisper()).arrays | changes
    arrays = {name: array for name, array in arrays.items() if array is not None}
    with pytest.raises(UserError, match=f"does not hold a whole Whisper: .*{why}") as caught:
        whisper_of(Model("WhisperSpec", arrays), END, START)
    assert "\n" not in str(caught.value)


def test_another_model_of_ctranslate2_is_refused():
    with pytest.raises(UserError, match="it is a 'TransformerSpec', not a WhisperSpec"):
        whisper_of(Model("TransformerSpec", {}), END, START)
