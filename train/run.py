"""A run: its folder, and all parts of it built, checked and put back to where the last checkpoint left them."""

import fcntl
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_prep.index import ShardIndex
from model.adapter import AdapterSpec, build_adapter
from model.encoders import load_encoder
from model.errors import UserError
from model.llm import Llm, embedding_dim, load_llm
from model.prompt import Prompt
from model.slam_asr import SlamAsr
from model.weights import AdapterCard, load_weights
from train.checkpoint import Checkpoint, State, clear_leftovers, find_newest, keep_newest, load_checkpoint, mark_best, save_checkpoint
from train.config import Config, result_fields, to_yaml
from train.corpus import Corpus, make_corpus, open_indexes, require_features
from train.engine import Engine, start_deepspeed
from train.evaluate import Evaluator, better
from train.loader import Loader
from train.metrics import Report, open_report
from train.plan import Epochs
from train.world import World


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
        self.best = self.best if best is None else best
        return best is not None

    def save(self, is_best: bool = False) -> None:
        """A checkpoint of this step, written by rank 0; all ranks know whether it succeeded. A collective."""
        from dataclasses import replace

        state = State(self.step, result_fields(self.config), self.data, self.world.size, self.best)
        card = replace(self.card, step=self.step)
        checkpoint = Checkpoint(card, self.engine.adapter_weights(), self.engine.moments(), state)
        decided_by_first(self.world, lambda: self._write(checkpoint, is_best))

    def _write(self, checkpoint: Checkpoint, is_best: bool) -> None:
        folder = self.folder / "checkpoints"
        try:
            written = save_checkpoint(folder, checkpoint)
            if is_best:
                mark_best(folder, written)
            if self.config.save.total_limit is not None:
                keep_newest(folder, self.config.save.total_limit)
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


def decided_by_first(world: World, work: Callable[[], Any]) -> Any:
    """What `work` returns (JSON) on rank 0, on every rank; a UserError there is raised on all. A collective."""
    answer: tuple[str, Any] = ("", None)
    if world.first:
        try:
            answer = ("ok", work())
        except UserError as error:
            answer = ("error", str(error))
    kind, value = world.agree(answer)
    if kind == "error":
        raise UserError(value)
    return value


def open_run(config: Config, deepspeed_json: dict[str, Any], world: World, allow_changes: bool = False) -> Run:
    """The run of a recipe: new, or as its newest whole checkpoint left it. A collective.

    `allow_changes` lets a run go on with a recipe or data other than those it was started with; the change is said.
    """
    start_deepspeed(world, config.run.collective_timeout_seconds)
    folder = Path(config.run.dir)
    decided_by_first(world, lambda: _claim(folder, config))
    parts = _build(config, world)
    epochs = _epochs(config, parts.corpus)
    total_steps = min(
        config.optim.max_steps or 2**62, 2**62 if config.optim.epochs is None else epochs.steps_of(config.optim.epochs)
    )
    resumed, notes = _resume(config, world, folder, parts, allow_changes)
    step = resumed.state.step if resumed else 0
    report = open_report(folder, config.log.every_steps, config.log.tensorboard, total_steps, step, world.first)
    for note in parts.notes + notes:
        report.say(note)
    slots = -(-config.batch.micro_batches // world.size)
    engine = Engine(parts.model, config.optim, deepspeed_json, slots, world)
    if resumed and step:
        engine.restore(resumed.moments, step)
    loader = Loader(parts.corpus, epochs, parts.model.prompt, world, config.data.reader_threads)
    evaluator = Evaluator(parts.dev, config.eval, world, folder / "dev") if parts.dev else None
    best = resumed.state.best if resumed else None
    data = parts.corpus.index.digest()
    return Run(config, world, folder, engine, loader, report, evaluator, parts.card, data, total_steps, step, best)


def _claim(folder: Path, config: Config) -> None:
    """Makes the run's folder ours: a lock that the system drops when the process ends, and the resolved recipe."""
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
    (folder / "FINISHED").unlink(missing_ok=True)
    (folder / "config.yaml").write_text(to_yaml(config))


@dataclass(frozen=True)
class Parts:
    """The model and the data."""

    model: SlamAsr
    card: AdapterCard
    corpus: Corpus
    dev: Corpus | None
    notes: list[str]


def _build(config: Config, world: World) -> Parts:
    train, dev = open_indexes(config.data.train), open_indexes(config.data.dev) if config.data.dev else None
    m = config.model
    llm = load_llm(m.llm, m.dtype, world.device, m.trust_remote_code)
    encoder, identity = _encoder(config, world, [index for index in (train, dev) if index is not None])
    a = m.adapter
    torch.manual_seed(config.run.seed)
    spec = AdapterSpec(a.type, a.stack, a.hidden, a.dropout, identity["dim"], embedding_dim(llm.model))
    adapter = build_adapter(spec)
    model = SlamAsr(encoder, adapter, llm, Prompt(llm.tokenizer, m.prompt)).to(world.device)
    card = AdapterCard(spec, identity, m.encoder, llm.fingerprint, m.llm, m.prompt)

    def corpus(index: ShardIndex, limit: int | None, budget: int) -> Corpus:
        return make_corpus(index, config.data, limit, budget, encoder if index.kind == "audio" else None, adapter, model.prompt)

    kept = corpus(train, config.data.max_train_samples, config.batch.tokens)
    kept_dev = None if dev is None else corpus(dev, config.data.max_dev_samples, config.eval.tokens)
    return Parts(model, card, kept, kept_dev, _notes(config, kept, kept_dev, llm, model))


def _encoder(config: Config, world: World, indexes: list[ShardIndex]) -> tuple[Any, dict[str, Any]]:
    """The encoder if some data is audio, and its fingerprint; cached features are checked against it."""
    m = config.model
    arguments = (m.encoder, m.encoder_layer, m.dtype)
    if any(index.kind == "audio" for index in indexes):
        encoder = load_encoder(*arguments, world.device, m.trust_remote_code)
        identity = encoder.fingerprint()
    else:  # the encoder is not needed, only known: rank 0 looks at its weights and lets go of them
        encoder = None
        identity = decided_by_first(world, lambda: load_encoder(*arguments, "cpu", m.trust_remote_code).fingerprint())
    for index in indexes:
        if index.kind == "features":
            require_features(index, identity, m.dtype)
    return encoder, identity


def _notes(config: Config, train: Corpus, dev: Corpus | None, llm: Llm, model: SlamAsr) -> list[str]:
    trained = sum(p.numel() for p in model.adapter.parameters())
    notes = [
        f"train: {len(train.ids):,} utterances, {train.seconds[train.ids].sum() / 3600:.2f} h of {train.index.kind}; "
        f"adapter of {trained:,} parameters between {config.model.encoder} and {config.model.llm}"
    ]
    if config.model.trust_remote_code:
        notes.append("model.trust_remote_code is true: code that comes with the checkpoints runs here")
    for name, corpus in (("train", train), ("dev", dev)):
        notes += [f"{name}: {count:,} utterances left out, {reason}" for reason, count in (corpus.dropped if corpus else {}).items()]
    return notes


def _epochs(config: Config, corpus: Corpus) -> Epochs:
    batch = config.batch
    return Epochs(corpus.ids, corpus.tokens, config.data_seed, batch.tokens, batch.micro_batches, batch.window)


def _resume(config: Config, world: World, folder: Path, parts: Parts, allow_changes: bool) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, its weights already in the adapter; and what to say about it."""
    found, notes = decided_by_first(world, lambda: _newest(folder / "checkpoints"))
    if found is None:
        return None, notes
    checkpoint = load_checkpoint(Path(found))
    changes = _changes(checkpoint, config, parts)
    if changes and not allow_changes:
        raise UserError(
            f"{folder} was started differently: {'; '.join(changes)}; give the recipe it was started with, another run.dir, or "
            "--allow-changes to go on all the same"
        )
    load_weights(parts.model.adapter, checkpoint.weights)
    notes += [f"changed since the run was started: {change}" for change in changes]
    return checkpoint, [*notes, f"resuming from {found} (written by {checkpoint.state.world_size} ranks)"]


def _newest(folder: Path) -> tuple[str | None, list[str]]:
    path, faults = find_newest(folder)
    return None if path is None else str(path), faults


def _changes(checkpoint: Checkpoint, config: Config, parts: Parts) -> list[str]:
    before, now = checkpoint.state.recipe, result_fields(config)
    before = before | {"training data": checkpoint.state.data, "encoder": checkpoint.card.encoder, "LLM": checkpoint.card.llm}
    now = now | {"training data": parts.corpus.index.digest(), "encoder": parts.card.encoder, "LLM": parts.card.llm}
    keys = sorted(before.keys() | now.keys())
    return [f"{key} was {before.get(key)}, is {now.get(key)}" for key in keys if before.get(key) != now.get(key)]
