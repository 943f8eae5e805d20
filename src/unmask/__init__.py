"""unmask: train, scale, evaluate and sample masked diffusion language models, beside autoregressive ones."""
