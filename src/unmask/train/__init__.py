"""Training: one loop (`loop`), on one process or many (`parallel`), with exact resume (`checkpoint`)."""
