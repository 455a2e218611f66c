"""The recipe's sections `model`, with `model.adapter`, and `lora`."""

from typing import Literal, Self

from pydantic import model_validator

from data_prep.paths import LocalPath
from model.errors import UserError
from model.prompt import CHAT, DEFAULT_TEMPLATE
from train.recipe.kinds import Count, Layer, Names, Positive, Prompt, PromptOrChat, Section, Share, Text, Whole


class AdapterConfig(Section):
    """The one part that is trained."""

    type: Text = "concat"
    """Its kind, a key of ADAPTERS in model/adapters: concat (the paper's), conv1d, swiglu, qformer or transformer."""
    stack: Count = 5
    """Encoder frames that are concatenated into one speech embedding (5 x 20 ms = 100 ms)."""
    hidden: Count = 2048
    """Width of the hidden layer, or of all layers of qformer and transformer."""
    dropout: Share = 0.0
    """Share of hidden units dropped in training."""
    layers: Count = 2
    """Layers of qformer and transformer."""
    heads: Count = 8
    """Attention heads of qformer and transformer; they divide `hidden`."""
    queries: Count = 1
    """Speech embeddings that qformer makes of `stack` frames."""
    match_norm: bool = False
    """Whether each speech embedding is scaled to the root mean square of the LLM's own embeddings."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.type != "concat" or self.model_fields_set & {"layers", "heads", "queries"}:
            from model.adapters import require_buildable  # imports torch, which takes seconds

            require_buildable(self.model_dump())
        return self


class ModelConfig(Section):
    """The frozen encoder and LLM, and the adapter between them."""

    encoder: LocalPath
    """Speech encoder: a Hugging Face id or a local folder."""
    encoder_layer: Layer | None = None
    """The layer whose output the adapter reads, or the layers whose mean (mean = of all) or whose sum with trained
    weights (weighted = of all, weighted:6-12) it reads; null = the last."""
    encoder_window: Literal["padded", "cut"] | None = None
    """What an encoder that reads 30 s at a time (Whisper, Voxtral) gets of a shorter utterance: padded to 30 s, as it
    was trained, or cut to the audio's own length. null = padded. Refused for other encoders."""
    llm: LocalPath
    """Causal LLM: a Hugging Face id, a local folder or a GGUF file."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the frozen parts. auto = bfloat16 where the device computes it well, else float32. The adapter is float32."""
    encoder_dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    """Of the encoder; null = dtype."""
    llm_dtype: Literal["auto", "float32", "bfloat16", "float16", "int8", "nf4"] | None = None
    """Of the LLM; null = dtype. int8 and nf4 hold its linear layers in 8 and 4 bits (pip install 'slam-asr[quant]')."""
    activation_checkpointing: bool = False
    """Whether the LLM's layers compute their activations again in the backward pass, in place of keeping them: less
    memory, about a third more time, the same gradients."""
    adapter: AdapterConfig = AdapterConfig()
    prompt: PromptOrChat = DEFAULT_TEMPLATE
    """What the LLM reads; <speech> is replaced by the speech embeddings. It is saved with the adapter. chat = what the
    LLM's own chat template makes of chat_system and chat_user."""
    chat_user: Prompt | None = None
    """The user's turn with prompt chat; null = "<speech> Transcribe speech to text."."""
    chat_system: Text | None = None
    """The system text with prompt chat; null = none."""
    trust_remote_code: bool = False
    """Whether code that comes with a checkpoint may run here."""
    init_from: LocalPath | None = None
    """Run, checkpoint or export whose adapter, and LoRA, a new run begins with; null = new weights."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("chat_user", "chat_system"):
            if getattr(self, name) is not None and self.prompt != CHAT:
                raise UserError(f"model.{name} is for prompt: chat, and model.prompt is {self.prompt!r}; leave one out")
        return self

    @property
    def prompt_texts(self) -> tuple[str, str | None, str | None]:
        """What Prompt takes after the tokenizer."""
        return self.prompt, self.chat_user, self.chat_system

    @property
    def dtype_of_encoder(self) -> str:
        """`encoder_dtype`, or where it is null `dtype`."""
        return self.encoder_dtype or self.dtype

    @property
    def dtype_of_llm(self) -> str:
        """`llm_dtype`, or where it is null `dtype`."""
        return self.llm_dtype or self.dtype


class LoraConfig(Section):
    """Updates of low rank to the frozen LLM's linear layers, trained beside the adapter (LoRA, arXiv 2106.09685)."""

    rank: Whole = 0
    """Rank of an update; 0 = no LoRA, the LLM stays as it is."""
    alpha: Positive = 16.0
    """Updates are scaled by alpha / rank."""
    targets: Names = ("auto",)
    """Layers that get one, by the last part of their names, such as [q_proj, v_proj]; auto = the attention's query and
    value projections, all-linear = every linear layer."""
    dropout: Share = 0.0
    """Share of an update's inputs dropped in training."""
    lr: Positive | None = None
    """Highest learning rate of the updates, on optim.schedule too; null = optim.lr."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for word in ("auto", "all-linear"):
            if word in self.targets and len(self.targets) > 1:
                raise UserError(f"lora.targets has {word} beside other names; give it alone, or names only")
        return self
