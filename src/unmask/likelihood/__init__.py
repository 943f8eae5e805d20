"""Likelihoods over a `LogitsFn`: the bound of a masked network, and the chain rule, with their error and their cost.

An estimator is a `Plan`: which sets of tokens to mask, with what weights, in which strata (`plans`, `allocation`).
Plans of several sequences are evaluated together (`rows`), and a figure does not depend on what shares its batch.
"""

from unmask.likelihood.bounds import bound, bounds, causal, chain_rule, chain_rules
from unmask.likelihood.decoding import Decoded, greedy
from unmask.likelihood.plans import ESTIMATORS, EXACT_LIMIT, Estimate, Plan, Stratum, count_weight, plan
from unmask.likelihood.requests import Once, OnProgress, Request, Scored, Settings, score

__all__ = [
    "ESTIMATORS",
    "EXACT_LIMIT",
    "Decoded",
    "Estimate",
    "OnProgress",
    "Once",
    "Plan",
    "Request",
    "Scored",
    "Settings",
    "Stratum",
    "bound",
    "bounds",
    "causal",
    "chain_rule",
    "chain_rules",
    "count_weight",
    "greedy",
    "plan",
    "score",
]
