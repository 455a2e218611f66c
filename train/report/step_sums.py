"""Sums over all ranks after each step, and the next step's token count, in one all_reduce.

The next step's target tokens are counted a step ahead because its loss is divided by them. So are read errors, so that
a rank that cannot read its share ends the run on all ranks or on none.
"""

from dataclasses import dataclass

from train.data.loader import Share
from train.dist.collectives import World
from train.liveness import stop


@dataclass(frozen=True)
class StepSums:
    """Sums over all ranks, of the finished step and of the next one."""

    loss: float  # of the step's answer tokens, summed
    correct: int  # its answer tokens that were predicted
    seconds: float  # audio in it
    stops: int  # ranks that were asked to stop
    targets: int  # answer tokens of the next step
    faults: int  # ranks that could not read their share of it
    lost: int  # utterances of it that could not be read and are left out
    waited: tuple[float, ...]  # seconds that each rank waited for its share of it


def add_up(world: World, loss: float, correct: float, done: Share | None, coming: Share) -> StepSums:
    """The sums after a step that is `done` (None before the first), with the `coming` one. A collective."""
    waits = [0.0] * world.size
    waits[world.rank] = coming.waited
    targets = sum(slot.batch.num_targets for slot in coming.slots if slot.counts)
    loss, correct, seconds, stops, targets, faults, lost, *waited = world.sum(
        *(loss, correct, done.seconds if done else 0.0, float(stop.asked())),
        *(targets, float(coming.fault is not None), len(coming.lost)),
        *waits,
    )
    return StepSums(loss, int(correct), seconds, int(stops), int(targets), int(faults), int(lost), tuple(waited))
