"""Low-rank adaptation of a transformers model, kept in PEFT's file format.

The base weights stay frozen; each adapted linear layer adds scale * B @ A to its weight (Hu et al., arXiv 2106.09685).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors.torch import save
from torch import nn

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.files import atomic_path
from llm4dsr_cli.model.torch_architectures import Architecture


class _LoraProduct(torch.autograd.Function):
    """y = x W^T + s (x A^T) B^T, with gradients for x, A and B alone.

    The low-rank part is added to the product in place, so that nothing as large as the activations is made twice.
    Adding it to the weight beforehand would be a little faster, and wrong: in 16 bits most of s B A is smaller than
    half a step of the weight it is added to, and vanishes.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any, scale: float) -> Any:
        a, b = a.to(weight.dtype), b.to(weight.dtype)
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ a.t()
        ctx.save_for_backward(flat, low, weight, a, b)
        ctx.scale, ctx.shape = scale, x.shape
        y = flat @ weight.t() if bias is None else torch.addmm(bias, flat, weight.t())
        y.addmm_(low, b.t(), alpha=scale)
        return y.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        flat, low, weight, a, b = ctx.saved_tensors
        dy = dy.reshape(-1, dy.shape[-1])
        grad_low = dy @ b
        grad_x = (dy @ weight).addmm_(grad_low, a, alpha=ctx.scale).view(ctx.shape)
        grad_b = (dy.t() @ low).float() * ctx.scale
        grad_a = (grad_low.t() @ flat).float() * ctx.scale
        return grad_x, None, None, grad_a, grad_b, None


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank addition.

    ``lora_a`` has shape (rank, in), ``lora_b`` (out, rank), both float32; B starts at zero, so that the model starts
    as its base.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.weight = base.weight
        self.bias = base.bias
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.folded = False

    def fold(self) -> None:
        """Train it no more: the addition becomes part of the weight, as it will in the merged model."""
        with torch.no_grad():
            addition = self.lora_b @ self.lora_a * self.scale
            self.weight = nn.Parameter((self.weight.float() + addition).to(self.weight.dtype), requires_grad=False)
        self.requires_grad_(False)
        self.folded = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.folded:
            return nn.functional.linear(x, self.weight, self.bias)
        return _LoraProduct.apply(x, self.weight, self.bias, self.lora_a, self.lora_b, self.scale)


def add_lora(backbone: nn.Module, rank: int, alpha: float, targets: Collection[str] = Architecture.targets) -> None:
    """Freeze ``backbone`` and give every linear layer that is called one of ``targets`` a low-rank addition."""
    backbone.requires_grad_(False)
    for parent in list(backbone.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and name in targets:
                setattr(parent, name, LoraLinear(child, rank, alpha))


def fold_lower_layers(backbone: Any, adapted: int | None) -> None:
    """Train the adapters of the upper ``adapted`` layers alone; None trains all.

    Raises:
        OptionError: there are fewer layers.
    """
    there = len(backbone.layers)
    if adapted is not None and adapted > there:
        raise OptionError(f"`adapted_layers` is {adapted}: the model has {there}", remedy=f"give at most {there}")
    for layer in backbone.layers[: 0 if adapted is None else there - adapted]:
        for _, module in lora_layers(layer):
            module.fold()


def lora_layers(backbone: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """The adapted layers by their module path, such as ``layers.0.self_attn.q_proj``."""
    for name, module in backbone.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def lora_state(backbone: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the trainable tensors, float32 on the CPU, under PEFT's names without their prefix."""
    state = {}
    for name, layer in lora_layers(backbone):
        state[f"{name}.lora_A.weight"] = layer.lora_a.detach().float().cpu().clone()
        state[f"{name}.lora_B.weight"] = layer.lora_b.detach().float().cpu().clone()
    return state


def load_lora_state(backbone: nn.Module, state: Mapping[str, Any]) -> None:
    """Set the trainable tensors from ``lora_state``'s form, tensors or arrays.

    Raises:
        KeyError: a layer is missing from ``state``.
        ValueError: a shape differs, as it does for another rank or base model.
    """
    for name, layer in lora_layers(backbone):
        for parameter, key in ((layer.lora_a, "lora_A"), (layer.lora_b, "lora_B")):
            tensor = state[f"{name}.{key}.weight"]
            if tuple(tensor.shape) != tuple(parameter.shape):
                raise ValueError(f"{name}: {key} is {tuple(tensor.shape)}, not {tuple(parameter.shape)}")
            with torch.no_grad():
                parameter.copy_(torch.as_tensor(tensor))


def save_peft(state: dict[str, torch.Tensor], folder: Path, *, rank: int, alpha: float, base_name: str) -> None:
    """Write ``lora_state`` as a folder of PEFT's (adapter_config.json, adapter_model.safetensors), for transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({name.split(".")[-3] for name in state}),
    }
    with atomic_path(folder / "adapter_config.json") as path:
        path.write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2))
    tensors = {f"base_model.model.model.{name}": tensor.contiguous() for name, tensor in state.items()}
    with atomic_path(folder / "adapter_model.safetensors") as path:
        path.write_bytes(save(tensors))
