"""`slam-asr plan` for encoders of other families than HuBERT's: their configuration is enough."""

from typing import Any

import pytest

from launch.plan.data import utterance_of
from launch.plan.shapes import shapes_of
from launch.plan.simulation import simulate
from model.sample_rate import SAMPLE_RATE
from tests.launch.test_plan_simulation import models
from tests.launch.test_plan_verb import MIDDLING, plan, row, write_config, write_recipe

WIDTH, INNER, DEPTH = 256, 1024, 6
SIZES = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": DEPTH, "num_attention_heads": 4}
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
WHISPER: dict[str, Any] = {
    **{"model_type": "whisper", "d_model": WIDTH, "encoder_layers": DEPTH, "encoder_ffn_dim": INNER, **HEADS},
    **{"decoder_layers": 40},  # is not held
}
ENCODERS: list[tuple[dict[str, Any], str | None]] = [
    (WHISPER, "weighted:2-5"),
    ({"model_type": "voxtral", "audio_config": {"model_type": "voxtral_encoder", **SIZES}}, "mean:2-5"),
    ({"model_type": "moonshine", **SIZES, "encoder_num_hidden_layers": DEPTH}, None),
    ({"model_type": "wav2vec2-bert", **SIZES}, "weighted"),
    ({"model_type": "data2vec-audio", **SIZES}, "5"),
]


@pytest.mark.parametrize(("encoder", "layer"), ENCODERS, ids=[encoder["model_type"] for encoder, _ in ENCODERS])
def test_an_encoder_is_planned_from_its_configuration_alone(tmp_path, capsys, encoder, layer):
    folders = write_config(tmp_path / "llm", MIDDLING), write_config(tmp_path / "encoder", encoder)
    planned = plan(capsys, write_recipe(tmp_path, *folders, model={"encoder_layer": layer}), "--gpus", "1x80GB")
    layers = planned["parameters"]["frozen"]["encoder"] / (4 * WIDTH**2 + 2 * WIDTH * INNER)
    assert (DEPTH if layer in (None, "weighted") else 5) < layers < 3 * DEPTH  # a conformer's are twice as large
    assert row(planned, "zero0")["fits"]


def test_the_flops_of_whisper_are_those_of_its_windows():
    from transformers import AutoConfig

    encoder, llm = AutoConfig.for_model(**WHISPER), AutoConfig.for_model(**MIDDLING)
    for window, frames in (("padded", 1500), ("cut", 400)):
        shapes = shapes_of(encoder, llm, models("bfloat16", encoder_window=window))
        at = simulate(shapes, utterance_of(shapes, 8 * SAMPLE_RATE, 16, 20), 8 * SAMPLE_RATE, 20).at(3)
        convolutions = 2 * frames * 3 * WIDTH * (2 * 80 + WIDTH)
        layers = DEPTH * (2 * frames * (4 * WIDTH**2 + 2 * WIDTH * INNER) + 4 * WIDTH * frames**2)
        assert at.encoder_flops == pytest.approx(3 * (convolutions + layers), rel=0.05)  # the mel filters are the rest
