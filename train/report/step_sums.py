"""What the ranks tell each other after every step, in one all_reduce: what came of it, and what comes next.

The next step's target tokens are counted a step ahead, as its loss is divided by them; so is whether every rank could
read its part, so that one that could not ends the run on all or on none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from train.data.loader import Share
from train.dist.collectives import World
from train.liveness import stop


@dataclass(frozen=True)
class Tally:
    """Sums over all ranks, of the finished step and of the one that comes."""

    loss: float
    """Sum over the answer tokens of the step."""
    correct: int
    """Its answer tokens that were predicted."""
    seconds: float
    """Audio in it."""
    stops: int
    """Ranks that were asked to stop."""
    targets: int
    """Answer tokens of the next step."""
    faults: int
    """Ranks that could not read their part of it."""
    lost: int
    """Utterances of it that could not be read and are left out."""
    waited: tuple[float, ...]
    """Seconds that each rank waited for its part of it."""


def add_up(world: World, loss: float, correct: float, done: Share | None, coming: Share) -> Tally:
    """The tally over all ranks of a step that is `done` (None before the first) and the one `coming`. A collective."""
    waited = [0.0] * world.size
    waited[world.rank] = coming.waited
    counted = [slot for slot in coming.slots if slot.counts]
    sums = world.sum(
        *(loss, correct, done.seconds if done else 0.0, float(stop.asked())),
        *(sum(slot.batch.num_targets for slot in counted), float(coming.fault is not None), len(coming.lost)),
        *waited,
    )
    return _tally(sums)


def _tally(sums: Sequence[float]) -> Tally:
    loss, correct, seconds, stops, targets, faults, lost, *waited = sums
    return Tally(loss, int(correct), seconds, int(stops), int(targets), int(faults), int(lost), tuple(waited))
