"""Opens a run: all its parts built, checked and put back to where the last checkpoint left them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.durable import read_records
from train.data.indexes import open_data
from train.data.loader import Loader
from train.dist.collectives import World, agree_on, all_ranks_or_raise, rank0_broadcast, versions
from train.dist.lock import claim
from train.engine.checkpoint import State
from train.engine.engine import Engine, start_deepspeed
from train.engine.schedule import warmup_steps
from train.feature_cache import FeatureCache
from train.liveness.exit_status import FINISHED, STOPPED
from train.liveness.watchdog import RankStatus, Watchdog
from train.parts import Parts, build_parts, decide, describe, identify_encoder, model_remarks, remarks, tokens_that_fit
from train.recipe.config import Config
from train.recipe.identity import to_yaml
from train.recipe.kinds import decided
from train.report.emergence import Emergence
from train.report.evaluate import Evaluator
from train.report.metrics import open_report
from train.report.mishaps import Mishaps
from train.report.overfitting import Overfitting, remedies
from train.report.prometheus import open_exporter, open_gauges
from train.report.speed import CacheSpeed, StepTimer
from train.report.time_left import TimeLeft, open_time_left
from train.resume import comparable, find_checkpoint, restore
from train.run import Observers, Run
from train.run_folder import require_run_folder, write_file
from train.warm_start import begin, open_source

OF_A_HOST = {
    *("run.dir", "data.train", "data.dev", "data.write_features", "data.cache_dir", "data.cache_gb"),
    *("data.reader_threads", "model.encoder", "model.llm", "model.init_from", "augment.noise_dir"),
}
"""Keys that may differ between the ranks: where a host has its files. Ranks agree on the digests of their content."""


def open_run(config: Config, deepspeed_json: dict[str, Any], world: World, allow_changes: bool = False) -> Run:
    """The run of a recipe: new, or as its newest whole checkpoint left it. A collective. `allow_changes` lets a run go
    on with a recipe or data other than those it was started with; changes are reported."""
    start_deepspeed(world, config.run.collective_timeout_seconds)
    folder = Path(config.run.dir)
    lines = [remark] if (remark := rank0_broadcast(world, lambda: claim(require_run_folder(config)))) else []
    agree_on(world, {**versions(), "deepspeed": str(deepspeed_json), **_shared_fields(config)})
    indexes = all_ranks_or_raise(world, lambda: open_data(config))
    agree_on(world, indexes.digests())
    identity = None  # of the encoder, which is loaded only if there is audio
    if all(index.kind == "features" for index in indexes.given):
        identity = rank0_broadcast(world, lambda: identify_encoder(config, indexes.train, world.device))
    checkpoint, found = find_checkpoint(world, folder)
    source = all_ranks_or_raise(world, lambda: open_source(config, checkpoint))
    sharded = deepspeed_json["zero_optimization"]["stage"] == 3
    parts = all_ranks_or_raise(world, lambda: build_parts(config, world.device, indexes, identity, sharded))
    parts = replace(parts, init_sha256=source.digest if source else "")
    recipe = checkpoint.state.recipe if checkpoint else {}
    most_tokens = min(world.gather(tokens_that_fit(config, parts.model, world.device)))
    config, epochs, total_steps = decide(config, parts, recipe, most_tokens)
    models = {"encoder": str(parts.card.encoder), "LLM": str(parts.card.llm), "model.init_from": parts.init_sha256}
    agree_on(world, models | {"plan": epochs.digest})
    state = State(0, {}, "", "", world.size, 0, 0, (1.0, 0), None)
    if checkpoint:
        state = comparable(checkpoint.state, config.save.best, parts.dev)
        found += all_ranks_or_raise(world, lambda: restore(checkpoint, config, parts, epochs.digest, allow_changes))
    elif source:
        found += all_ranks_or_raise(world, lambda: begin(source, parts, allow_changes))
    rank0_broadcast(world, lambda: _begin(folder, config))
    time_left = open_time_left(config, total_steps, epochs.num_steps(0), parts.dev.cost if parts.dev else 0)
    observers = _open_observers(config, world, parts, state, time_left)
    lines += [*found, *describe(config, parts, epochs, total_steps, world)]
    lines += remarks(config, epochs.num_steps(0), total_steps, world.size, parts.corpus.longest_cost)
    observers.say([*lines, *model_remarks(config, parts, world.device, is_new=checkpoint is None)])
    loader = Loader(parts.corpus, epochs, parts.model.prompt, world, config.data)
    engine = Engine(parts.model, config.optim, deepspeed_json, loader.slots, world, config.lora.lr)
    if checkpoint and state.step:
        engine.scale.restore(*state.loss_scale)
        engine.restore(checkpoint.moments, state.step - state.skipped)
    say = observers.report.say
    run = Run(
        config=config,
        world=world,
        folder=folder,
        parts=parts,
        engine=engine,
        loader=loader,
        evaluator=Evaluator(parts.dev, config.eval, world, folder / "dev", say) if parts.dev else None,
        features=FeatureCache(config.data, engine, loader, world, say) if config.data.write_features else None,
        watchdog=Watchdog(world, folder, config.run.stall_seconds),
        observers=observers,
        total_steps=total_steps,
        step=state.step,
        best=state.best,
        best_step=state.best_step,
        misses=state.misses,
    )
    if run.features:
        run.features.begin(epochs.locate(run.step)[0], lambda: run.at(RankStatus.COMPLETING_FEATURES))
    return run


def _shared_fields(config: Config) -> dict[str, str]:
    """The values of a recipe that all ranks must have."""
    fields = {
        f"{section}.{key}": str(value) for section, own in config.model_dump().items() for key, value in own.items()
    }
    return {key: value for key, value in fields.items() if key not in OF_A_HOST}


def _open_observers(config: Config, world: World, parts: Parts, state: State, time_left: TimeLeft) -> Observers:
    """Of a run that resumes from `state`, if its step is not 0. A collective."""
    folder, step, corpus, total_steps = Path(config.run.dir), state.step, parts.corpus, time_left.total_steps
    report = open_report(folder, config, time_left, step, world.first)
    report.also(gauges := open_gauges(folder, world, total_steps, step))
    max_lost = int(config.data.max_lost * len(corpus.ids))
    records = read_records(folder / "metrics.jsonl") if world.first else []
    warmup = warmup_steps(config.optim, total_steps)
    return Observers(
        report=report,
        mishaps=Mishaps(world, folder, report, max_lost, state),
        emergence=Emergence.from_metrics(records, decided(config.watch.patience_steps), warmup),
        overfitting=Overfitting.from_metrics(records, remedies(config)),
        cache_speed=CacheSpeed(config.data.train if corpus.index.kind == "features" else (), step),
        gauges=gauges,
        exporter=open_exporter(config.log, world, folder, gauges, report.say),
        step_timer=StepTimer(parts.model.adapter.parameters(), world.device),
    )


def _begin(folder: Path, config: Config) -> None:
    """From here on the run is this recipe's, and neither finished nor stopped."""
    for marker in (FINISHED, STOPPED):
        (folder / marker).unlink(missing_ok=True)
    write_file(folder / "config.yaml", to_yaml(config).encode())
