"""A DeepSpeed JSON, read strictly: DeepSpeed itself ignores a misspelled key, and would train with another setting.

Such a file holds DeepSpeed's own concerns only: ZeRO, offload, communication, its diagnostics. What is trained belongs
to the recipe, and a key of the JSON that says it again is refused with the recipe's key. Only known keys pass.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.errors import UserError
from train.recipe.fields import did_you_mean

MAX_BYTES = 64 * 1024

Kind = type | frozenset[str] | Mapping[str, "Kind"]  # a JSON type, one of some texts, or a section

DEVICES = frozenset({"none", "cpu", "nvme"})
OFFLOAD: dict[str, Kind] = {
    "device": DEVICES,
    "nvme_path": str,
    "pin_memory": bool,
    "buffer_count": int,
    "buffer_size": int,
}
OFFLOAD_PARAM: dict[str, Kind] = {**OFFLOAD, "max_in_cpu": int}
OFFLOAD_OPTIMIZER: dict[str, Kind] = {
    **{key: kind for key, kind in OFFLOAD.items() if key != "buffer_size"},
    "pipeline_read": bool,
    "pipeline_write": bool,
    "fast_init": bool,
    "ratio": float,
}
ZERO: dict[str, Kind] = {
    "stage": int,
    "contiguous_gradients": bool,
    "reduce_scatter": bool,
    "reduce_bucket_size": int,
    "use_multi_rank_bucket_allreduce": bool,
    "allgather_partitions": bool,
    "allgather_bucket_size": int,
    "overlap_comm": bool,
    "round_robin_gradients": bool,
    "sub_group_size": int,
    "offload_param": OFFLOAD_PARAM,
    "offload_optimizer": OFFLOAD_OPTIMIZER,
    "stage3_prefetch_bucket_size": int,
    "stage3_param_persistence_threshold": int,
    "stage3_model_persistence_threshold": int,
    "stage3_max_live_parameters": int,
    "stage3_max_reuse_distance": int,
    "stage3_module_granularity_threshold": int,
    "stage3_use_all_reduce_for_fetch_params": bool,
    "stage3_allgather_sequential": bool,
    "zero_hpz_partition_size": int,
    "zero_quantized_weights": bool,
    "zero_quantized_nontrainable_weights": bool,
    "zero_quantized_gradients": bool,
    "memory_efficient_linear": bool,
    "log_trace_cache_warnings": bool,
    "enable_sanity_checks": bool,
}
AIO: dict[str, Kind] = {
    "block_size": int,
    "queue_depth": int,
    "intra_op_parallelism": int,
    "single_submit": bool,
    "overlap_events": bool,
    "use_gds": bool,
}
COMMS_LOGGER: dict[str, Kind] = {"enabled": bool, "verbose": bool, "prof_all": bool, "debug": bool}
KNOWN: dict[str, Kind] = {
    "zero_optimization": ZERO,
    "communication_data_type": frozenset({"fp32", "bf16", "fp16"}),
    "aio": AIO,
    "comms_logger": COMMS_LOGGER,
    "wall_clock_breakdown": bool,
    "memory_breakdown": bool,
    "dump_state": bool,
}
RECIPE_OWNS = {  # a key of DeepSpeed's: where the recipe says it
    "train_batch_size": "batch.tokens and batch.micro_batches",
    "train_micro_batch_size_per_gpu": "batch.tokens",
    "gradient_accumulation_steps": "batch.micro_batches",
    "optimizer": "optim.lr, optim.betas, optim.eps and optim.weight_decay",
    "scheduler": "optim.schedule, optim.warmup_steps and optim.warmup_ratio",
    "gradient_clipping": "optim.clip",
    "steps_per_print": "log.every_steps",
    "tensorboard": "log.tensorboard",
    "checkpoint": "save.strategy and save.every_steps",
    "bf16": "model.dtype",
    "bfloat16": "model.dtype",
    "fp16": "model.dtype",
    "amp": "model.dtype",
    "torch_autocast": "model.dtype",
    "data_types": "model.dtype",
}
ENGINE_OWNS = (  # what would change the mean over the step's target tokens, or which AdamW runs
    "prescale_gradients",
    "gradient_predivide_factor",
    "gradient_allreduce_op",
    "zero_force_ds_cpu_optimizer",
    "zero_allow_untested_optimizer",
)


def find_deepspeed_json(given: str) -> Path:
    """The file of a name in ds_configs/, such as zero3; else `given` is a path itself."""
    named = Path(__file__).parents[2] / "ds_configs" / f"{given}.json"
    return named if named.exists() else Path(given)


def read_deepspeed_json(path: str | Path) -> dict[str, Any]:
    """The checked content of a DeepSpeed JSON; `zero_optimization.stage` is always there (0 where the file is silent).

    UserError, one line with the file and the key, for a key that is unknown, repeated, the recipe's or the engine's,
    for a value of another type, and for an offload that the stage would ignore.
    """
    content = _parse(path)
    for key in content:
        if key in RECIPE_OWNS:
            raise UserError(f"{path}: {key} belongs to the recipe; delete it here and set {RECIPE_OWNS[key]} there")
        if key in ENGINE_OWNS:
            raise UserError(f"{path}: {key} is set by the training engine, which knows what its loss needs; delete it")
    checked = _section(content, KNOWN, str(path), "")
    zero = checked.setdefault("zero_optimization", {})
    _check_stage(zero, zero.setdefault("stage", 0), str(path))
    return checked


def _parse(path: str | Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read the DeepSpeed JSON {path}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{path} is larger than {MAX_BYTES // 1024} KiB, which no DeepSpeed JSON is")
    try:
        content = json.loads(data, object_pairs_hook=lambda pairs: _without_repeats(pairs, path))
    except UserError:
        raise
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError):  # not UTF-8, a number of thousands of digits, brackets without end
        raise UserError(f"{path} is not a JSON text") from None
    if not isinstance(content, dict):
        raise UserError(f'{path} is no DeepSpeed JSON; it is an object, as {{"zero_optimization": {{"stage": 1}}}}')
    return content


def _without_repeats(pairs: list[tuple[str, Any]], path: str | Path) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise UserError(f"{path}: {next(key for key in keys if keys.count(key) > 1)} is given twice; keep one")
    return content


def _section(content: dict[str, Any], known: Mapping[str, Kind], path: str, prefix: str) -> dict[str, Any]:
    for key in content:
        if key not in known:
            raise UserError(f"{path}: unknown key {prefix}{key}{did_you_mean(key, known)}")
    return {key: _value(value, known[key], path, f"{prefix}{key}") for key, value in content.items()}


def _value(value: Any, kind: Kind, path: str, key: str) -> Any:
    if isinstance(kind, Mapping):
        if not isinstance(value, dict):
            raise _refused(path, key, value, "an object")
        return _section(value, kind, path, f"{key}.")
    if isinstance(kind, frozenset):
        if value not in sorted(kind):
            raise _refused(path, key, value, f"one of {', '.join(sorted(kind))}")
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**63
    if kind is int and number and value == int(value):
        return int(value)  # DeepSpeed's own examples write 5e8
    if kind is float and number and value <= 1:
        return float(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    expected = {int: "a whole number from 0 up", float: "a number from 0 to 1", bool: "true or false", str: "text"}
    raise _refused(path, key, value, expected[kind])


def _check_stage(zero: dict[str, Any], stage: int, path: str) -> None:
    if stage > 3:
        raise _refused(path, "zero_optimization.stage", stage, "0, 1, 2 or 3")
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


def _refused(path: str, key: str, value: Any, expected: str) -> UserError:
    hint = '; "auto" is of the Hugging Face Trainer: leave the key out' if value == "auto" else ""
    return UserError(f"{path}: {key} is {json.dumps(value)[:80]}, expected {expected}{hint}")
