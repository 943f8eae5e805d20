"""Makes `tests/` importable, for the toy models that several tests share."""
