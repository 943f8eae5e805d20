"""The demonstration: a scaling study of masked diffusion and autoregression on the State of the Union addresses.

Three budgets, four sizes each, both objectives, equal FLOPs by the paper's rule C = 6 N D (Nie et al., 2025, section 4)
"""
