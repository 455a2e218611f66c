"""DeepSpeed behind a few methods: forward, backward, step, and the optimizer's moments out and in.

The engine is given the whole recogniser, so that ZeRO-3 can shard the frozen LLM; only the adapter and LoRA require
gradients, so only they have optimizer state. They are float32 and the frozen parts may be bfloat16, with DeepSpeed's
own precision switched off: that way every ZeRO stage computes the same update."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed import rendezvous  # pyright: ignore[reportPrivateImportUsage]

from model.batch import Batch
from model.errors import UserError, counted
from model.lora import PREFIX
from model.slam_asr import Output, SlamAsr
from train.dist.collectives import World, require_own_gpus
from train.engine.schedule import LossScale
from train.recipe.config import OptimConfig

MOMENTS = ("exp_avg", "exp_avg_sq")


def start_deepspeed(world: World, timeout_seconds: float) -> None:
    """Imports deepspeed for this rank's device and joins the process group. A collective. AgreedError if two ranks have
    one GPU: checked before the group is there, as NCCL connects at once and would fail without naming the ranks."""
    if world.device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.WARNING)
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    # On a CPU DeepSpeed would compile this op here: 80 s, and a rank killed meanwhile leaves a lock that hangs every
    # later run.
    __compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if world.device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=timeout_seconds)  # of every collective
    store = None  # the one of the process group too: in one process, the same port is served once
    if world.device.type == "cuda":
        store, *_ = next(rendezvous("env://", world.rank, world.size, timeout=timeout))
        require_own_gpus(store, world, str(torch.cuda.get_device_properties(world.device).uuid))
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, timeout=timeout, verbose=False)
    del store


class Engine:
    """One optimizer update from `slots` micro-batches on each rank."""

    def __init__(
        self,
        model: SlamAsr,
        optim: OptimConfig,
        deepspeed_json: dict[str, Any],
        slots: int,
        world: World,
        lora_lr: float | None = None,
    ) -> None:
        """A collective, after start_deepspeed. `deepspeed_json` is a checked file of ds_configs/; `lora_lr` is LoRA's
        highest learning rate, None for the adapter's."""
        import deepspeed

        self.model, self.slots, self.world, self.device = model, slots, world, world.device
        self.stage: int = deepspeed_json.get("zero_optimization", {}).get("stage", 0)
        self.scale = LossScale(next(model.llm.parameters()).dtype == torch.float16)
        self._clip, self._plain_norm = optim.clip, 0.0
        self._has_state = False  # AdamW makes its moments at the first update
        self._trained = model.trained
        self._rates = [1.0, (lora_lr or optim.lr) / optim.lr]  # learning rates of the groups, relative to the adapter's
        groups = [[p for name, p in self._trained.items() if name.startswith(PREFIX) == lora] for lora in (False, True)]
        adam = torch.optim.AdamW(
            [{"params": group} for group in groups if group],
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
        config = deepspeed_json | {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": slots,
            "gradient_clipping": optim.clip if self.stage else 0.0,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
            "timers": {"throughput": {"enabled": False}},  # it waits for the device twice a micro-batch
        }
        if self.stage == 3:
            # Moves the LLM from the host to the GPUs weight by weight, each rank keeping its part, so that it need not
            # fit on one. DeepSpeed by itself would move it whole first.
            deepspeed.zero.Init(module=model.llm, config_dict_or_path=config)
            for buffer in model.llm.buffers():
                buffer.data = buffer.data.to(self.device)
        self._deepspeed: Any
        self._deepspeed, *_ = deepspeed.initialize(model=model, optimizer=adam, config=config, dist_init_required=False)

    def forward(self, batch: Batch) -> Output:
        """The micro-batch's summed loss, in training mode."""
        self._deepspeed.train()
        self.model.gradient_scale = self.scale.value
        self._batch = batch
        with self._explain_out_of_memory():
            return self._deepspeed(batch.to(self.device))

    def encode(self, batch: Batch) -> Batch:
        """The micro-batch with the encoder's frames in place of its audio; where they are there already, itself."""
        self._batch = batch
        with self._explain_out_of_memory():
            return self.model.encoded(batch.to(self.device))

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Output:
        """The same as `forward` without dropout and without gradients."""
        self._deepspeed.eval()
        return self._deepspeed(batch.to(self.device))

    def backward(self, loss: Tensor, num_targets: float) -> None:
        """Adds the gradient of loss / num_targets; num_targets counts the step's answer tokens on all ranks.

        DeepSpeed divides by the slots and averages over the ranks; the factor undoes both, so that the step's gradient
        is that of the mean token loss, however the micro-batches fell to ranks. A loss that is not finite makes a
        gradient that is not, so that every rank sees it in the norm. A collective at the step's last slot."""
        factor = torch.where(loss.detach().isfinite(), self.slots * self.world.size / max(1, num_targets), torch.nan)
        with self._explain_out_of_memory():
            self._deepspeed.backward(loss * factor)
        if not self._deepspeed.is_gradient_accumulation_boundary():
            self._deepspeed.step()  # no update yet: this only counts the micro-batch
        elif self.stage == 0:
            grads = [p.grad for p in self._trained.values() if p.grad is not None]
            self._plain_norm = float(torch.nn.utils.get_total_norm(grads))

    def step(self, lr: float) -> float:
        """Clips, updates the adapter with this learning rate and LoRA in proportion, and returns the gradient norm
        before clipping, over both. Where that is not finite there is no update, on any rank. A collective."""
        for group, share in zip(self._deepspeed.optimizer.param_groups, self._rates, strict=False):
            group["lr"] = lr * share
        if self.stage == 0:  # the other stages clip and skip by themselves
            parameters = list(self._trained.values())
            if not math.isfinite(self._plain_norm):
                for parameter in parameters:
                    parameter.grad = None  # which AdamW passes over
            elif self._clip:
                torch.nn.utils.clip_grads_with_norm_(parameters, self._clip, torch.tensor(self._plain_norm))
        self._deepspeed.step()
        norm = self._plain_norm if self.stage == 0 else float(self._deepspeed.get_global_grad_norm())
        self._has_state |= math.isfinite(norm)
        return norm

    @property
    def lr(self) -> float:
        """The learning rate that the optimizer holds for the adapter."""
        return float(self._deepspeed.get_lr()[0])

    @contextmanager
    def _explain_out_of_memory(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            batch, speech = self._batch, self.model.speech_tokens(self._batch)
            raise UserError(
                f"GPU memory ran out on a micro-batch of {counted(len(batch), 'utterance')}, {int(speech.sum())} "
                f"speech and {batch.num_targets} answer tokens, the longest being "
                f"{batch.keys[int(speech.argmax())]}; lower batch.tokens and raise batch.micro_batches as much, set "
                "model.activation_checkpointing=true, or shard the LLM with --deepspeed zero3"
            ) from error

    def weights(self) -> dict[str, Tensor]:
        """The trained float32 weights on the CPU, whole, by the names of SlamAsr.trained. A collective."""
        import deepspeed

        trained = list(self._trained.values())
        whole = deepspeed.zero.GatheredParameters(trained) if self.stage == 3 else nullcontext()
        with whole:
            return {name: parameter.detach().float().cpu().clone() for name, parameter in self._trained.items()}

    def moments(self) -> dict[str, Tensor]:
        """AdamW's first and second moments, unsharded, on the CPU: `exp_avg.NAME`, `exp_avg_sq.NAME`. A collective."""
        from deepspeed.utils import safe_get_full_optimizer_state

        moments = {}
        if self._has_state:
            self._link_moments()
        for name, parameter in self._trained.items():
            shape = getattr(parameter, "ds_shape", parameter.shape)
            for moment in MOMENTS:
                if not self._has_state:
                    value = torch.zeros(shape)
                elif self.stage == 0:
                    value = self._deepspeed.basic_optimizer.state[parameter].get(moment, torch.zeros(shape))
                else:
                    value = cast(Tensor, safe_get_full_optimizer_state(parameter, moment))
                moments[f"{moment}.{name}"] = value.detach().float().cpu().reshape(shape).clone()
        return moments

    def restore(self, moments: dict[str, Tensor], step: int) -> None:
        """Puts back unsharded moments as of `step` updates, into any ZeRO stage and any number of ranks."""
        self._has_state = True
        if self.stage:  # the optimizer makes its state at the first update; here it is made before, per flat partition
            zero = self._deepspeed.optimizer
            flats = zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups
            for flat in flats:
                zeros = {moment: torch.zeros_like(flat) for moment in MOMENTS}
                zero.optimizer.state[flat] = {"step": torch.tensor(float(step)), **zeros}
            self._link_moments()
        for name, parameter in self._trained.items():
            own = {moment: moments[f"{moment}.{name}"] for moment in MOMENTS}
            if self.stage == 0:
                state = {moment: value.to(parameter.device) for moment, value in own.items()}
                self._deepspeed.basic_optimizer.state[parameter] = {"step": torch.tensor(float(step)), **state}
            else:
                self._set_moments(parameter, own)

    def _link_moments(self) -> None:
        """Links parameters to their moments in ZeRO 1 and 2. DeepSpeed does so once, after updating its first parameter
        group, when LoRA's parameters have no moments yet."""
        if self.stage in (1, 2):
            self._deepspeed.optimizer._hp_optimizer_states_linked = False
            self._deepspeed.optimizer._lazy_init_hp_params_optimizer_state()

    def _set_moments(self, parameter: Any, moments: dict[str, Tensor]) -> None:
        """The full setter of ZeRO-3 fails where the ranks do not divide the tensor: there each rank sets its own part,
        padded."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        for moment, value in moments.items():
            if self.stage < 3:
                safe_set_full_optimizer_state(parameter, value.to(self.device), moment)
                continue
            part = parameter.ds_tensor.numel()
            padded = torch.zeros(part * self.world.size)
            padded[: value.numel()] = value.flatten()
            local = padded[self.world.rank * part : (self.world.rank + 1) * part]
            safe_set_local_optimizer_state(parameter, local.to(self.device), moment)
