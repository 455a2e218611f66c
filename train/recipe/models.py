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
    """The architecture, a key of ADAPTERS in model/adapters: concat (the paper's), conv1d, swiglu, qformer or
    transformer."""
    stack: Count = 5
    """Encoder frames that are concatenated into one speech embedding (5 x 20 ms = 100 ms)."""
    hidden: Count = 2048
    """Width of the hidden layer; with qformer and transformer, of all layers."""
    dropout: Share = 0.0
    """Share of hidden units dropped in training."""
    layers: Count = 2
    """Number of layers of qformer and transformer."""
    heads: Count = 8
    """Attention heads of qformer and transformer; must divide `hidden`."""
    queries: Count = 1
    """Number of speech embeddings that qformer gives for `stack` frames."""
    match_norm: bool = False
    """Whether each speech embedding is scaled to the root mean square of the LLM's token embeddings."""

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
    """The encoder layers that the adapter's input is made of: a number; mean (of all) or mean:6-12; weighted (all) or
    weighted:6-12, a sum with trained weights. null = the last layer."""
    encoder_window: Literal["padded", "cut"] | None = None
    """How an encoder with windows of 30 s (Whisper, Voxtral) encodes shorter audio: padded to 30 s, as in its training,
    or cut to the length of the audio. null = padded. Refused for other encoders."""
    llm: LocalPath
    """Causal LLM: a Hugging Face id, a local folder or a GGUF file."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the frozen parts. auto = bfloat16 where the device computes it natively, else float32. The adapter is
    float32."""
    encoder_dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    """Dtype of the encoder; null = dtype."""
    llm_dtype: Literal["auto", "float32", "bfloat16", "float16", "int8", "nf4"] | None = None
    """Dtype of the LLM; null = dtype. int8 and nf4 quantise its linear layers to 8 and 4 bits (pip install
    'slam-asr[quant]')."""
    activation_checkpointing: bool = False
    """Whether the LLM's activations are recomputed in the backward pass, not kept: less memory, about a third more
    time, the same gradients."""
    adapter: AdapterConfig = AdapterConfig()
    prompt: PromptOrChat = DEFAULT_TEMPLATE
    """The LLM's input text; <speech> is replaced by the speech embeddings. It is saved with the adapter. chat = the
    text that the LLM's own chat template makes of chat_system and chat_user."""
    chat_user: Prompt | None = None
    """The user turn, with prompt: chat; null = "<speech> Transcribe speech to text."."""
    chat_system: Text | None = None
    """The system message, with prompt: chat; null = none."""
    trust_remote_code: bool = False
    """Whether code that comes with a checkpoint may run here."""
    init_from: LocalPath | None = None
    """Run, checkpoint or export whose adapter, and LoRA, initialise a new run; null = random initialisation."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("chat_user", "chat_system"):
            if getattr(self, name) is not None and self.prompt != CHAT:
                raise UserError(f"model.{name} is for prompt: chat, but model.prompt is {self.prompt!r}; leave one out")
        return self

    @property
    def prompt_texts(self) -> tuple[str, str | None, str | None]:
        """The arguments of Prompt after the tokenizer."""
        return self.prompt, self.chat_user, self.chat_system

    @property
    def dtype_of_encoder(self) -> str:
        """`encoder_dtype`, or `dtype` if it is null."""
        return self.encoder_dtype or self.dtype

    @property
    def dtype_of_llm(self) -> str:
        """`llm_dtype`, or `dtype` if it is null."""
        return self.llm_dtype or self.dtype


class LoraConfig(Section):
    """LoRA (arXiv 2106.09685): low-rank matrices on the frozen LLM's linear layers, trained with the adapter."""

    rank: Whole = 0
    """Rank of the matrices; 0 = no LoRA, the LLM stays frozen."""
    alpha: Positive = 16.0
    """The product of the two matrices is scaled by alpha / rank."""
    targets: Names = ("auto",)
    """Layers with LoRA, by the last part of their names, such as [q_proj, v_proj]; auto = the query and value
    projections of attention, all-linear = every linear layer."""
    dropout: Share = 0.0
    """Share of the inputs of LoRA dropped in training."""
    lr: Positive | None = None
    """Peak learning rate of LoRA, also on optim.schedule; null = optim.lr."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for keyword in ("auto", "all-linear"):
            if keyword in self.targets and len(self.targets) > 1:
                raise UserError(f"lora.targets has {keyword} beside other names; give it alone, or names only")
        return self
