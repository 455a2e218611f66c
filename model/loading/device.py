"""The device to compute on: the GPU if there is one."""

from __future__ import annotations

import os

import torch

from model.errors import UserError


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is cuda if torch finds a GPU and DS_ACCELERATOR is not cpu, else the CPU.

    UserError for a device that is not on this machine.
    """
    if name == "auto":
        use_gpu = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"
        return torch.device("cuda" if use_gpu else "cpu")
    try:
        device = torch.device(name)
        if device.type != "cpu":
            torch.zeros(1, device=device)
        return device
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"device {name!r} is not on this machine; use auto, cpu or one that is") from None
