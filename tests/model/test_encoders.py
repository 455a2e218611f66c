"""One contract for every encoder family, against transformers' own model and feature extractor."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from model.batch import cumulative
from model.encoder_layers import layers_in_frame
from model.encoders import ENCODER_FAMILIES, known_fingerprint, load_encoder, random_encoder
from model.frozen_parts import FrozenPart, _fits
from tests.tiny_encoders import DEPTH, HUBERTS, OTHERS, STYLES, WIDTH, reference, tiny_encoder

LENGTHS = [895, 1039, 1040, 3999, 4000, 7777, 15999, 16000, 16001, 33333]  # 16,000 is the window of the tiny Whisper
SHORTEST = {"wav2vec2-bert": 560, "whisper": 1, "voxtral": 1, "moonshine": 895}  # samples that give a frame; else 400
CASES = [(family, style, None) for family in ("hubert", "wavlm") for style in STYLES]
CASES += [("wav2vec2", "group", None), ("unispeech", "layer", None), ("unispeech-sat", "layer", None)]
CASES += [("data2vec-audio", "layer", None), *((family, "", None) for family in OTHERS)]
CASES += [("whisper", "", "cut"), ("voxtral", "", "cut")]
every_family = pytest.mark.parametrize("family, style, window", CASES)
own_warnings = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM's, given a mask


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return cache(lambda *kind, **more: tiny_encoder(folder, *kind, **more))


@cache
def waves(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [0.1 * torch.randn(n, generator=generator) + 0.02 for n in lengths]


@cache
def opened(source: str, window: str | None, layer: int | str | None = None):
    return load_encoder(source, layer, window=window)


def alone(encoder, wave: torch.Tensor) -> torch.Tensor:
    return encoder(wave, cumulative([len(wave)]))[0]


def test_every_family_is_in_the_contract():
    assert {*HUBERTS, *OTHERS, "voxtral_encoder"} == set(ENCODER_FAMILIES)  # the last is part of voxtral


@own_warnings
@every_family
def test_frames_are_those_of_transformers_at_every_layer(checkpoint, family, style, window):
    source, computed = checkpoint(family, style), {2: 2, "weighted:1-2": 2}
    wanted = []
    for wave in waves(1040, 7777, 33333):
        outputs, last = reference(source, wave, window == "cut")
        by_layer = {None: last, 2: outputs[1], "mean:2-3": torch.stack(outputs[1:]).mean(0)}  # a norm after the last
        wanted.append(by_layer | {"weighted": torch.cat(outputs, 1), "weighted:1-2": torch.cat(outputs[:2], 1)})
    for layer in wanted[0]:
        encoder = opened(source, window, layer)
        for wave, frames in zip(waves(1040, 7777, 33333), wanted, strict=True):
            torch.testing.assert_close(alone(encoder, wave), frames[layer], rtol=1e-4, atol=1e-5)
        assert encoder.dim == WIDTH * layers_in_frame(encoder.layer)
        assert len(encoder.blocks) == computed.get(layer, DEPTH)  # layers that are not read are not computed


@pytest.mark.parametrize("positions", ["relative", "rotary", None])
def test_w2v_bert_may_have_positions_of_any_kind(checkpoint, positions):
    source = checkpoint("wav2vec2-bert", position_embeddings_type=positions)
    encoder = load_encoder(source, 2)
    for wave in waves(7777, 1040, 7777):  # transformers keeps the positions of the last length
        torch.testing.assert_close(alone(encoder, wave), reference(source, wave)[0][1], rtol=1e-4, atol=1e-5)


@every_family
def test_out_len_is_what_forward_gives_however_short(checkpoint, family, style, window):
    encoder, shortest = opened(checkpoint(family, style), window), SHORTEST.get(family, 400)
    lengths = [shortest, shortest + 1, *LENGTHS]
    counts = [len(alone(encoder, wave)) for wave in waves(*lengths)]
    assert counts == [encoder.out_len(n) for n in lengths] and all(isinstance(encoder.out_len(n), int) for n in lengths)
    assert encoder.out_len(np.array(lengths, np.int64)).tolist() == counts
    assert encoder.out_len(torch.tensor(lengths)).tolist() == counts
    assert counts[0] == 1 and max(encoder.out_len(n) for n in range(shortest)) < 1


@every_family
def test_two_hundred_random_batches_have_the_bits_of_their_utterances_alone(checkpoint, family, style, window):
    encoder = opened(checkpoint(family, style), window)
    given, random = waves(*LENGTHS[:8]), np.random.default_rng(5)
    own = [alone(encoder, wave) for wave in given]
    for _ in range(200):
        ids = random.integers(0, len(given), random.integers(1, 4))
        frames, frame_cu = encoder(torch.cat([given[i] for i in ids]), cumulative([len(given[i]) for i in ids]))
        assert torch.equal(frames, torch.cat([own[i] for i in ids]))
        assert frame_cu.diff().tolist() == [len(own[i]) for i in ids]
    assert not frames.requires_grad and not encoder.training and not any(p.requires_grad for p in encoder.parameters())


@every_family
def test_packed_frames_are_those_of_one_by_one(checkpoint, family, style, window):
    given, padded = torch.cat(waves(*LENGTHS)), family in ("whisper", "voxtral") and window is None
    seen: list[torch.Size] = []
    for layer in (None, 2, "weighted") if family not in ("wavlm", "wav2vec2-bert") else ():
        encoder = opened(checkpoint(family, style), window, layer)
        assert encoder.packs and not encoder.packed  # on a CPU
        expected, expected_cu = encoder(given, cumulative(LENGTHS))
        encoder.packed = True
        seen.clear()
        with encoder.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape)):
            packed, frame_cu = encoder(given, cumulative(LENGTHS))
        encoder.packed = False
        windows = sum(-(-n // 16_000) for n in LENGTHS)
        assert seen == [(1, 50 * windows if padded else len(expected), WIDTH)]  # the transformer ran once
        torch.testing.assert_close(packed, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(frame_cu, expected_cu)


@pytest.mark.parametrize("family", [*HUBERTS, *OTHERS])
def test_the_random_numbers_of_others_are_left_alone(checkpoint, family):
    encoder = load_encoder(checkpoint(family))
    assert encoder.packs == (family not in ("wavlm", "wav2vec2-bert"))
    for packed in {False, encoder.packs}:
        encoder.packed = packed
        torch.manual_seed(7)
        alone(encoder, waves(4000)[0])
        drawn = torch.rand(1)
        torch.manual_seed(7)
        assert torch.equal(torch.rand(1), drawn)


@every_family
def test_the_fingerprint_follows_what_decides_the_frames(checkpoint, family, style, window):
    source = checkpoint(family, style)
    first = opened(source, window).fingerprint()
    others = {
        "weights": load_encoder(checkpoint(family, style, seed=1), window=window).fingerprint(),
        "layer": opened(source, window, 2).fingerprint(),
        "dtype": load_encoder(source, dtype="float16", window=window).fingerprint(),
    }
    if family in ("whisper", "voxtral"):
        others["window"] = opened(source, None if window else "cut").fingerprint()
        assert opened(source, "padded").fingerprint() == opened(source, None).fingerprint()
    for name, other in others.items():
        assert {key for key in first | other if first.get(key) != other.get(key)} == {name}
    for layer in ("mean:2-3", "weighted"):
        loaded = opened(source, window, layer)
        assert known_fingerprint(source, layer, "auto", first, "cpu", window) == loaded.fingerprint()
        assert _fits(FrozenPart("encoder", source, "", loaded.fingerprint(), Path(source)), Path(source))
    deeper = FrozenPart("encoder", source, "", {**first, "dim": WIDTH + 1}, Path(source))
    assert not _fits(deeper, Path(source)) and not _fits(deeper, Path(source).parent)


@every_family
def test_a_configuration_alone_gives_width_and_lengths_and_runs_without_weights(checkpoint, family, style, window):
    from transformers import AutoConfig

    source = checkpoint(family, style)
    config = AutoConfig.from_pretrained(source)
    for layer in (2, "weighted"):
        loaded, bare = opened(source, window, layer), random_encoder(config, layer, window)
        assert (bare.dim, bare.layer, bare.window) == (loaded.dim, loaded.layer, loaded.window)
        assert [bare.out_len(n) for n in LENGTHS] == [loaded.out_len(n) for n in LENGTHS]
        assert sum(p.numel() for p in bare.parameters()) == sum(p.numel() for p in loaded.parameters())
        for packed in {False, bare.packs}:
            bare.packed = packed
            frames, _ = bare(torch.empty(4000, device="meta"), cumulative([4000]))
            assert frames.is_meta and frames.shape == (loaded.out_len(4000), loaded.dim)
    assert len(random_encoder(config, "mean", window, depth=2).blocks) == 2
    assert AutoConfig.from_pretrained(source).to_dict() == config.to_dict()  # the caller's is left as it was


@every_family
def test_bfloat16_runs(checkpoint, family, style, window):
    source = checkpoint(family, style)
    encoder = load_encoder(source, dtype="bfloat16", window=window)
    narrow = family == "wav2vec2-bert"  # its convolutions are depthwise
    assert (
        encoder.fingerprint()["dtype"] == ("float32" if narrow else "bfloat16") and bool(encoder.dtype_note) == narrow
    )
    frames, whole = alone(encoder, waves(7777)[0]), alone(opened(source, window), waves(7777)[0])
    assert frames.dtype == encoder.model.dtype and float((frames - whole).norm() / whole.norm()) < 0.1
