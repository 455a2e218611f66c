"""A run: its folder, and all parts of it built, checked and put back to where the last checkpoint left them."""

import fcntl
import math
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.durable import write_durably
from model.errors import UserError
from model.weights import AdapterCard
from train import stop
from train.agreement import agree_on, versions
from train.checkpoint import (
    Checkpoint,
    State,
    clear_leftovers,
    keep_newest,
    mark_best,
    save_checkpoint,
)
from train.config import Config
from train.emergence import Emergence
from train.engine import Engine, start_deepspeed
from train.evaluate import Evaluator, audio_gap, better
from train.identity import result_fields, to_yaml
from train.loader import Loader, Share
from train.metrics import Report, StepResult, open_report
from train.mishaps import Mishaps
from train.parts import build_parts, identify_encoder, open_data
from train.plan import Epochs
from train.resume import resume
from train.schedule import warmup_steps
from train.tally import Tally
from train.watchdog import Watchdog
from train.world import World, decided_by_first, together

FINISHED, STOPPED = "FINISHED", "STOPPED"
"""Markers in the run's folder: the last step is done; left when asked, `STEP REASON`."""
OF_A_HOST = {
    "run.dir",
    "data.train",
    "data.dev",
    "data.reader_threads",
    "model.encoder",
    "model.llm",
    "augment.noise_dir",
}
"""Keys that may differ between the ranks: where a host has things. What lies there is agreed on by its digest."""


@dataclass
class Run:
    """Everything that `fit` touches."""

    config: Config
    world: World
    folder: Path
    engine: Engine
    loader: Loader
    report: Report
    evaluator: Evaluator | None
    card: AdapterCard
    data: str
    """Identity of the training data."""
    total_steps: int
    step: int
    """Optimizer steps done."""
    best: float | None
    """Best score on the dev set, lower is better, and the step that has it; None before the first."""
    best_step: int | None
    mishaps: Mishaps
    watchdog: Watchdog
    emergence: Emergence

    def at(self, where: str) -> None:
        """Tells the watchdog where this rank stands."""
        self.watchdog.at(where, self.step)

    def check(self, coming: Share, tally: Tally) -> None:
        """Ends the run on all ranks if one could not read its part of the coming step; names what is left out of it.

        A collective.
        """
        if tally.faults:
            together(self.world, coming.check)
        if tally.lost:
            self.mishaps.lose(self.step + 1, coming.lost)

    def account(self, share: Share, result: StepResult) -> None:
        """Counts the step that is done: its figures, its mishaps, whether the LLM listens. A collective."""
        finite = math.isfinite(result.grad_norm)
        lowered = self.engine.scale.update(finite)
        if finite:
            self.mishaps.step_was_fine()
        else:
            self.mishaps.skip(self.step, result.tally.loss, result.grad_norm, share.keys, lowered)
        if self.loader.retries:
            self.report.note("read_again", self.loader.retries)
        every = self.config.watch.every_steps
        if every is not None and self.step % every == 0:
            self._ablate(share)
        figures = self.report.step(self.step, self.loader.epochs.locate(self.step - 1)[0], result)
        if figures is not None and math.isfinite(figures["loss"]):
            self._say(self.emergence.accuracy(self.step, figures["accuracy"], figures["loss"]))

    def _ablate(self, share: Share) -> None:
        self.at("comparing with exchanged speech")
        gap = audio_gap(self.engine, share, self.world)
        if gap is not None:
            self.report.note("audio_gap", gap)
            self._say(self.emergence.gap(self.step, gap))

    def _say(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.report.say(line)

    def epoch_ends(self, step: int) -> bool:
        """Whether the epoch is over after `step` steps."""
        return self.loader.epochs.locate(step)[1] == 0

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        save = self.config.save
        due = self.epoch_ends(step) if save.strategy == "epoch" else step % save.every_steps == 0
        return due or step == self.total_steps

    def evaluates(self, step: int) -> bool:
        """Whether validation is due after `step` steps."""
        every = self.config.eval.every_steps
        return self.saves(step) if every is None else step % every == 0 or step == self.total_steps

    def evaluate(self) -> bool:
        """Scores the dev set, if there is one; True if no checkpoint was as good. A collective."""
        if self.evaluator is None:
            return False
        scores = self.evaluator(self.engine, self.step, self.at)
        self.report.evaluation(self.step, scores)
        best = better(scores, self.config.save.best, self.best)
        if best is not None:
            self.best, self.best_step = best, self.step
        return best is not None

    def save(self) -> None:
        """A checkpoint of this step, written by rank 0; all ranks know whether it succeeded. A collective."""
        self.at("saving")
        state = State(
            step=self.step,
            recipe=result_fields(self.config),
            data=self.data,
            plan=self.loader.epochs.digest,
            world_size=self.world.size,
            skipped=self.mishaps.skipped,
            lost=self.mishaps.lost,
            loss_scale=(self.engine.scale.value, self.engine.scale.steady),
            best=self.best,
            best_by=self.config.save.best,
            best_step=self.best_step,
        )
        card = replace(self.card, step=self.step)
        checkpoint = Checkpoint(card, self.engine.adapter_weights(), self.engine.moments(), state)
        decided_by_first(self.world, lambda: self._write(checkpoint))

    def _write(self, checkpoint: Checkpoint) -> None:
        folder = self.folder / "checkpoints"
        clear_leftovers(folder)  # of a save that was killed: this one may need the space
        try:
            save_checkpoint(folder, checkpoint)
            if self.best_step is not None:
                mark_best(folder, self.best_step)
            if self.config.save.total_limit is not None:
                keep_newest(folder, self.config.save.total_limit, self.step)
            clear_leftovers(folder)
        except OSError as error:
            clear_leftovers(folder)
            size = sum(t.nbytes for t in (checkpoint.weights | checkpoint.moments).values())
            raise UserError(
                f"cannot save a checkpoint of {size:,} bytes in {folder}: {error.strerror}; earlier ones are whole, "
                "mend this and give the same command again"
            ) from error

    def stopped(self) -> None:
        """Marks the run as stopped when asked; the same command goes on. A collective."""
        reason = next(reason for reason in self.world.gather(stop.reason()) if reason)
        self._mark(STOPPED, f"{self.step} {reason}\n")
        self.report.say(f"stopped as asked ({reason}) after step {self.step}; the same command goes on from there")

    def finish(self) -> None:
        """Marks the run as finished: the only proof of success, as exit codes of launchers are none. A collective."""
        self._mark(FINISHED, f"{self.step}\n")
        self.report.say(f"finished at step {self.step}: {self.folder / 'checkpoints'}")

    def _mark(self, name: str, text: str) -> None:
        decided_by_first(self.world, lambda: write_durably(self.folder / name, text.encode()))

    def close(self) -> None:
        """After the last step, or whatever ended it."""
        self.watchdog.close()
        self.report.close()


def open_run(config: Config, deepspeed_json: dict[str, Any], world: World, allow_changes: bool = False) -> Run:
    """The run of a recipe: new, or as its newest whole checkpoint left it. A collective.

    `allow_changes` lets a run go on with a recipe or data other than those it was started with; the change is said.
    """
    start_deepspeed(world, config.run.collective_timeout_seconds)
    folder = Path(config.run.dir)
    decided_by_first(world, lambda: _claim(folder))
    agree_on(world, {**versions(), "deepspeed": str(deepspeed_json), **_recipe_of_all(config)})
    sharded = deepspeed_json["zero_optimization"]["stage"] == 3
    indexes = together(world, lambda: open_data(config))
    agree_on(world, indexes.digests())
    identity = None if indexes.audio else decided_by_first(world, lambda: identify_encoder(config))
    parts = together(world, lambda: build_parts(config, world, indexes, identity, sharded))
    epochs = Epochs(
        parts.corpus.ids, parts.corpus.tokens_in, config.data_seed, config.batch.tokens, config.batch.micro_batches
    )
    agree_on(world, {"encoder": str(parts.card.encoder), "LLM": str(parts.card.llm), "plan": epochs.digest})
    total_steps = epochs.steps_of(config.optim.epochs, config.optim.max_steps)
    resumed, notes = resume(config, world, folder, parts, epochs, allow_changes)
    state = resumed.state if resumed else None
    step = state.step if state else 0
    decided_by_first(world, lambda: _begin(folder, config))
    report = open_report(folder, config.log.every_steps, config.log.tensorboard, total_steps, step, world.first)
    for note in parts.notes + notes:
        report.say(note)
    loader = Loader(parts.corpus, epochs, parts.model.prompt, world, config.data)
    engine = Engine(parts.model, config.optim, deepspeed_json, loader.slots, world)
    if resumed and state and step:
        engine.scale.restore(*state.loss_scale)
        engine.restore(resumed.moments, step - state.skipped)
    best = None, None
    if state and state.best_by == config.save.best:  # a loss does not compare with a WER
        best = state.best, state.best_step
    max_lost = int(config.data.max_lost * len(parts.corpus.ids))
    return Run(
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
    )


def _emergence(folder: Path, config: Config, total_steps: int, world: World) -> Emergence:
    """Told what the run has done so far."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if world.first and path.exists() else []
    return Emergence.from_metrics(lines, config.watch.patience_steps, warmup_steps(config.optim, total_steps))


def _recipe_of_all(config: Config) -> dict[str, str]:
    """What of the recipe all ranks must hold alike, by key."""
    fields = ((f"{section}.{key}", value) for section, own in asdict(config).items() for key, value in own.items())
    return {key: str(value) for key, value in fields if key not in OF_A_HOST}


def _claim(folder: Path) -> None:
    """Makes the run's folder ours, by a lock that the system drops when the process ends, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "LOCK", os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = (folder / "LOCK").read_text().strip()
        raise UserError(f"{folder} is in use by {holder}; wait for it, or give another run.dir") from None
    except OSError as error:
        raise UserError(f"cannot write in run.dir {str(folder)!r}: {error.strerror}; give another run.dir") from None
    os.truncate(lock, 0)
    os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def _begin(folder: Path, config: Config) -> None:
    """From here on the run is this recipe's, and neither finished nor stopped."""
    for marker in (FINISHED, STOPPED):
        (folder / marker).unlink(missing_ok=True)
    write_durably(folder / "config.yaml", to_yaml(config).encode())
