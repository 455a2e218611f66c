"""Training, all of it: what `fit` does is what happens, in this order.

A step takes its micro-batches from the plan, adds up the gradient of the mean token loss over all of them on all ranks,
and updates the adapter once. The number of ranks changes who computes a micro-batch, never what is computed."""

import numpy as np
import torch

from train.data.loader import Share
from train.engine.schedule import learning_rate
from train.liveness.watchdog import RankStatus
from train.report.metrics import StepResult, add_up
from train.run import Run


def fit(run: Run) -> bool:
    """Trains to the last step, to the end of eval.patience, or until asked to stop; True if finished. The same command
    goes on from the last checkpoint."""
    if run.step == 0:
        if run.config.eval.at_start:
            run.evaluate()
        run.save()  # a full disk is found now, not in an hour
    shares = run.loader.steps(run.step)
    next_share = next(shares)
    sums = add_up(run.world, 0.0, 0.0, None, next_share)
    while not run.done:
        run.check(next_share, sums)
        share, num_targets = next_share, sums.targets
        lr = learning_rate(run.step, run.config.optim, run.total_steps)
        loss, correct, norm = train_step(run, share, num_targets, lr)
        run.complete_features()
        run.at(RankStatus.READING)
        next_share = next(shares)
        run.at(RankStatus.WAITING)
        sums = add_up(run.world, loss, correct, share, next_share)
        run.step += 1
        run.account(share, StepResult(num_targets, norm, run.engine.lr, share.load_balance, sums))
        improved = run.eval_due() and run.evaluate()
        if improved or sums.stops or run.save_due():
            run.save()
        if sums.stops:
            run.mark_stopped()
            return False
    run.mark_finished()
    return True


def train_step(run: Run, share: Share, num_targets: int, lr: float) -> tuple[float, float, float]:
    """One update of the adapter with the gradient of the mean over `num_targets` answer tokens of all ranks.

    This rank's summed loss, its correctly predicted tokens, and the gradient's norm before clipping; where that is not
    finite, every rank has left the adapter as it was. A collective."""
    engine = run.engine
    sums = torch.zeros(2, dtype=torch.float64, device=engine.device)
    for slot in share.slots:
        run.at(RankStatus.COMPUTING)
        reseed(run.config.run.seed, run.step, slot.number)
        output = engine.forward(run.encoded(slot))
        engine.backward(output.loss * slot.counts, num_targets)
        if slot.counts:
            sums += torch.stack([output.loss.detach(), output.num_correct])
    norm = engine.step(lr)
    loss, correct = sums.tolist()
    return loss, correct, norm


def reseed(seed: int, step: int, slot: int) -> None:
    """The randomness of one micro-batch, the same on whatever rank it is computed. Nothing to save, nothing to
    restore."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, slot]).generate_state(1, np.uint64)[0] >> 1))
