"""LoRA (Hu et al., 2022, arXiv 2106.09685): adapters of low rank are trained around matrices that stay as they are.

A matrix W becomes W + (alpha / rank) B A. B starts at zero, so that in the first step the network is the one that it
was. The layers, the merging and the file format are those of `peft`; A is drawn from the run's own seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from unmask import seeding
from unmask.config import ModelConfig
from unmask.errors import UsageError
from unmask.model import Transformer
from unmask.sft_config import SftConfig
from unmask.weight_files import PARTIAL

MODULES = {"qkv": "attention.qkv", "out": "attention.out", "gate_up": "mlp.gate_up", "down": "mlp.down"}
"""What `lora_layers` calls the matrices, and where they are in a block."""
ADAPTER = "default"
"""peft's name for the only adapter."""
PREFIX = "base_model.model.model."
"""What stands before the names of our modules where peft puts an adapter on our model in Transformers."""


def settings(run: SftConfig) -> Any:
    """Peft's `LoraConfig` for `run`. Raises `UsageError` where peft is not installed."""
    try:
        from peft import LoraConfig
    except ImportError:
        raise UsageError(f"lora_rank {run.lora_rank}: needs the package peft: pip install 'unmask[lora]'") from None
    alpha: Any = run.lora_alpha or 2 * run.lora_rank
    modules = [MODULES[layer] for layer in run.lora_layers]
    return LoraConfig(r=run.lora_rank, lora_alpha=alpha, target_modules=modules)


def attach(model: Transformer, run: SftConfig) -> None:
    """Put adapters around the matrices of `model`, in place, and freeze all else."""
    _inject(model, settings(run))
    generator = seeding.generator(run.seed, "lora")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=generator)
            elif ".lora_B." in name:
                parameter.zero_()


def merged(config: ModelConfig, weights: Mapping[str, Tensor], run: SftConfig) -> dict[str, Tensor]:
    """The `state_dict` of a network without adapters that computes what one with them does, whose is `weights`."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    with torch.device("meta"):
        model = Transformer(config)
        _inject(model, settings(run))
    model.load_state_dict({name: tensor.clone() for name, tensor in weights.items()}, assign=True)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    state = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state.items()}


def save(directory: Path, weights: Mapping[str, Tensor], run: SftConfig) -> None:
    """Write the adapters alone, as peft loads them on `AutoModel...from_pretrained` of the model they belong to."""
    directory.mkdir(parents=True, exist_ok=True)
    adapters = {
        PREFIX + name.replace(f".{ADAPTER}.", "."): tensor.contiguous()
        for name, tensor in weights.items()
        if ".lora_" in name
    }
    whole = directory / "adapter_model.safetensors"
    partial = whole.with_name(whole.name + PARTIAL)
    save_file(adapters, partial, metadata={"format": "pt"})
    partial.replace(whole)
    config = settings(run)
    config.base_model_name_or_path = run.init_from
    config.inference_mode = True
    config.save_pretrained(directory)


def _inject(model: Transformer, config: Any) -> None:
    from peft import inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):  # peft draws first weights, which are not used
        inject_adapter_in_model(config, model, ADAPTER)
