"""Our models in Transformers: `AutoModelForMaskedLM` and, for autoregressive ones, `AutoModelForCausalLM`.

A model directory of ours is a Transformers checkpoint of the model type "unmask": `from_pretrained`, `save_pretrained`,
`push_to_hub` and `pipeline("fill-mask")` work on it without `trust_remote_code`, once `unmask` is imported.
"""
