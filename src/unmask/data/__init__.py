"""From text to batches: tokenizers, prepared corpora (token shards with a manifest), and the order of training.

`prepare` writes what `source` opens and `pipeline` serves. Nothing here imports torch but what `pipeline` is given.
"""
