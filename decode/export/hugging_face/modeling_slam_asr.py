"""Speech recognition by a frozen speech encoder, a trained adapter and a frozen LLM (SLAM-ASR, arXiv 2402.08846), for
transformers' AutoModel and pipeline.

The code beside this file is slam-asr's own, so that the transcripts are those of `slam-asr transcribe`. Weights are
read from safetensors only."""

import os
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GenerationMixin, Pipeline, PreTrainedConfig, PreTrainedModel

from data_prep.audio.cuts import AudioError
from data_prep.audio.stream import from_array
from decode.recogniser import Recogniser, Search
from decode.recordings.transcript import Transcript
from model.errors import UserError, require_known
from model.loading import choose_device
from model.sample_rate import SAMPLE_RATE
from model.slam_asr import SlamAsr
from model.weights import load_for_decoding

PLACES = ("cache_dir", "revision", "token", "local_files_only")  # arguments of from_pretrained about the hub
IGNORED = ("adapter_kwargs", "trust_remote_code", "force_download", "proxies", "use_safetensors", "low_cpu_mem_usage")
"""Further arguments that transformers passes, and that change nothing here."""
RENAMED = {"num_beams": "beams", "num_return_sequences": "nbest", "chunk_length_s": "longest"}
"""transformers' names of options: slam-asr's."""


class SlamAsrConfig(PreTrainedConfig):
    """config.json; adapter.json beside it says what the adapter is."""

    model_type = "slam_asr"

    def __init__(self, encoder: str = "./encoder", llm: str = "./llm", **kwargs: Any) -> None:
        """`encoder` and `llm`: Hugging Face ids, or subfolders of this folder, which begin with "./"."""
        self.encoder, self.llm = encoder, llm
        super().__init__(**kwargs)


class SlamAsrForSpeechSeq2Seq(PreTrainedModel, GenerationMixin):
    """The recogniser. `transcribe` takes recordings of any length, `generate` what the processor makes of them."""

    config_class = SlamAsrConfig
    main_input_name = "input_values"

    def __init__(self, config: Any, recogniser: SlamAsr) -> None:
        super().__init__(config)
        self.recogniser = recogniser
        self.encoder = recogniser.encoder  # SlamAsr keeps it out of its modules

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        config: Any = None,
        dtype: str | torch.dtype | None = None,
        device_map: Any = None,
        encoder: str | None = None,
        llm: str | None = None,
        encoder_dtype: str | None = None,
        llm_dtype: str | None = None,
        other_weights: bool = False,
        **others: Any,
    ) -> "SlamAsrForSpeechSeq2Seq":
        """The recogniser in a folder or a repository of the hub, ready to transcribe.

        `device_map`: one device; by default the GPU if there is one, else the CPU. `dtype` of encoder and LLM: by
        default bfloat16 on a GPU that supports it, else float32; the adapter is always computed in float32.
        `encoder_dtype` and `llm_dtype` (also "int8", "nf4", by bitsandbytes) set that of one part. `encoder` and `llm`
        are places of these models other than in config.json; the same weights are required, unless `other_weights`.
        UserError, a ValueError, for what is missing, damaged or not what the adapter was trained with."""
        dtype = others.pop("torch_dtype", dtype)
        for name in others:
            if name not in (*PLACES, *IGNORED) and not name.startswith("_"):
                known = [known for known in cls.from_pretrained.__annotations__ if known not in ("others", "return")]
                require_known("argument of from_pretrained", name, (*known, *PLACES))
        name = os.fspath(pretrained_model_name_or_path)
        folder = Path(name) if os.path.isdir(name) else _fetched(name, {k: others[k] for k in PLACES if k in others})
        config = config or SlamAsrConfig.from_pretrained(folder)
        recogniser = load_for_decoding(
            folder,
            _place(encoder or config.encoder, folder),
            _place(llm or config.llm, folder),
            str(dtype or "auto").removeprefix("torch."),
            choose_device(_device(device_map)),
            encoder_dtype=encoder_dtype,
            llm_dtype=llm_dtype,
            other_weights=other_weights,
        )
        return cls(config, recogniser).eval()

    def transcribe(self, audio: Any, sample_rate: int = SAMPLE_RATE, **options: Any) -> Transcript | list[Transcript]:
        """The transcript of a recording (a path, bytes of a file, or an array), or of each in a list. `sample_rate` in
        Hz is that of arrays. Options: `longest`, `vad`, `beams` and those of Search in decode_recogniser.py."""
        return Recogniser(self.recogniser).transcribe(audio, sample_rate, **options)

    @torch.no_grad()
    def generate(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_values: Tensor, attention_mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        """Token ids [B, L] of the transcripts, each with its EOS, of waveforms [B, N] at 16 kHz; `attention_mask`
        [B, N] is 1 on samples, 0 on padding. Options as `transcribe`, `num_beams` too."""
        masks = torch.ones_like(input_values) if attention_mask is None else attention_mask
        waves = [wave[mask.bool()] for wave, mask in zip(input_values, masks, strict=True)]
        transcripts: Any = self.transcribe(waves, **_renamed(options))
        prompt = self.recogniser.prompt
        encode = prompt.tokenizer.encode
        ids = [
            torch.tensor([*encode(one.text, add_special_tokens=False, split_special_tokens=True), prompt.eos_id])
            for one in transcripts
        ]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=prompt.pad_id)
        return padded.to(input_values.device)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Not there: an adapter is trained by `slam-asr train`."""
        raise NotImplementedError("this model transcribes: call transcribe or generate; slam-asr trains adapters")

    @property
    def dtype(self) -> torch.dtype:
        """That of the LLM; the adapter is float32."""
        return self.recogniser.llm.dtype

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Moves the model to a device. ValueError for a dtype, which is chosen when the model is loaded."""
        _, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        if dtype not in (None, self.dtype):
            raise UserError(
                f"to({dtype}): the dtype is chosen when the model is loaded; from_pretrained(..., dtype=...)"
            )
        return super().to(*args, **kwargs)

    def half(self, *args: Any) -> Any:
        return self.to(torch.float16)

    def bfloat16(self, *args: Any) -> Any:
        return self.to(torch.bfloat16)

    def float(self, *args: Any) -> Any:
        return self.to(torch.float32)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Refused: the folder that was opened is the saved model."""
        raise UserError(f"the model is saved already, as it was loaded; copy the folder {self.config.name_or_path!r}")


class SlamAsrPipeline(Pipeline):
    """`pipeline("automatic-speech-recognition")`. It takes a path, the bytes of a file, an array at 16 kHz or a dict of
    `raw` or `array` and `sampling_rate`; or a list, generator or dataset of these, which are decoded in batches."""

    _load_tokenizer = _load_feature_extractor = _load_image_processor = _load_processor = False
    _pipeline_calls_generate = False

    def __call__(
        self, inputs: Any, num_workers: int | None = None, batch_size: int | None = None, **kwargs: Any
    ) -> Any:
        """{"text": ...}, and with `return_timestamps=True` "chunks" with the start and end in seconds of each window;
        one of them for each recording of a list, in order. `generate_kwargs`, or keywords: options as `transcribe`.
        Batches are made by length, whatever `batch_size` is, and do not change a transcript."""
        _, search, shown = self._sanitize_parameters(**kwargs)
        search, shown = {**self._forward_params, **search}, {**self._postprocess_params, **shown}
        if isinstance(inputs, Dataset):
            inputs = (inputs[i] for i in range(len(inputs)))  # pyright: ignore[reportArgumentType]
        if isinstance(inputs, types.GeneratorType):
            return self._each(inputs, search, shown)
        if isinstance(inputs, list | tuple):
            return list(self._each(inputs, search, shown))
        return next(self._each([inputs], search, shown))

    def _each(self, inputs: Iterable[Any], search: dict[str, Any], shown: dict[str, Any]) -> Iterator[dict[str, Any]]:
        model: Any = self.model
        found = Recogniser(model.recogniser).transcribe_each(map(self.preprocess, inputs), **search)
        for number, transcript in enumerate(found):
            if transcript.error:
                raise UserError(f"{transcript.path or f'recording {number}'}: {transcript.error}")
            yield self.postprocess(transcript, **shown)

    def _sanitize_parameters(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, return_timestamps: bool | str = False, generate_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if return_timestamps not in (True, False, None):
            raise UserError(f"return_timestamps {return_timestamps!r}: only True is known, for those of windows")
        return {}, _renamed({**options, **(generate_kwargs or {})}), {"timed": True} if return_timestamps else {}

    def preprocess(self, inputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What `transcribe` takes."""
        if isinstance(inputs, str) and inputs.startswith(("http://", "https://")):
            raise UserError(f"{inputs}: recordings are not downloaded; download it, and give its path or bytes")
        if not isinstance(inputs, dict):
            return inputs
        samples = inputs.get("raw", inputs.get("array"))
        if samples is None and (inputs.get("bytes") or inputs.get("path")):  # of datasets, not decoded
            return inputs.get("bytes") or inputs["path"]
        if samples is None or "sampling_rate" not in inputs:
            raise UserError(f"a dict of {', '.join(map(str, inputs))}: give raw or array, and sampling_rate")
        if inputs["sampling_rate"] == SAMPLE_RATE:
            return samples
        try:
            return from_array(torch.as_tensor(samples).cpu().numpy(), inputs["sampling_rate"])
        except AudioError as error:
            raise UserError(str(error)) from None

    def _forward(self, inputs: Any, **search: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        model: Any = self.model
        return model.transcribe(inputs, **search)

    def postprocess(self, model_outputs: Any, timed: bool = False) -> dict[str, Any]:  # pyright: ignore
        """The result of a Transcript."""
        if not timed:
            return {"text": model_outputs.text}
        windows = [segment for segment in model_outputs.segments if segment.text]
        chunks = [{"text": segment.text, "timestamp": (segment.start, segment.end)} for segment in windows]
        return {"text": model_outputs.text, "chunks": chunks}


def _fetched(repository: str, places: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository, **{name: value for name, value in places.items() if value is not None}))


def _place(source: str, folder: Path) -> str:
    """Where a model is: in the folder if its place begins with "./". UserError if it is not there as safetensors."""
    if not source.startswith("./"):
        return source
    place = folder / source
    if not any(place.glob("*.safetensors")):
        raise UserError(
            f"{str(place)!r} holds no safetensors weights; the folder is incomplete, fetch or export it again"
        )
    return str(place)


def _device(device_map: Any) -> str:
    if isinstance(device_map, Mapping):
        if len(set(device_map.values())) != 1:
            raise UserError(f"device_map {device_map!r}: encoder, adapter and LLM are on one device; name that")
        device_map = next(iter(device_map.values()))
    return f"cuda:{device_map}" if isinstance(device_map, int) else str(device_map or "auto")


def _renamed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by slam-asr's names. `language` and `task`, which callers of Whisper give, have no effect: an adapter has
    the language it was trained with. UserError for others, and for another task than "transcribe"."""
    if (task := options.get("task")) not in (None, "transcribe"):
        raise UserError(f"task {task!r}: this model transcribes, it does nothing else")
    options = {name: value for name, value in options.items() if name not in ("task", "language")}
    named = {RENAMED.get(name, name): value for name, value in options.items() if name != "do_sample" or value}
    for name in named:
        require_known("option", name, (*Search.__annotations__, "longest", "vad", *RENAMED))
    return named | ({"longest": named["longest"] or None} if "longest" in named else {})
