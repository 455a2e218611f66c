"""Activation checkpointing: the same loss and gradients from a fraction of what autograd keeps."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.batch import pack
from model.errors import UserError
from model.llm import Llm
from model.llm.activation_checkpointing import checkpoint_activations
from tests.model.test_packing import GPT2, GROUPED, SIZES, llm_of, recogniser


def step(llm: Llm) -> tuple[torch.Tensor, list[Any], int]:
    """Loss, gradients, and bytes that autograd keeps, of a micro-batch of two utterances."""
    generator, kept = torch.Generator().manual_seed(2), {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    features = [torch.randn(n, 12, generator=generator) for n in (83, 30)]
    model = recogniser(llm).train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model(pack(["a", "b"], ["", ""], [[3, 4, 2], [5, 2]], features=features)).loss
    loss.backward()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return loss.detach(), [p.grad for p in model.adapter.parameters()], sum(kept[key] for key in kept.keys() - weights)


@pytest.mark.parametrize(
    ("family", "options", "dtype"),
    [
        ("llama", {**SIZES, **GROUPED}, torch.float32),
        ("llama", {**SIZES, **GROUPED}, torch.bfloat16),
        ("gemma2", {**SIZES, **GROUPED, "head_dim": 8}, torch.float32),
        ("gpt2", GPT2, torch.float32),
    ],
)
def test_loss_and_gradients_are_the_same_bits_and_less_is_kept(family, options, dtype):
    llm = llm_of(family, options, dtype)
    loss, gradients, kept = step(llm)
    checkpoint_activations(llm.model)
    assert torch.equal(step(llm)[0], loss) and step(llm)[2] < kept / 2
    assert all(torch.equal(a, b) for a, b in zip(step(llm)[1], gradients, strict=True))
    generated = llm.model.generate(torch.tensor([[1, 5, 6]]), max_new_tokens=4, do_sample=False)
    plain = llm_of(family, options, dtype).model
    assert torch.equal(generated, plain.generate(torch.tensor([[1, 5, 6]]), max_new_tokens=4))


def test_an_llm_without_layers_of_transformers_is_refused():
    model: Any = torch.nn.Linear(2, 2)
    model.config = SimpleNamespace(model_type="own")
    with pytest.raises(UserError, match="'own'.*set it to false"):
        checkpoint_activations(model)
