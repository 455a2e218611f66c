"""An export for transformers opens offline where this project is not installed, with the same transcripts."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from decode.export.adapter import export
from decode.export.hugging_face.export import export_hf
from decode.export.hugging_face.modeling_slam_asr import SlamAsrForSpeechSeq2Seq
from decode.export.hugging_face.remote_code import remote_code
from decode.export.push import own_files
from model import weights
from model.adapters import build_adapter
from model.encoders import load_encoder
from model.errors import UserError
from model.lora import LoraSpec, add_lora, lora_parameters
from model.weights import open_llm, read_card, save_adapter
from slam_asr import load
from tests.same_transcripts import bare_python, offline
from tests.tiny_encoders import tiny_encoder

ROOT = Path(__file__).parents[3]
STAND_IN, RECORDINGS = ROOT / "model" / "stand_in" / "adapter", ROOT / "recipes" / "real_pair" / "recordings"
COME_WITH_TRANSFORMERS = {
    "filelock",
    "httpx",
    "huggingface_hub",
    "jinja2",
    "numpy",
    "safetensors",
    "tokenizers",
    "tqdm",
}

IN_A_BARE_ENVIRONMENT = """
import importlib.util, json, sys
import soundfile, torch
assert not [n for n in ("data_prep", "decode", "launch", "model", "slam_asr") if importlib.util.find_spec(n)]
from transformers import AutoModel, AutoModelForSpeechSeq2Seq, AutoProcessor, pipeline

folder, hub_id, lora, *paths = sys.argv[1:]
asr, trust = "automatic-speech-recognition", {"trust_remote_code": True, "device_map": "cpu"}
pipe = pipeline(asr, model=folder, **trust)
lines = {"pipeline": [r["text"] for r in pipe(paths)], "chunks": pipe(paths[0], return_timestamps=True)}
lines["generator"] = [r["text"] for r in pipe(path for path in paths[:2])]
lines["windows"] = pipe(paths[2], chunk_length_s=8)["text"]
as_for_whisper = {"num_beams": 2, "language": "en", "task": "transcribe"}
lines["bytes"] = pipe(open(paths[-1], "rb").read(), generate_kwargs=as_for_whisper)["text"]
stereo, rate = soundfile.read(paths[-1], dtype="float32")
lines["dict"] = pipe({"raw": stereo.T, "sampling_rate": rate})["text"]
model = AutoModel.from_pretrained(folder, **trust)
lines["model"] = [transcript.text for transcript in model.transcribe(paths[:2])]
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
waves = [soundfile.read(path, dtype="float32")[0] for path in paths[:2]]
inputs = processor(waves, sampling_rate=16000, padding=True, return_tensors="pt")
lines["generate"] = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)
lines["from the hub"] = pipeline(asr, model=hub_id, **trust)(paths[0])["text"]
half = AutoModelForSpeechSeq2Seq.from_pretrained(lora, dtype=torch.bfloat16, **trust)
lines["dtypes"] = [str(half.dtype), str(half.encoder.model.dtype), str(half.recogniser.adapter.linear1.weight.dtype)]
lines["lora"] = [r["text"] for r in pipeline(asr, model=lora, **trust)(paths[:2])]
print(json.dumps(lines))
"""


def recordings(folder: Path) -> list[str]:
    """Two clips, both with silence between them, silence, and a stereo one at 44.1 kHz."""
    clips = sorted(RECORDINGS.glob("*.flac"))
    first, second = (soundfile.read(clip, dtype="float32")[0] for clip in clips)
    long = np.concatenate([first, second, np.zeros(16_000 * 16, np.float32), second, first])
    soundfile.write(folder / "long.wav", long, 16_000)
    soundfile.write(folder / "silence.flac", np.zeros(32_000), 16_000)
    at_44 = np.interp(np.arange(0, len(first) - 1, 16 / 44.1), np.arange(len(first)), first)
    soundfile.write(folder / "stereo.wav", np.stack([at_44, 0.5 * at_44], 1), 44_100)
    return [*map(str, clips), *(str(folder / name) for name in ("long.wav", "silence.flac", "stereo.wav"))]


def with_lora(tiny, folder: Path) -> Path:
    """An adapter with LoRA for a tiny Whisper that encodes "cut" windows."""
    own = read_card(tiny.adapter)
    encoder, spec = (
        load_encoder(tiny_encoder(folder, "whisper", seconds=2), window="cut"),
        LoraSpec(2, 4.0, ("q_proj",), 0.0),
    )
    llm = open_llm(own, tiny.adapter, None, "float32", "cpu", False)
    torch.manual_seed(3)
    adapter = build_adapter(replace(own.spec, encoder_dim=encoder.dim))
    add_lora(llm.model, spec)
    for parameter in lora_parameters(llm.model).values():
        torch.nn.init.normal_(parameter, std=0.3)
    card = replace(own, spec=adapter.spec, encoder=encoder.fingerprint(), encoder_source=encoder.source, lora=spec)
    (folder / "adapter").mkdir()
    save_adapter(folder / "adapter", dict(adapter.named_parameters()) | lora_parameters(llm.model), card)
    return folder / "adapter"


def in_hub_cache(folder: Path, home: Path) -> str:
    """Puts the folder where the hub's cache has a repository, and returns its id."""
    commit, repository = "0" * 39 + "1", home / "hub" / "models--me--recogniser"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / commit).symlink_to(folder)
    return "me/recogniser"


def test_transformers_transcribes_as_this_project_without_it(tiny, tmp_path):
    files: Any = recordings(tmp_path)
    adapters = {"plain": STAND_IN, "lora": with_lora(tiny, tmp_path)}
    for name, adapter in adapters.items():
        export_hf(adapter, tmp_path / "out" / name, include_models=True)
    hub_id = in_hub_cache(tmp_path / "out" / "plain", tmp_path / "home")
    command: list[Any] = [bare_python(tmp_path / "venv"), "-c", IN_A_BARE_ENVIRONMENT]
    command += [tmp_path / "out" / "plain", hub_id, tmp_path / "out" / "lora", *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=offline(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])

    recogniser = load(STAND_IN, device="cpu")
    transcripts = recogniser.transcribe(files)
    texts = [transcript.text for transcript in transcripts]
    assert len(texts[0].split()) > 5 and texts[3] == ""
    assert found["pipeline"] == texts and found["generator"] == found["model"] == texts[:2]
    assert found["generate"] == texts[:2] and found["dict"] == texts[4] and found["from the hub"] == texts[0]
    windows = recogniser.transcribe(files[2], longest=8)
    assert found["windows"] == windows.text and len(windows.segments) > 2
    assert found["bytes"] == recogniser.transcribe(files[4], beams=2).text
    [segment] = transcripts[0].segments
    chunk = {"text": segment.text, "timestamp": [segment.start, segment.end]}
    assert found["chunks"] == {"text": texts[0], "chunks": [chunk]}
    assert found["dtypes"] == ["torch.bfloat16", "torch.bfloat16", "torch.float32"]
    assert found["lora"] == [one.text for one in load(adapters["lora"], device="cpu").transcribe(files[:2])]
    assert any(found["lora"]) and load(tmp_path / "out" / "plain").transcribe(files[0]).text == texts[0]


def test_what_a_local_folder_alone_names_is_refused_or_named_by_an_id(tiny, tmp_path):
    own = read_card(tiny.adapter)
    with pytest.raises(
        UserError, match="the encoder of this adapter is a local folder, '.*encoder', .*--include-models"
    ):
        export_hf(tiny.adapter, tmp_path / "out")
    with pytest.raises(UserError, match="the LLM of this adapter is a local folder, .*or name it .* with --llm ID"):
        export_hf(tiny.adapter, tmp_path / "out", encoder="me/encoder")
    with pytest.raises(UserError, match=r"--llm '\./llm' is no Hugging Face id"):
        export_hf(tiny.adapter, tmp_path / "out", encoder="me/encoder", llm="./llm")
    with pytest.raises(UserError, match="'float61' is not known, did you mean 'float16'"):
        export_hf(tiny.adapter, tmp_path / "out", include_models=True, dtype="float61")
    with pytest.raises(UserError, match="the adapter was trained with another encoder: its weights is"):
        export_hf(tiny.adapter, tmp_path / "out", include_models=True, encoder=tiny_encoder(tmp_path, "hubert"))
    assert not (tmp_path / "out").exists()
    counts = {"substitutions": 2, "deletions": 1, "insertions": 0, "words": 12, "utterances": 3, "wer": 0.25}
    score = {"weights_sha256": own.digest, "shards_digest": "5e7", "beams": 1, "normaliser": "plain", "all": counts}
    (tmp_path / "score.json").write_text(json.dumps(score | {"by": {"language": {"en": counts, "(none)": counts}}}))
    names: Any = {"encoder": "me/encoder", "llm": "me/llm"}
    card = export_hf(tiny.adapter, tmp_path / "out", dtype="float16", score=tmp_path, **names)
    assert card.digest == export(tiny.adapter, tmp_path / "plain", "float16").digest
    assert read_card(tmp_path / "out") == card and (card.encoder_source, card.encoder_path) == ("me/encoder", "")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    text = (tmp_path / "out" / "README.md").read_text()
    assert (config["encoder"], config["llm"], (tmp_path / "out" / "llm").exists()) == ("me/encoder", "me/llm", False)
    for line in (
        'base_model:\n- "me/encoder"\n- "me/llm"',
        'language:\n- "en"\nbase_model:',
        "25.0 %: 3 errors in 12 words",
    ):
        assert line in text
    with pytest.raises(UserError, match="is there already; name a new folder"):
        export_hf(tiny.adapter, tmp_path / "out", **names)
    sources: Any = {"encoder": own.encoder_source, "llm": own.llm_source}
    model = SlamAsrForSpeechSeq2Seq.from_pretrained(tmp_path / "out", device_map={"": "cpu"}, **sources)
    assert model.generate(torch.full((1, 4_000), 0.1)).shape[0] == 1
    with pytest.raises(UserError, match="option 'num_beam' is not known, did you mean 'num_beams'"):
        model.generate(torch.zeros(1, 4_000), num_beam=4)
    with pytest.raises(UserError, match="from_pretrained 'load_in_8bit' is not known"):
        SlamAsrForSpeechSeq2Seq.from_pretrained(tmp_path / "out", load_in_8bit=True)
    with pytest.raises(UserError, match="the dtype is chosen when the model is loaded"):
        model.to(torch.float16)
    with pytest.raises(UserError, match="the dtype is chosen when the model is loaded"):
        model.half()
    with pytest.raises(UserError, match="copy the folder"):
        model.save_pretrained(tmp_path / "again")


def test_only_safetensors_are_opened(tiny, tmp_path):
    export_hf(tiny.adapter, tmp_path / "out", include_models=True)
    assert {"encoder/model.safetensors", "slam_asr/modeling_slam_asr.py"} <= set(own_files(tmp_path / "out"))
    (tmp_path / "out" / "llm" / "model.safetensors").rename(tmp_path / "out" / "llm" / "pytorch_model.bin")
    with pytest.raises(UserError, match="llm' holds no safetensors weights; the folder is incomplete"):
        SlamAsrForSpeechSeq2Seq.from_pretrained(tmp_path / "out")
    (tmp_path / "out" / weights.WEIGHTS).write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match="is incomplete|does not match the sha256"):
        SlamAsrForSpeechSeq2Seq.from_pretrained(tmp_path / "out")


def test_the_code_is_this_projects_and_needs_few_packages(tmp_path):
    from transformers.dynamic_module_utils import get_imports, get_relative_import_files

    for name, text in remote_code(needs_peft=True).items():
        (tmp_path / name).write_text(text)
    entry = tmp_path / "modeling_slam_asr.py"
    files = {str(file) for file in tmp_path.iterdir()}
    assert {str(entry), *get_relative_import_files(entry)} == files
    needed = {package for file in files for package in get_imports(file)}
    assert needed - set(sys.stdlib_module_names) == COME_WITH_TRANSFORMERS | {
        "torch",
        "transformers",
        "soundfile",
        "peft",
    }
    assert "import peft" not in remote_code()["modeling_slam_asr.py"]
    own = (ROOT / "model" / "prompt.py").read_text().replace("from model.errors", "from .model_errors")
    assert (tmp_path / "model_prompt.py").read_text().replace("  # noqa", "").endswith(own)
