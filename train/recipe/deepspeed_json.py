"""A DeepSpeed JSON, read strictly: DeepSpeed itself ignores a misspelled key, and would train with another setting.

Such a file holds DeepSpeed's own concerns only: ZeRO, offload, communication, its diagnostics. What is trained belongs
to the recipe, and a key of the JSON that says it again is refused with the recipe's key. Only known keys pass."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, create_model

from data_prep.durable import strict_json
from model.errors import UserError
from train.recipe.kinds import STRICT, Ratio, validated
from train.recipe.yaml import Document

MAX_BYTES = 64 * 1024
Whole = Annotated[  # DeepSpeed's own examples write 5e8
    int,
    Field(ge=0, lt=2**63),
    BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value),
]


def _section(whole: str, switches: str, **others: Any) -> type[BaseModel]:
    """A section with whole numbers and true-or-false switches of these names, and other keys; none must be given."""
    kinds = dict.fromkeys(whole.split(), Whole) | dict.fromkeys(switches.split(), bool) | others
    fields: dict[str, Any] = {name: (kind, None) for name, kind in kinds.items()}
    return create_model("Section", __config__=STRICT, **fields)


OFFLOAD = {"device": Literal["none", "cpu", "nvme"], "nvme_path": str}
OffloadParam = _section("buffer_count buffer_size max_in_cpu", "pin_memory", **OFFLOAD)
OffloadOptimizer = _section("buffer_count", "pin_memory pipeline_read pipeline_write fast_init", ratio=Ratio, **OFFLOAD)
Zero = _section(
    """stage reduce_bucket_size allgather_bucket_size sub_group_size stage3_prefetch_bucket_size
    stage3_param_persistence_threshold stage3_model_persistence_threshold stage3_max_live_parameters
    stage3_max_reuse_distance stage3_module_granularity_threshold zero_hpz_partition_size""",
    """contiguous_gradients reduce_scatter use_multi_rank_bucket_allreduce allgather_partitions overlap_comm
    round_robin_gradients stage3_use_all_reduce_for_fetch_params stage3_allgather_sequential zero_quantized_weights
    zero_quantized_nontrainable_weights zero_quantized_gradients memory_efficient_linear log_trace_cache_warnings
    enable_sanity_checks""",
    offload_param=OffloadParam,
    offload_optimizer=OffloadOptimizer,
)
Known = _section(
    "",
    "wall_clock_breakdown memory_breakdown dump_state",
    zero_optimization=Zero,
    communication_data_type=Literal["fp32", "bf16", "fp16"],
    aio=_section("block_size queue_depth intra_op_parallelism", "single_submit overlap_events use_gds"),
    comms_logger=_section("", "enabled verbose prof_all debug"),
)
RECIPE_OWNS = {  # keys of the recipe: DeepSpeed's keys for the same
    "batch.micro_batches": ("gradient_accumulation_steps",),
    "batch.tokens and batch.micro_batches": ("train_batch_size", "train_micro_batch_size_per_gpu"),
    "optim.lr, optim.betas, optim.eps and optim.weight_decay": ("optimizer",),
    "optim.schedule, optim.warmup_steps and optim.warmup_ratio": ("scheduler",),
    "optim.clip": ("gradient_clipping",),
    "log.every_steps and log.tensorboard": ("steps_per_print", "tensorboard"),
    "save.strategy and save.every_steps": ("checkpoint",),
    "model.dtype": ("bf16", "bfloat16", "fp16", "amp", "torch_autocast", "data_types"),
}
ENGINE_OWNS = (  # what would change the mean over the step's target tokens, or which AdamW runs
    *("prescale_gradients", "gradient_predivide_factor", "gradient_allreduce_op"),
    *("zero_force_ds_cpu_optimizer", "zero_allow_untested_optimizer"),
)


def read_deepspeed_json(name: str | Path) -> dict[str, Any]:
    """The checked content of a DeepSpeed JSON, of a path or a name in ds_configs/, such as zero3.

    `zero_optimization.stage` is always there (0 where the file is silent).
    UserError, one line with the file and the key, for a key that is unknown, repeated, the recipe's or the engine's,
    for a value of another type, and for an offload that the stage would ignore."""
    shipped = Path(__file__).parents[2] / "ds_configs" / f"{name}.json"
    path = shipped if shipped.exists() else Path(name)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read the DeepSpeed JSON {path}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{path} is larger than {MAX_BYTES // 1024} KiB, which no DeepSpeed JSON is")
    try:
        content = strict_json(data)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, a repeated key, brackets without end ...
        raise UserError(f"{path} is not a JSON text: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f'{path} is no DeepSpeed JSON; it is an object, as {{"zero_optimization": {{"stage": 1}}}}')
    for ours, theirs in RECIPE_OWNS.items():
        for key in (key for key in theirs if key in content):
            raise UserError(f"{path}: {key} belongs to the recipe; delete it here and set {ours} there")
    for key in (key for key in ENGINE_OWNS if key in content):
        raise UserError(f"{path}: {key} is set by the training engine, which knows what its loss needs; delete it")
    known = validated(Known, Document(content, {(): str(path)}), "the DeepSpeed JSON")
    checked = known.model_dump(exclude_unset=True)
    zero = checked.setdefault("zero_optimization", {})
    _check_stage(zero, zero.setdefault("stage", 0), path)
    return checked


def _check_stage(zero: dict[str, Any], stage: int, path: Path) -> None:
    if stage > 3:
        raise UserError(f"{path}: zero_optimization.stage is {stage}, expected 0, 1, 2 or 3")
    for name, least in (("offload_param", 3), ("offload_optimizer", 1)):
        offload = zero.get(name, {})
        device = offload.get("device", "none")
        if device == "nvme" and not offload.get("nvme_path"):
            raise UserError(f"{path}: zero_optimization.{name}.nvme_path is missing; name a folder on the fast disk")
        least = 3 if device == "nvme" else least
        if device != "none" and stage < least:
            raise UserError(
                f"{path}: zero_optimization.{name} to {device} needs stage {least}, and DeepSpeed would ignore it in "
                f"stage {stage}; set the stage or delete the offload"
            )
