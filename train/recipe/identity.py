"""The values of a recipe that the trained weights depend on, to compare two runs by, and the recipe as YAML."""

import hashlib
import json
from functools import reduce
from operator import getitem
from typing import Any

import yaml
from pydantic_core import to_jsonable_python

from train.recipe.config import Config
from train.recipe.kinds import dotted_names

WITHOUT_INFLUENCE = {  # keys and whole sections that result_fields leaves out
    *("eval", "save", "watch", "log", "run.dir", "run.collective_timeout_seconds", "run.stall_seconds"),
    *("model.encoder", "model.encoder_window", "model.llm", "model.trust_remote_code", "model.init_from"),
    *("model.activation_checkpointing", "batch.layout", "data.train", "data.dev", "data.max_dev_samples"),
    *("data.reader_threads", "data.retry_seconds", "data.max_lost", "data.write_features", "data.feature_dtype"),
    *("data.cache_dir", "data.cache_gb"),
}


def to_yaml(config: Config) -> str:
    """Every key with its value; load_config reads the same Config back from it."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=1000)


def result_fields(config: Config, init_sha256: str = "") -> dict[str, Any]:
    """{dotted key: value} of all that the weights after a given number of steps depend on.

    Left out are what only observes or saves (eval, save, log), paths and ids (the index digest and the fingerprints of
    encoder and LLM stand for them), `lora` if its rank is 0, and the end of a run where the learning rate does not
    depend on it. `init_sha256` is the sha256 of the weights of model.init_from, and replaces its path."""
    sections = config.model_dump(mode="json")
    fields: dict[str, Any] = {key: reduce(getitem, key.split("."), sections) for key in dotted_names(Config)}
    fields["data.seed"] = config.data_seed
    if config.data.write_features:
        fields["features kept as"] = config.data.feature_dtype
    without = WITHOUT_INFLUENCE if config.lora.rank else WITHOUT_INFLUENCE | {"lora"}
    if config.optim.schedule == "constant" and config.optim.warmup_ratio is None:
        without = without | {"optim.max_steps", "optim.epochs"}
    kept = {key: value for key, value in fields.items() if not {key, key.split(".")[0]} & without}
    return kept | ({"model.init_from": init_sha256} if init_sha256 else {})


def default_of(key: str) -> Any:
    """The default of a dotted key, as result_fields gives it; None for one that has none."""
    fields: Any = Config.model_fields
    *sections, name = key.split(".")
    for section in sections:
        fields = getattr(fields[section].annotation, "model_fields", {}) if section in fields else {}
    return to_jsonable_python(fields[name].default) if name in fields and not fields[name].is_required() else None


def config_digest(config: Config) -> str:
    """sha256 (hex) of result_fields: equal digests, equal data and equal fingerprints give equal weights."""
    return hashlib.sha256(json.dumps(result_fields(config), sort_keys=True).encode()).hexdigest()
