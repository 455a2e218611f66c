"""Opening a run: all parts of it built, checked and put back to where the last checkpoint left them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.durable import write_durably
from train.agreement import agree_on, versions
from train.config import Config
from train.emergence import Emergence
from train.endings import FINISHED, STOPPED
from train.engine import Engine, start_deepspeed
from train.evaluate import Evaluator
from train.exporter import open_exporter
from train.gauges import open_gauges
from train.identity import to_yaml
from train.keeping import Keeping
from train.loader import Loader
from train.lock import claim
from train.metrics import open_report
from train.mishaps import Mishaps
from train.pace import Pace
from train.parts import Indexes, build_parts, identify_encoder, open_data
from train.reading import Reading
from train.resume import resume
from train.run import Run
from train.schedule import warmup_steps
from train.watchdog import Watchdog
from train.world import World, decided_by_first, together

OF_A_HOST = {
    "run.dir",
    "data.train",
    "data.dev",
    "data.write_features",
    "data.cache_dir",
    "data.cache_gb",
    "data.reader_threads",
    "log.prometheus_textfiles",
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
    unlocked = decided_by_first(world, lambda: claim(folder))
    agree_on(world, {**versions(), "deepspeed": str(deepspeed_json), **_recipe_of_all(config)})
    sharded = deepspeed_json["zero_optimization"]["stage"] == 3
    indexes = together(world, lambda: open_data(config))
    agree_on(world, indexes.digests())
    identity = _known_encoder(config, world, indexes)
    parts = together(world, lambda: build_parts(config, world, indexes, identity, sharded))
    epochs = parts.corpus.epochs(config)
    agree_on(world, {"encoder": str(parts.card.encoder), "LLM": str(parts.card.llm), "plan": epochs.digest})
    total_steps = epochs.steps_of(config.optim.epochs, config.optim.max_steps)
    resumed, notes = resume(config, world, folder, parts, epochs, allow_changes)
    state = resumed.state if resumed else None
    step = state.step if state else 0
    decided_by_first(world, lambda: _begin(folder, config))
    report = open_report(folder, config, total_steps, step, world.first)
    report.also(gauges := open_gauges(folder, world, total_steps, step))
    for note in [*([unlocked] if unlocked else []), *parts.notes, *notes]:
        report.say(note)
    loader = Loader(parts.corpus, epochs, parts.model.prompt, world, config.data)
    engine = Engine(parts.model, config.optim, deepspeed_json, loader.slots, world)
    if resumed and state and step:
        engine.scale.restore(*state.loss_scale)
        engine.restore(resumed.moments, step - state.skipped)
    comparable = state and state.best_by == config.save.best  # a loss does not compare with a WER
    best = (state.best, state.best_step) if state and comparable else (None, None)
    max_lost, keeps = int(config.data.max_lost * len(parts.corpus.ids)), config.data.write_features
    run = Run(
        config=config,
        world=world,
        folder=folder,
        engine=engine,
        loader=loader,
        report=report,
        evaluator=Evaluator(parts.dev, config.eval, world, folder / "dev") if parts.dev else None,
        card=parts.card,
        data=parts.corpus.index.digest(),
        total_steps=total_steps,
        step=step,
        best=best[0],
        best_step=best[1],
        mishaps=Mishaps(world, folder, report, max_lost, step, *((state.skipped, state.lost) if state else (0, 0))),
        watchdog=Watchdog(world, folder, config.run.stall_seconds),
        emergence=_emergence(folder, config, total_steps, world),
        gauges=gauges,
        exporter=open_exporter(config.log, world, folder, gauges, report.say),
        pace=Pace(parts.model.adapter.parameters(), world.device),
        reading=Reading(config.data.train if indexes.train.kind == "features" else (), step),
        keeping=Keeping(config.data, parts.corpus, engine, loader, world, report) if keeps else None,
    )
    if run.keeping:
        run.keeping.begin(epochs.locate(step)[0], lambda: run.at("completing the features"))
    return run


def _known_encoder(config: Config, world: World, indexes: Indexes) -> dict[str, Any] | None:
    """The encoder's fingerprint where all data is cached features; None where the encoder itself is needed."""
    if indexes.audio:
        return None
    return decided_by_first(world, lambda: identify_encoder(config, indexes.train, world.device))


def _emergence(folder: Path, config: Config, total_steps: int, world: World) -> Emergence:
    """Told what the run has done so far."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if world.first and path.exists() else []
    return Emergence.from_metrics(lines, config.watch.patience_steps, warmup_steps(config.optim, total_steps))


def _recipe_of_all(config: Config) -> dict[str, str]:
    """What of the recipe all ranks must hold alike, by key."""
    fields = ((f"{section}.{key}", value) for section, own in asdict(config).items() for key, value in own.items())
    return {key: str(value) for key, value in fields if key not in OF_A_HOST}


def _begin(folder: Path, config: Config) -> None:
    """From here on the run is this recipe's, and neither finished nor stopped."""
    for marker in (FINISHED, STOPPED):
        (folder / marker).unlink(missing_ok=True)
    write_durably(folder / "config.yaml", to_yaml(config).encode())
