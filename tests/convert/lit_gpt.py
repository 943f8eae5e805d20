"""lit-gpt's network, written down plainly from its description, under its own names; and random weights for it.

Shapes: B rows, L positions, D width, G query groups, Q queries of a group, E head dimension.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def weights(
    *, layers, width, inner, heads, groups, vocab, mask=True, bias=False, seed=0, dtype=torch.float32, scale=0.25
):
    generator = torch.Generator().manual_seed(seed)
    head_dim = width // heads

    def matrix(*shape):
        return (scale * torch.randn(*shape, generator=generator)).to(dtype)

    named = {
        "lm_head.weight": matrix(vocab, width),
        "transformer.wte.weight": matrix(vocab + mask, width),
        "transformer.ln_f.weight": 1 + matrix(width),
    }
    for layer in range(layers):
        block = f"transformer.h.{layer}"
        named |= {
            f"{block}.norm_1.weight": 1 + matrix(width),
            f"{block}.attn.attn.weight": matrix((heads + 2 * groups) * head_dim, width),
            f"{block}.attn.proj.weight": matrix(width, width),
            f"{block}.norm_2.weight": 1 + matrix(width),
            f"{block}.mlp.swiglu.w1.weight": matrix(inner, width),
            f"{block}.mlp.swiglu.w2.weight": matrix(inner, width),
            f"{block}.mlp.swiglu.w3.weight": matrix(width, inner),
        }
        if bias:
            named[f"{block}.attn.attn.bias"] = matrix((heads + 2 * groups) * head_dim)
    return named


def logits(named, tokens_BL, *, heads, groups, causal=False, rope_dtype=torch.float32, eps=1e-5):
    layers = sum(name.endswith("norm_1.weight") for name in named)
    x_BLD = F.embedding(tokens_BL, named["transformer.wte.weight"])
    rows, length, width = x_BLD.shape
    head_dim = width // heads
    theta = 1.0 / (10000 ** (torch.arange(0, head_dim, 2) / head_dim))
    angles = torch.outer(torch.arange(length), theta)
    cos, sin = (table.to(rope_dtype).float().repeat(1, 2) for table in (angles.cos(), angles.sin()))

    def norm(x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight

    def turn(x):
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    for layer in range(layers):
        block = {name.split(f"h.{layer}.")[1]: w for name, w in named.items() if f"transformer.h.{layer}." in name}
        y = F.linear(norm(x_BLD, block["norm_1.weight"]), block["attn.attn.weight"], block.get("attn.attn.bias"))
        per_group = heads // groups
        y = y.view(rows, length, groups, per_group + 2, head_dim).permute(0, 2, 3, 1, 4)
        q, k, v = y.split([per_group, 1, 1], dim=2)
        k, v = (t.expand(rows, groups, per_group, length, head_dim) for t in (k, v))
        q, k, v = (t.reshape(rows, heads, length, head_dim) for t in (q, k, v))
        scores = turn(q) @ turn(k).transpose(2, 3) / head_dim**0.5
        if causal:
            scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -torch.inf)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, length, width)
        x_BLD = x_BLD + F.linear(y, block["attn.proj.weight"])
        y = norm(x_BLD, block["norm_2.weight"])
        inner = F.silu(F.linear(y, block["mlp.swiglu.w1.weight"])) * F.linear(y, block["mlp.swiglu.w2.weight"])
        x_BLD = x_BLD + F.linear(inner, block["mlp.swiglu.w3.weight"])
    return F.linear(norm(x_BLD, named["transformer.ln_f.weight"]), named["lm_head.weight"])
