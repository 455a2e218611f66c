"""What of a recipe its result follows from, and the recipe as text: how two runs are compared."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import yaml

from train.recipe.config import Config

WITHOUT_INFLUENCE = (  # keys and whole sections that result_fields leaves out
    *("eval", "save", "watch", "log", "run.dir", "run.collective_timeout_seconds", "run.stall_seconds"),
    *("model.encoder", "model.llm", "model.trust_remote_code", "batch.layout"),
    *("data.train", "data.dev", "data.max_dev_samples", "data.reader_threads"),
    *(
        "data.retry_seconds",
        "data.max_lost",
        "data.write_features",
        "data.feature_dtype",
        "data.cache_dir",
        "data.cache_gb",
    ),
)


def to_yaml(config: Config) -> str:
    """Every key with its value; load_config reads the same Config back from it."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False, allow_unicode=True, width=1000)


def result_fields(config: Config) -> dict[str, Any]:
    """What the weights after a given number of steps follow from, as {dotted key: value}, to compare two runs by.

    Not among them: what only watches or keeps (eval, save, log), where things lie (paths and ids; the index digest and
    the fingerprints of encoder and LLM stand for them), and the end of a run whose learning rate does not depend on it.
    """
    fields = _flat(_plain(asdict(config))) | {"data.seed": config.data_seed}
    if config.data.write_features:
        fields["features kept as"] = config.data.feature_dtype
    without = set(WITHOUT_INFLUENCE)
    if config.optim.schedule == "constant" and config.optim.warmup_ratio is None:
        without |= {"optim.max_steps", "optim.epochs"}
    return {key: value for key, value in fields.items() if not {key, key.split(".")[0]} & without}


def config_digest(config: Config) -> str:
    """sha256 (hex) of result_fields: equal digests, equal data and equal fingerprints give equal weights."""
    return hashlib.sha256(json.dumps(result_fields(config), sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _flat(sections: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in sections.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
