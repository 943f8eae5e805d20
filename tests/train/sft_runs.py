"""Tiny models, conversations of every format and fine-tuning runs of a few steps."""

from __future__ import annotations

from typing import Any

import torch

from unmask import seeding
from unmask.config import ModelConfig
from unmask.data import tokenizer as tokenizers
from unmask.language_model import LanguageModel
from unmask.model import Transformer
from unmask.sft_config import SftConfig
from unmask.train import loop, starting_point, tasks
from unmask.train.parallel import World
from unmask.train.sft_task import SftTask

ALONE = World(0, 1, torch.device("cpu"))
SHORT = "{% for m in messages %}{{ m.role[0] + ':' + m.content + (eos_token if m.role == 'assistant' else ' ') }}"
SHORT += "{% endfor %}{{ 'a:' if add_generation_prompt else '' }}"
FILES: dict[str, list[Any]] = {
    "sharegpt": [
        {
            "conversations": [
                {"from": "human", "value": "Hi?"},
                {"from": "gpt", "value": "Hello."},
                {"from": "human", "value": "Bye"},
                {"from": "gpt", "value": "See you"},
            ]
        },
        {"conversations": [{"from": "human", "value": "Name?"}, {"from": "gpt", "value": "Vic"}]},
    ],
    "alpaca": [
        {"instruction": "Add", "input": "1 2", "output": "three"},
        {"instruction": "Name", "input": "", "output": "Bo"},
    ],
    "openai": [
        {
            "messages": [
                {"role": "system", "content": "Be."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello there"},
            ]
        },
        {"messages": [{"role": "user", "content": "Yo"}, {"role": "assistant", "content": "Hm"}]},
    ],
    "completion": [{"prompt": "2+2=", "completion": "4, surely"}, {"prompt": "1+1=", "completion": "2"}],
}


def network(objective: str = "mdm", **fields: Any) -> LanguageModel:
    tokenizer = tokenizers.byte_level().with_chat_template(SHORT)
    causal = objective == "arm"
    config = ModelConfig.of_size(
        "33K", vocab_size=258, context_length=96, mask_id=None if causal else 258, causal=causal, **fields
    )
    model = Transformer(config)
    model.init_weights(seeding.generator(0, "init"))
    return LanguageModel(model, tokenizer, objective)


def sft(model: str, *conversations: str, **fields: Any) -> SftConfig:
    defaults: dict[str, Any] = {
        "init_from": model,
        "conversations": conversations,
        "validation_share": 0.0,
        "batch_size": 2,
        "steps": 4,
        "learning_rate": 3e-3,
        "log_every": 1,
        "tensorboard": False,
    }
    return SftConfig(**{**defaults, **fields})


def opened(run: SftConfig, world: World = ALONE) -> tuple[SftTask, Any]:
    """The task of a run and its batches."""
    source = starting_point.source(run)
    settled, task = loop.open_task(run, source, world)
    assert isinstance(task, SftTask)
    config = starting_point.find(settled, task, source).config
    return task, task.batches(tasks.with_settings(settled, config.mask_id, task.tokenizer.bos_id), world)
