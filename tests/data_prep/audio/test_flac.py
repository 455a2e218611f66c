"""dr_flac, where it is installed, against libFLAC."""

import numpy as np
import pytest

from data_prep.audio import decode as audio
from data_prep.audio.cuts import STREAMINFO_END, AudioInfo, stream_info
from data_prep.audio.decode import AudioError, decode, decode_by_dr_flac, decode_media, encode_flac
from tests.data_prep.conftest import tone

pytestmark = pytest.mark.skipif(not audio.HAS_DR_FLAC, reason="miniaudio has no wheel for this machine")


@pytest.mark.parametrize("wave", [tone(3.0), np.random.default_rng(0).uniform(-1, 1, 50_000), np.zeros(400)])
def test_both_decoders_give_the_same_bits(wave):
    data = encode_flac(wave)
    assert stream_info(data) == AudioInfo(16000, 1, len(wave), "FLAC", "PCM_16")
    found = np.empty(len(wave), np.float32)
    assert decode_by_dr_flac(bytearray(data), found)
    assert np.array_equal(found, decode(data))


def test_a_flipped_bit_or_a_cut_is_never_taken_for_the_recording():
    data, random = encode_flac(tone(1.0)), np.random.default_rng(0)
    whole, found = decode(data), np.empty(16000, np.float32)
    for _ in range(300):
        broken = bytearray(data)
        broken[random.integers(STREAMINFO_END, len(data))] ^= 1 << int(random.integers(8))
        assert not decode_by_dr_flac(broken, found) or np.array_equal(found, whole)
    for length in (0, 41, 100, len(data) - 1):
        with pytest.raises(AudioError):
            decode_media(data[:length], "flac", found)


def test_dr_flac_gets_no_stream_whose_header_disagrees_with_the_index(monkeypatch):
    data = bytearray(encode_flac(tone(1.0)))
    data[21] |= 0x0F  # 2**32 samples more
    monkeypatch.setattr(audio, "decode_by_dr_flac", lambda *_: pytest.fail("decoded"))
    with pytest.raises(AudioError, match="16,000"):
        decode_media(data, "flac", np.empty(16000, np.float32))
    assert stream_info(b"RIFF" + bytes(60)) is None and stream_info(data[:20]) is None
