"""A run: its folder, and all parts of it built, checked and put back to where the last checkpoint left them."""

import fcntl
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.durable import write_durably
from model.errors import UserError
from model.weights import AdapterCard, load_weights
from train.checkpoint import (
    Checkpoint,
    State,
    clear_leftovers,
    find_newest,
    keep_newest,
    load_checkpoint,
    mark_best,
    save_checkpoint,
)
from train.config import Config, result_fields, to_yaml
from train.corpus import Corpus
from train.engine import Engine, start_deepspeed
from train.evaluate import Evaluator, better
from train.loader import Loader
from train.metrics import Report, open_report
from train.parts import Parts, build_parts, identify_encoder, open_data
from train.plan import Epochs
from train.world import World, decided_by_first, together


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
        scores = self.evaluator(self.engine, self.step)
        self.report.evaluation(self.step, scores)
        best = better(scores, self.config.save.best, self.best)
        if best is not None:
            self.best, self.best_step = best, self.step
        return best is not None

    def save(self) -> None:
        """A checkpoint of this step, written by rank 0; all ranks know whether it succeeded. A collective."""
        best = (self.best, self.config.save.best, self.best_step)
        state = State(self.step, result_fields(self.config), self.data, self.world.size, *best)
        card = replace(self.card, step=self.step)
        checkpoint = Checkpoint(card, self.engine.adapter_weights(), self.engine.moments(), state)
        decided_by_first(self.world, lambda: self._write(checkpoint))

    def _write(self, checkpoint: Checkpoint) -> None:
        folder = self.folder / "checkpoints"
        try:
            save_checkpoint(folder, checkpoint)
            if self.best_step is not None:
                mark_best(folder, self.best_step)
            if self.config.save.total_limit is not None:
                keep_newest(folder, self.config.save.total_limit, self.step)
            clear_leftovers(folder)
        except OSError as error:
            size = sum(t.nbytes for t in (checkpoint.weights | checkpoint.moments).values())
            raise UserError(
                f"cannot save a checkpoint of {size:,} bytes in {folder}: {error.strerror}; earlier ones are whole, "
                "mend this and give the same command again"
            ) from error

    def finish(self) -> None:
        """Marks the run as finished: the only proof of success, as exit codes of launchers are none."""
        if self.world.first:
            (self.folder / "FINISHED").write_text(f"{self.step}\n")
        self.report.say(f"finished at step {self.step}: {self.folder / 'checkpoints'}")


def open_run(config: Config, deepspeed_json: dict[str, Any], world: World, allow_changes: bool = False) -> Run:
    """The run of a recipe: new, or as its newest whole checkpoint left it. A collective.

    `allow_changes` lets a run go on with a recipe or data other than those it was started with; the change is said.
    """
    start_deepspeed(world, config.run.collective_timeout_seconds)
    folder = Path(config.run.dir)
    decided_by_first(world, lambda: _claim(folder))
    indexes = together(world, lambda: open_data(config))
    identity = None if indexes.audio else decided_by_first(world, lambda: identify_encoder(config))
    parts = together(world, lambda: build_parts(config, world, indexes, identity))
    epochs = _epochs(config, parts.corpus)
    total_steps = epochs.steps_of(config.optim.epochs, config.optim.max_steps)
    resumed, notes = _resume(config, world, folder, parts, allow_changes)
    step = resumed.state.step if resumed else 0
    decided_by_first(world, lambda: _begin(folder, config))
    report = open_report(folder, config.log.every_steps, config.log.tensorboard, total_steps, step, world.first)
    for note in parts.notes + notes:
        report.say(note)
    loader = Loader(parts.corpus, epochs, parts.model.prompt, world, config.data.reader_threads)
    engine = Engine(parts.model, config.optim, deepspeed_json, loader.slots, world)
    if resumed and step:
        engine.restore(resumed.moments, step)
    evaluator = Evaluator(parts.dev, config.eval, world, folder / "dev") if parts.dev else None
    best = None, None
    if resumed and resumed.state.best_by == config.save.best:  # a loss does not compare with a WER
        best = resumed.state.best, resumed.state.best_step
    data = parts.corpus.index.digest()
    return Run(config, world, folder, engine, loader, report, evaluator, parts.card, data, total_steps, step, *best)


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
    """From here on the run is this recipe's, and not finished."""
    (folder / "FINISHED").unlink(missing_ok=True)
    write_durably(folder / "config.yaml", to_yaml(config).encode())


def _epochs(config: Config, corpus: Corpus) -> Epochs:
    batch = config.batch
    return Epochs(corpus.ids, corpus.tokens, config.data_seed, batch.tokens, batch.micro_batches, batch.window)


def _resume(
    config: Config, world: World, folder: Path, parts: Parts, allow_changes: bool
) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, its weights already in the adapter; and what to say about it."""
    found, notes = decided_by_first(world, lambda: _newest(folder / "checkpoints"))
    if found is None:
        return None, notes
    checkpoint, changes = together(world, lambda: _take_up(Path(found), config, parts, allow_changes))
    notes += [f"changed since the run was started: {change}" for change in changes]
    return checkpoint, [*notes, f"resuming from {found} (written by {checkpoint.state.world_size} ranks)"]


def _take_up(path: Path, config: Config, parts: Parts, allow_changes: bool) -> tuple[Checkpoint, list[str]]:
    checkpoint = load_checkpoint(path)
    changes = _changes(checkpoint, config, parts)
    if changes and not allow_changes:
        raise UserError(
            f"{config.run.dir} was started differently: {'; '.join(changes)}; give the recipe it was started with, "
            "another run.dir, or --allow-changes to go on all the same"
        )
    load_weights(parts.model.adapter, checkpoint.weights)
    return checkpoint, changes


def _newest(folder: Path) -> tuple[str | None, list[str]]:
    path, faults = find_newest(folder)
    return None if path is None else str(path), faults


def _changes(checkpoint: Checkpoint, config: Config, parts: Parts) -> list[str]:
    before, now = checkpoint.state.recipe, result_fields(config)
    before = before | {
        "training data": checkpoint.state.data,
        "encoder": checkpoint.card.encoder,
        "LLM": checkpoint.card.llm,
    }
    now = now | {"training data": parts.corpus.index.digest(), "encoder": parts.card.encoder, "LLM": parts.card.llm}
    keys = sorted(before.keys() | now.keys())
    return [f"{key} was {before.get(key)}, is {now.get(key)}" for key in keys if before.get(key) != now.get(key)]
