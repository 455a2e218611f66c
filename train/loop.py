"""Training, all of it: what `fit` does is what happens, in this order.

A step takes its micro-batches from the plan, adds up the gradient of the mean token loss over all of them on all ranks,
and updates the adapter once. The number of ranks changes who computes a micro-batch, never what is computed.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from train import stop
from train.engine import Engine
from train.loader import Slot
from train.metrics import StepResult
from train.run import Run
from train.schedule import learning_rate
from train.world import AgreedError, World


def fit(run: Run) -> bool:
    """Trains to the last step, or until asked to stop; True if finished.

    The same command goes on from the last checkpoint.
    """
    if run.step == 0:
        if run.config.eval.at_start:
            run.evaluate()
        run.save()  # a disk that is full is found now, not in an hour
    for slots in run.loader.steps(run.step):
        if run.step >= run.total_steps:
            break
        lr = learning_rate(run.step, run.config.optim, run.total_steps)
        result, stopping = train_step(run.engine, slots, lr, run.config.run.seed, run.step, run.world)
        run.step += 1
        run.report.step(run.step, run.loader.epochs.locate(run.step - 1)[0], result)
        improved = run.evaluates(run.step) and run.evaluate()
        if improved or stopping or run.saves(run.step):
            run.save()
        if stopping:
            run.report.say(f"stopped as asked after step {run.step}; the same command goes on from there")
            return False
    run.finish()
    return True


def train_step(
    engine: Engine, slots: Sequence[Slot], lr: float, seed: int, step: int, world: World
) -> tuple[StepResult, bool]:
    """One update of the adapter; what came of it over all ranks, and whether a rank was asked to stop. A collective."""
    counted = [slot for slot in slots if slot.counts]
    (num_targets,) = world.sum(sum(slot.batch.num_targets for slot in counted))
    loss, correct = torch.zeros(2, dtype=torch.float64, device=world.device)
    for slot in slots:
        reseed(seed, step, slot.number)
        output = engine.forward(slot.batch)
        engine.backward(output.loss * slot.counts, num_targets)
        loss += output.loss.detach() * slot.counts
        correct += output.num_correct * slot.counts
    seconds = sum(slot.seconds for slot in counted)
    total_loss, total_correct, seconds, stopping = world.sum(float(loss), float(correct), seconds, float(stop.asked()))
    norm = engine.step(lr) if math.isfinite(total_loss) else math.nan
    if not math.isfinite(norm):  # before anything is saved: every checkpoint can be gone on from
        raise AgreedError(_diverged(step, total_loss, norm, counted, world))
    return StepResult(total_loss, int(num_targets), int(total_correct), norm, engine.lr, seconds), stopping > 0


def reseed(seed: int, step: int, slot: int) -> None:
    """The randomness of one micro-batch, the same on whatever rank it is computed.

    Nothing to save, nothing to restore.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, step, slot]).generate_state(1, np.uint64)[0] >> 1))


def _diverged(step: int, loss: float, norm: float, counted: Sequence[Slot], world: World) -> str:
    keys = [key for part in world.gather([key for slot in counted for key in slot.batch.keys]) for key in part]
    named = ", ".join(keys[:8])
    return (
        f"step {step + 1} has a loss of {loss:g} and a gradient of norm {norm:g} (utterances {named} ...); "
        "lower optim.lr or look at these recordings"
    )
