"""The dtype an encoder computes in: the one asked for, but float32 where some CPUs would compute bfloat16 wrongly.

On CPUs with AMX (Intel Sapphire Rapids and later) oneDNN's bfloat16 convolutions are wrong if there are several groups
of fewer than 16 channels, as in the positional convolution of a narrow HuBERT (hidden_size / groups; HuBERT-base has
48). Such an encoder computes in float32 on every CPU, so that its frames are the same on all.
"""

import torch
from torch import nn

from model.loading.pretrained import choose_dtype

MIN_GROUP_CHANNELS = 16


def encoder_dtype(model: nn.Module, asked: str, device: torch.device | str) -> tuple[torch.dtype, str]:
    """The dtype for `model` on `device` if `asked` is wanted, and a note why it is float32 instead (else empty)."""
    dtype = choose_dtype(asked, device)
    narrow = narrow_groups(model) if dtype == torch.bfloat16 and torch.device(device).type == "cpu" else None
    if narrow is None:
        return dtype, ""
    name, channels = narrow
    return torch.float32, (
        f"the encoder is computed in float32, not bfloat16: its {name} has {channels} channels a group, and with fewer "
        f"than {MIN_GROUP_CHANNELS} some CPUs get bfloat16 wrong"
    )


def narrow_groups(model: nn.Module) -> tuple[str, int] | None:
    """Name and channels a group of the first convolution with several groups of fewer than 16 input or output channels
    (depthwise ones included); None if there is none."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups > 1:
            channels = min(module.in_channels, module.out_channels) // module.groups
            if channels < MIN_GROUP_CHANNELS:
                return name, channels
    return None
