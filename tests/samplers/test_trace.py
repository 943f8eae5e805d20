import json

import torch

from toys import Waves
from unmask.samplers import SAMPLERS
from unmask.samplers.trace import Trace


def replay(tokens, steps, mask_id):
    tokens = list(tokens)
    for step in steps:
        for position in step["masked_again"]:
            tokens[position] = mask_id
        for reveal in step["revealed"]:
            tokens[reveal["position"]] = reveal["token"]
    return tokens


def test_the_steps_replayed_give_the_result():
    tokens_BL = torch.tensor([[0, 3, 3, 3, 3, 3, 3, 3], [1, 1, 3, 3, 0, 3, 3, 3]])
    for name, sampler in SAMPLERS.items():
        options = {"eta": 0.6, "remasking": "rescale"} if name == "remask" else {}
        for row in range(2):
            trace = Trace(row)
            generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
            sampled = sampler(
                Waves(3),
                tokens_BL,
                mask_id=3,
                steps=6,
                temperature=1.0,
                generator=generators,
                on_step=trace.on_step,
                **options,
            )
            steps = json.loads(json.dumps(trace.steps))
            assert replay(tokens_BL[row].tolist(), steps, 3) == sampled.tokens_BL[row].tolist()
            assert steps[-1]["network_calls"] == sampled.network_calls_B[row]
            last = {r["position"]: r["step"] for step in steps for r in step["revealed"]}
            assert all(sampled.reveal_step_BL[row, position] == step for position, step in last.items())
            if name != "remask":
                assert len(last) == sum(len(step["revealed"]) for step in steps)
                assert not any(step["masked_again"] for step in steps)
            assert all(0 <= r["confidence"] <= 1.0001 for step in steps for r in step["revealed"])


def test_what_was_masked_again_is_told():
    trace = Trace()
    generator = torch.Generator().manual_seed(0)
    SAMPLERS["remask"](
        Waves(3),
        torch.full((1, 20), 3),
        mask_id=3,
        steps=20,
        remasking="rescale",
        eta=1.0,
        generator=generator,
        on_step=trace.on_step,
    )
    assert sum(len(step["masked_again"]) for step in trace.steps) > 5
