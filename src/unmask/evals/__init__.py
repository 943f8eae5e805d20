"""Evaluation of a `LogitsFn` or a `LanguageModel`; knows nothing of training."""
