"""Augmentation: what it does to a wave, and that only seed, epoch and sample decide."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.audio.augment import (
    AugmentConfig,
    augment_wave,
    check_noise,
    noise_files,
    samples_after,
    spec_masks,
    speed_factors,
    without_speech,
)
from data_prep.audio.decode import write_flac
from model.errors import UserError
from tests.data_prep.conftest import tone
from train.recipe.kinds import validated
from train.recipe.yaml import read_yaml

SPEEDS = AugmentConfig(speed=(0.9, 1.0, 1.1))
MASKS = AugmentConfig(time_masks=2, feature_masks=2, feature_mask_share=0.1)


def noise_folder(tmp_path: Path) -> str:
    """Three recordings of noise, one of 0.3 s, in two folders, beside a text file."""
    for number, (name, seconds) in enumerate([("music/b.flac", 2.0), ("music/a.flac", 0.3), ("free/c.flac", 4.0)]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        write_flac(path, np.random.default_rng(number).normal(0, 0.1, round(seconds * 16000)))
    (tmp_path / "README.txt").write_text("noise")
    return str(tmp_path)


def augmented(wave: np.ndarray, config: AugmentConfig, seed: int = 0, epoch: int = 0, sample: int = 0) -> np.ndarray:
    return augment_wave(torch.from_numpy(wave), config, seed, epoch, sample).numpy()


def snr_db(wave: np.ndarray, mixed: np.ndarray) -> float:
    """Of a mix that was not made quieter."""
    noise = mixed.astype(np.float64) - wave
    return float(10 * np.log10(np.square(wave, dtype=np.float64).mean() / np.square(noise).mean()))


def test_a_sample_is_changed_the_same_way_in_any_order_thread_and_number_of_threads(tmp_path):
    config = AugmentConfig(speed=(0.9, 1.1), noise_share=0.7, noise_dir=noise_folder(tmp_path))
    made = AugmentConfig(speed=(0.9, 1.1), noise_share=0.7)
    waves = [tone(0.1 + 0.07 * i, 200 + 10 * i, i) for i in range(12)]

    def changed(i: int) -> bytes:
        return b"".join(augmented(waves[i], c, 3, 5, i).tobytes() for c in (config, made))

    one_by_one = [changed(i) for i in range(12)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with ThreadPoolExecutor(4) as pool:
            backwards = list(pool.map(changed, reversed(range(12))))
    finally:
        torch.set_num_threads(before)
    assert backwards[::-1] == one_by_one


def test_another_seed_epoch_or_sample_gives_another_change():
    wave, config = tone(0.5), AugmentConfig(noise_share=1.0)
    places = [(seed, epoch, sample) for seed in range(2) for epoch in range(2) for sample in range(2)]
    assert len({augmented(wave, config, *place).tobytes() for place in places}) == 8
    drawn = {speed_factors(SPEEDS, s, e, np.arange(1000)).tobytes() for s in range(2) for e in range(2)}
    assert len(drawn) == 4


def test_sounds_without_speech_replace_their_share_and_each_kind_is_as_frequent(tmp_path):
    config = AugmentConfig(silence_share=0.6)
    replaced = [i for i in range(300) if without_speech(config, 1, 0, i)]
    assert 140 < len(replaced) < 220 and replaced != [i for i in range(300) if without_speech(config, 1, 1, i)]
    wave = tone(0.3)
    for one in (config, AugmentConfig(silence_share=0.6, noise_dir=noise_folder(tmp_path))):
        kinds = {"silence": 0, "tone": 0, "others": 0}
        for i in range(300):
            changed = augmented(wave, one, 1, 0, i)
            assert (changed.tobytes() == wave.tobytes()) == (i not in replaced)
            if i in replaced:
                assert len(changed) == len(wave) and np.abs(changed).max() <= 0.99
                power = np.square(np.abs(np.fft.rfft(changed * np.hanning(len(changed)))))
                peak = int(power.argmax())
                is_tone = power[max(0, peak - 3) : peak + 4].sum() > 0.99 * power.sum()
                kinds["tone" if changed.any() and is_tone else "others" if changed.any() else "silence"] += 1
        fifth = len(replaced) / 5
        assert all(fifth / 2 < kinds[kind] < 1.6 * fifth for kind in ("silence", "tone")), kinds
        assert 2 * fifth < kinds["others"] < 4 * fifth, kinds


def test_the_wave_given_is_not_written_into():
    for config in (AugmentConfig(speed=(1.1,)), AugmentConfig(noise_share=1.0, noise_snr_db=(-20, -20))):
        wave = torch.from_numpy(tone(0.3))
        augment_wave(wave, config, 0, 0, 0)
        assert wave.numpy().tobytes() == tone(0.3).tobytes()


def test_the_speeds_of_an_epoch_do_not_depend_on_which_are_asked_together_and_are_equally_frequent():
    ids = np.arange(90_000)
    factors = speed_factors(SPEEDS, 7, 2, ids)
    shuffled = np.random.default_rng(0).permutation(ids)
    assert (speed_factors(SPEEDS, 7, 2, shuffled) == factors[shuffled]).all()
    assert (speed_factors(SPEEDS, 7, 2, [5, 90_000 - 1]) == factors[[5, -1]]).all()
    values, counts = np.unique(factors, return_counts=True)
    assert values.tolist() == [0.9, 1.0, 1.1]
    assert np.abs(counts - 30_000).max() < 700  # five standard deviations
    pairs = np.unique(factors[:-1] * 100 + factors[1:], return_counts=True)[1]
    assert len(pairs) == 9 and np.abs(pairs - 10_000).max() < 600  # neighbours are independent
    same = (factors == speed_factors(SPEEDS, 7, 3, ids)).mean()
    assert same == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("speed", [0.5, 0.9, 0.97, 1.0, 1.01, 1.1, 1.37, 2.0])
def test_a_wave_has_exactly_the_samples_that_the_plan_counts_with(speed):
    lengths = np.array([400, *range(1597, 1620), 15_999, 16_000, 16_001, 100_003, 1_000_000])
    config = AugmentConfig(speed=(speed,))
    real = [len(augmented(np.zeros(n, np.float32), config)) for n in lengths]
    assert samples_after(lengths, speed_factors(config, 0, 0, lengths)).tolist() == real


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_a_faster_sine_is_shorter_and_higher_by_the_factor_and_as_loud(speed):
    wave = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(32_000) / 16_000)).astype(np.float32)
    changed = augmented(wave, AugmentConfig(speed=(speed,)))
    assert len(changed) == pytest.approx(32_000 / speed, abs=1)
    peak = np.abs(np.fft.rfft(changed * np.hanning(len(changed)))).argmax() * 16_000 / len(changed)
    assert peak == pytest.approx(1000 * speed, abs=16_000 / len(changed))
    assert np.abs(changed[1000:-1000]).max() == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("decibels", [5.0, 30.0])
def test_noise_has_the_signal_to_noise_ratio_asked_for(tmp_path, recorded, decibels):
    folder = noise_folder(tmp_path) if recorded else None
    config = AugmentConfig(noise_share=1.0, noise_snr_db=(decibels, decibels), noise_dir=folder)
    for sample in range(12):  # among them recordings shorter and longer than the wave
        wave = tone(0.5, 300) * 0.3
        assert snr_db(wave, augmented(wave, config, sample=sample)) == pytest.approx(decibels, abs=0.1)


def test_noise_goes_to_its_share_of_the_samples_with_ratios_drawn_evenly():
    wave, config = tone(0.1, 300) * 0.3, AugmentConfig(noise_share=0.25, noise_snr_db=(5, 30))
    mixed = [augmented(wave, config, sample=sample) for sample in range(2000)]
    noisy = [snr_db(wave, m) for m in mixed if (m != wave).any()]
    assert len(noisy) == pytest.approx(500, abs=100)
    assert min(noisy) > 4.9 and max(noisy) < 30.1
    assert np.quantile(noisy, [0.25, 0.5, 0.75]) == pytest.approx([11.25, 17.5, 23.75], abs=2.5)


def test_made_noise_goes_from_white_to_brown():
    wave, config = tone(1.0, 300), AugmentConfig(noise_share=1.0, noise_snr_db=(20, 20))
    slopes = []
    for sample in range(60):
        power = np.abs(np.fft.rfft(augmented(wave, config, sample=sample) - wave)) ** 2
        low, high = power[100:200].mean(), power[3200:6400].mean()  # 100 Hz and 3200 Hz: five octaves
        slopes.append(np.log2(low / high) / 5)
    assert -0.2 < min(slopes) < 0.3 and 1.7 < max(slopes) < 2.2
    assert np.mean(slopes) == pytest.approx(1, abs=0.35)


def test_a_mix_beyond_full_scale_is_made_quieter_and_not_clipped():
    wave = (0.95 * np.sin(np.arange(16_000) / 7)).astype(np.float32)
    config = AugmentConfig(noise_share=1.0, noise_snr_db=(0, 0))
    mixed = augmented(wave, config, 0, 0, 1)
    assert np.abs(mixed).max() == pytest.approx(1, abs=1e-6)
    assert (np.abs(mixed) > 0.999).sum() < 5
    gain = float(mixed @ wave / (wave @ wave))  # noise is nearly orthogonal to a tone
    assert snr_db(wave * gain, mixed) == pytest.approx(0, abs=0.3)


def test_silence_and_what_is_not_asked_for_stay_as_they_are():
    silence, wave = torch.zeros(8000), torch.from_numpy(tone(0.5))
    assert augment_wave(silence, AugmentConfig(noise_share=1.0), 0, 0, 0) is silence
    assert augment_wave(wave, AugmentConfig(time_masks=2), 0, 0, 0) is wave
    assert augment_wave(wave, AugmentConfig(speed=(1.0,)), 0, 0, 0) is wave
    assert spec_masks(AugmentConfig(), 0, 0, [1, 2], [50, 60], 16) == (None, None)
    assert (speed_factors(AugmentConfig(), 0, 0, [4, 5]) == 1).all()


def test_only_what_changes_recordings_needs_audio():
    assert (AugmentConfig().active, AugmentConfig(speed=(1.0,)).active) == (False, False)
    assert (MASKS.active, MASKS.needs_audio) == (True, False)
    assert SPEEDS.needs_audio and AugmentConfig(noise_share=0.1).needs_audio


def both_masks(epoch: int, ids: list[int], frames: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    times, dims = spec_masks(MASKS, 1, epoch, ids, torch.tensor(frames), 80)
    assert times is not None and dims is not None
    return times, dims


def test_masks_of_an_utterance_do_not_depend_on_its_batch():
    ids, frames = [3, 11, 4, 0], [120, 37, 500, 1]
    times, dims = both_masks(2, ids, frames)
    assert times.shape == (658,) and dims.shape == (4, 80)
    for i, count, time, row in zip(ids, frames, times.split(frames), dims, strict=True):
        alone = both_masks(2, [i], [count])
        assert torch.equal(alone[0], time) and torch.equal(alone[1][0], row)
    only_times, none = spec_masks(AugmentConfig(time_masks=2), 1, 2, ids, np.array(frames), 80)
    assert none is None and only_times is not None and torch.equal(only_times, times)
    assert not torch.equal(both_masks(3, ids, frames)[0], times)


def test_masks_keep_their_bounds_and_reach_everywhere():
    config = AugmentConfig(time_masks=3, time_mask_share=0.2, feature_masks=1, feature_mask_share=0.1)
    ids = range(600)
    times, dims = spec_masks(config, 0, 0, ids, [100] * 600, 40)
    assert times is not None and dims is not None
    masked = times.view(600, 100).sum(1)
    assert masked.max() == 20 and 12 < float(masked.float().mean()) < 20
    assert dims.sum(1).max() == 4 and float(dims.sum(1).float().mean()) == pytest.approx(2, abs=0.2)
    assert times.view(600, 100).any(0).all() and dims.any(0).all()
    long, _ = spec_masks(AugmentConfig(time_masks=1), 0, 0, ids, [1000] * 600, 40)
    assert long is not None and long.view(600, 1000).sum(1).max() == 20  # 0.4 s at 50 frames a second


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("speed: [0.9, 2.5]", "augment.speed[1] is 2.5, expected a number of at most 2"),
        ("speed: [0.905]", "augment.speed has 0.905, expected numbers with at most two decimals"),
        ("noise_share: 1.5", "augment.noise_share is 1.5, expected a number of at most 1"),
        ("noise_snr_db: [30, 5]", "augment.noise_snr_db is [30.0, 5.0], expected the lower first"),
        ("noise_snr_db: [-101, 5]", "augment.noise_snr_db[0] is -101, expected a number of at least -100"),
        ("noise_dir: ''", "augment.noise_dir is '', expected text that is not empty"),
        ("time_masks: -1", "augment.time_masks is -1, expected a number of at least 0"),
        ("time_mask_seconds: 0", "augment.time_mask_seconds is 0, expected a number above 0"),
        ("feature_masks: 1001", "augment.feature_masks is 1001, expected a number of at most 1000"),
        ("feature_mask_share: 1.1", "augment.feature_mask_share is 1.1, expected a number of at most 1"),
    ],
)
def test_a_section_of_a_recipe_is_refused_by_its_key(text, said):
    with pytest.raises(UserError) as caught:
        validated(AugmentConfig, read_yaml(text, "recipe.yaml"), "augment", "augment")
    assert said in str(caught.value) and "recipe.yaml" in str(caught.value)


def test_a_section_of_a_recipe_is_read():
    text = "speed: [0.9, 1.0, 1.1]\nnoise_share: 0.3\nnoise_snr_db: [0, 20]\nnoise_dir: musan/noise\ntime_masks: 2"
    read = validated(AugmentConfig, read_yaml(text, "recipe.yaml"), "augment", "augment")
    expected = AugmentConfig(
        speed=(0.9, 1.0, 1.1), noise_share=0.3, noise_snr_db=(0, 20), noise_dir="musan/noise", time_masks=2
    )
    assert read == expected


def test_a_noise_folder_is_looked_through_once_at_the_start(tmp_path):
    folder = noise_folder(tmp_path)
    assert check_noise(AugmentConfig(noise_share=0.5, noise_dir=folder)) == 3
    names = [path.relative_to(tmp_path).as_posix() for path, _ in noise_files(folder)]
    assert names == ["free/c.flac", "music/a.flac", "music/b.flac"]
    assert check_noise(AugmentConfig(noise_dir="nowhere")) == 0  # no noise is asked for


def test_a_noise_folder_that_cannot_be_used_is_refused_before_training(tmp_path):
    (tmp_path / "words.txt").write_text("no sound")
    with pytest.raises(UserError, match="holds no audio file"):
        check_noise(AugmentConfig(noise_share=0.5, noise_dir=str(tmp_path)))
    with pytest.raises(UserError, match="nowhere is not a folder"):
        check_noise(AugmentConfig(noise_share=0.5, noise_dir=str(tmp_path / "nowhere")))
    (tmp_path / "broken.wav").write_bytes(b"RIFF no sound")
    with pytest.raises(UserError, match="noise recording .*broken.wav: .*; mend it or take it out"):
        check_noise(AugmentConfig(noise_share=0.5, noise_dir=str(tmp_path)))
    (tmp_path / "broken.wav").unlink()
    write_flac(tmp_path / "click.flac", np.ones(100) * 0.1)
    with pytest.raises(UserError, match="click.flac: 0.006 s, at least 0.1 s"):
        check_noise(AugmentConfig(noise_share=0.5, noise_dir=str(tmp_path)))
