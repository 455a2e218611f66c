"""What of a recipe does not suit its data and its ranks, printed before the first step."""

from math import ceil

from model.errors import counted
from train.engine.schedule import warmup_steps
from train.recipe.config import Config
from train.recipe.kinds import decided

MOST_WARMUP_SHARE = 1 / 3
FEWEST_STEPS = 200  # fewer updates rarely bring an adapter to where the LLM begins to use the audio


def schedule_remarks(config: Config, steps_an_epoch: int, total_steps: int) -> list[str]:
    """What of the schedule does not suit the data, with the value to set; `config` is decided (auto.py)."""
    optim, warmup, remarks = config.optim, warmup_steps(config.optim, total_steps), []
    if warmup > MOST_WARMUP_SHARE * total_steps:
        never = warmup >= total_steps and optim.schedule != "constant"
        remarks.append(
            f"the warm-up takes {warmup:,} of {total_steps:,} steps"
            + f", so the {optim.schedule} decay never begins" * never
            + f"; set optim.warmup_steps={ceil(total_steps / 10)}, or leave it to auto"
        )
    if total_steps < FEWEST_STEPS:
        epochs = f"optim.epochs={ceil(FEWEST_STEPS / steps_an_epoch)}"
        more = epochs if optim.max_steps is None else f"optim.max_steps={FEWEST_STEPS} or more"
        remarks.append(
            f"{counted(total_steps, 'step')} in all: an adapter rarely learns to transcribe in fewer than "
            f"{FEWEST_STEPS}; set {more}, or a smaller step (batch.tokens)"
        )
    return remarks


def rank_remarks(config: Config, ranks: int, longest_cost: int) -> list[str]:
    """What of the batch leaves ranks idle, with the value to set; a micro-batch must hold the longest utterance."""
    slots = decided(config.batch.micro_batches)
    if slots % ranks == 0:
        return []
    fitting = ranks * ceil(slots / ranks)
    tokens = ceil(max(longest_cost, decided(config.batch.tokens) * slots / fitting) / 10) * 10
    fault = "have nothing to do" if slots < ranks else "have one micro-batch less than the others, and wait,"
    return [
        f"{ranks - slots % ranks} of {ranks} ranks {fault} in every step, which has "
        f"{counted(slots, 'micro-batch', 'micro-batches')}; set batch.micro_batches={fitting} and batch.tokens={tokens}"
    ]
