"""Opening a run: all parts of it built, checked and put back to where the last checkpoint left them."""

from pathlib import Path
from typing import Any

import torch

from data_prep.json_lines import read_records
from train.data.loader import Loader
from train.data.plan import Epochs
from train.dist.agreement import agree_on, versions
from train.dist.collectives import World, decided_by_first, together
from train.dist.lock import claim
from train.engine.checkpoint import State
from train.engine.engine import Engine, start_deepspeed
from train.engine.schedule import warmup_steps
from train.feature_cache import Keeping
from train.liveness.exit_status import FINISHED, STOPPED
from train.liveness.watchdog import Watchdog
from train.parts import Indexes, Parts, build_parts, identify_encoder, open_data
from train.recipe import auto
from train.recipe.config import Config
from train.recipe.identity import to_yaml
from train.remarks import first_lines, rank_remarks, schedule_remarks
from train.report.cache_speed import CacheSpeed
from train.report.emergence import Emergence
from train.report.evaluate import Evaluator
from train.report.gauges import open_gauges
from train.report.metrics import open_report
from train.report.mishaps import Mishaps
from train.report.prometheus import open_exporter
from train.report.step_timer import StepTimer
from train.resume import find_checkpoint, resume
from train.run import Run
from train.run_folder import require_run_folder, write_file

OF_A_HOST = {
    "run.dir",
    "data.train",
    "data.dev",
    "data.write_features",
    "data.cache_dir",
    "data.cache_gb",
    "data.reader_threads",
    "model.encoder",
    "model.llm",
    "augment.noise_dir",
}
"""Keys that may differ between the ranks: where a host has things. What lies there is agreed on by its digest."""


def open_run(config: Config, deepspeed_json: dict[str, Any], world: World, allow_changes: bool = False) -> Run:
    """The run of a recipe: new, or as its newest whole checkpoint left it. A collective.

    `allow_changes` lets a run go on with a recipe or data other than those it was started with; the change is said.
    """
    start_deepspeed(world, config.run.collective_timeout_seconds)
    folder = Path(config.run.dir)
    unlocked = decided_by_first(world, lambda: _claim(folder, config))
    agree_on(world, {**versions(), "deepspeed": str(deepspeed_json), **_recipe_of_all(config)})
    indexes = together(world, lambda: open_data(config))
    agree_on(world, indexes.digests())
    parts = _open_parts(config, world, indexes, sharded=deepspeed_json["zero_optimization"]["stage"] == 3)
    newest, recipe, notes = find_checkpoint(world, folder)
    config, epochs, total_steps = _decide(config, parts, recipe, world)
    agree_on(world, {"encoder": str(parts.card.encoder), "LLM": str(parts.card.llm), "plan": epochs.digest})
    resumed, told = resume(config, world, newest, parts, epochs, allow_changes) if newest else (None, [])
    state = resumed.state if resumed else None
    step = state.step if state else 0
    decided_by_first(world, lambda: _begin(folder, config))
    report = open_report(folder, config, total_steps, step, world.first)
    report.also(gauges := open_gauges(folder, world, total_steps, step))
    notes = [*([unlocked] if unlocked else []), *parts.notes, *notes, *told]
    for note in [*notes, *_announcement(config, parts, epochs, total_steps, world)]:
        report.say(note)
    loader = Loader(parts.corpus, epochs, parts.model.prompt, world, config.data)
    engine = Engine(parts.model, config.optim, deepspeed_json, loader.slots, world)
    if resumed and state and step:
        engine.scale.restore(*state.loss_scale)
        engine.restore(resumed.moments, step - state.skipped)
    best, best_step = _best(state, config)
    max_lost, keeps = int(config.data.max_lost * len(parts.corpus.ids)), config.data.write_features
    run = Run(
        config=config,
        world=world,
        folder=folder,
        engine=engine,
        loader=loader,
        report=report,
        evaluator=Evaluator(parts.dev, config.eval, world, folder / "dev", report.say) if parts.dev else None,
        card=parts.card,
        data=parts.corpus.index.digest(),
        total_steps=total_steps,
        step=step,
        best=best,
        best_step=best_step,
        mishaps=Mishaps(world, folder, report, max_lost, step, *((state.skipped, state.lost) if state else (0, 0))),
        watchdog=Watchdog(world, folder, config.run.stall_seconds),
        emergence=_emergence(folder, config, total_steps, world),
        gauges=gauges,
        exporter=open_exporter(config.log, world, folder, gauges, report.say),
        pace=StepTimer(parts.model.adapter.parameters(), world.device),
        reading=CacheSpeed(config.data.train if indexes.train.kind == "features" else (), step),
        keeping=Keeping(config.data, parts.corpus, engine, loader, world, report) if keeps else None,
    )
    if run.keeping:
        run.keeping.begin(epochs.locate(step)[0], lambda: run.at("completing the features"))
    return run


def _open_parts(config: Config, world: World, indexes: Indexes, sharded: bool) -> Parts:
    """Model and data. A collective. The encoder is loaded only where there is audio to encode."""
    identity = None
    if not indexes.audio:
        identity = decided_by_first(world, lambda: identify_encoder(config, indexes.train, world.device))
    return together(world, lambda: build_parts(config, world, indexes, identity, sharded))


def _decide(config: Config, parts: Parts, recipe: dict[str, Any], world: World) -> tuple[Config, Epochs, int]:
    """The recipe with what it leaves to auto decided (`recipe` is an earlier checkpoint's), its epochs and steps.

    A collective.
    """
    corpus = parts.corpus
    config = auto.keep(config, recipe)
    config = auto.decide_batch(config, corpus.cost, corpus.longest_cost, _most(parts, world))
    epochs = corpus.epochs(config)
    total_steps = epochs.steps_of(config.optim.epochs, config.optim.max_steps)
    return auto.decide_steps(config, total_steps, parts.dev.cost if parts.dev else 0), epochs, total_steps


def _best(state: State | None, config: Config) -> tuple[float | None, int | None]:
    """The best score of an earlier checkpoint, if it is of what save.best names now, and its step."""
    comparable = state is not None and state.best_by == config.save.best  # a loss does not compare with a WER
    return (state.best, state.best_step) if state and comparable else (None, None)


def _announcement(config: Config, parts: Parts, epochs: Epochs, total_steps: int, world: World) -> list[str]:
    """What is decided, and what of it does not suit the data or the ranks."""
    doubts = schedule_remarks(config, epochs.num_steps(0), total_steps)
    doubts += rank_remarks(config, world.size, parts.corpus.longest_cost)
    return [*first_lines(config, epochs, total_steps, world), *doubts]


def _most(parts: Parts, world: World) -> int:
    """LLM tokens of a micro-batch that every rank's device holds. A collective."""
    frozen = sum(p.nbytes for part in (parts.model.encoder, parts.model.llm) if part for p in part.parameters())
    memory = torch.cuda.get_device_properties(world.device).total_memory if world.device.type == "cuda" else None
    llm: Any = parts.model.llm
    return min(world.gather(auto.tokens_that_fit(llm.config, frozen, memory, llm.dtype.itemsize)))


def _claim(folder: Path, config: Config) -> str:
    require_run_folder(config)
    return claim(folder)


def _emergence(folder: Path, config: Config, total_steps: int, world: World) -> Emergence:
    """The watch as the run's metrics.jsonl leaves it; empty on other ranks."""
    records = read_records(folder / "metrics.jsonl") if world.first else []
    return Emergence.from_metrics(records, config.watch.patience_steps, warmup_steps(config.optim, total_steps))


def _recipe_of_all(config: Config) -> dict[str, str]:
    """What of the recipe all ranks must hold alike, by key."""
    fields = ((f"{section}.{key}", value) for section, own in config.model_dump().items() for key, value in own.items())
    return {key: str(value) for key, value in fields if key not in OF_A_HOST}


def _begin(folder: Path, config: Config) -> None:
    """From here on the run is this recipe's, and neither finished nor stopped."""
    for marker in (FINISHED, STOPPED):
        (folder / marker).unlink(missing_ok=True)
    write_file(folder / "config.yaml", to_yaml(config).encode())
