"""README.md of an exported folder, its model card on the Hugging Face hub."""

import json
from pathlib import Path
from typing import Any

from decode.export.model_card import facts
from decode.export.origin import read_origin
from model import weights
from model.weights import AdapterCard


def hub_card(
    name: str, card: AdapterCard, folder: Path, base_models: list[str], score: dict[str, Any] | None = None
) -> str:
    """The text, with the hub's metadata in front (huggingface.co/docs/hub/model-cards); `name` is the folder's,
    `folder` has the weights, `base_models` are the ids of encoder and LLM, if they have any."""
    included = bool(card.encoder_path)
    models = "in `encoder/` and `llm/`" if included else "opened by their Hugging Face ids"
    files = (weights.WEIGHTS, *((weights.LORA,) if card.lora else ()))
    table = facts(card, {file: (folder / file).stat().st_size for file in files}, read_origin(folder), score)
    packages = "transformers torch safetensors numpy soundfile torchaudio" + " peft" * (card.lora is not None)
    return f"""\
{_metadata(base_models, score)}
# {name}

Speech recognition: the frozen encoder `{card.encoder_source}`, a trained adapter, and the frozen LLM
`{card.llm_source}`, which writes the transcript (SLAM-ASR, [arXiv 2402.08846](https://arxiv.org/abs/2402.08846)).
Encoder and LLM are {models}.

```python
from transformers import pipeline

recognise = pipeline("automatic-speech-recognition", model="{name}", trust_remote_code=True)
print(recognise("recording.wav")["text"])  # a path, bytes, an array at 16 kHz; a list of them in batches
print(recognise("recording.wav", return_timestamps=True)["chunks"])
```

It needs `pip install {packages}`
(torchaudio only for recordings at other rates than 16 kHz). Recordings may be of any length. With more control:

```python
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

model = AutoModelForSpeechSeq2Seq.from_pretrained("{name}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
transcripts = model.transcribe(["a.wav", "b.mp3"], beams=4)  # with text, segments, confidence and note
ids = model.generate(**processor(audio, sampling_rate=16000, return_tensors="pt"))
texts = processor.batch_decode(ids, skip_special_tokens=True)
```

By default the model is on the GPU if there is one, in bfloat16 if that supports it, else in float32 on the CPU;
`device_map` and `dtype` choose otherwise. `slam_asr/` is the code that `trust_remote_code` allows to run: slam-asr's
own modules, so that the transcripts are those of `slam-asr transcribe {name} recording.wav`. It reads weights
from safetensors only.

{table}

The prompt, where the embeddings take the place of `<speech>`, as a JSON string:

    {json.dumps(card.prompt, ensure_ascii=False)}
"""


def _metadata(base_models: list[str], score: dict[str, Any] | None) -> str:
    """YAML; the languages are those of the scored data."""
    known = ((score or {}).get("by") or {}).get("language") or {}
    languages = sorted(language for language in known if language.isalpha())
    lines = ["---", "# license: yours to choose, an identifier of huggingface.co/docs/hub/repositories-licenses"]
    lines += ["library_name: transformers", "pipeline_tag: automatic-speech-recognition"]
    for key, values in (("language", languages), ("base_model", base_models), ("tags", ["slam-asr"])):
        lines += [f"{key}:", *(f"- {json.dumps(value)}" for value in values)] if values else []
    return "\n".join([*lines, "---"])
