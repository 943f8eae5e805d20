"""The commands, one module each: a dataclass `Options` and `run(options)`, or `main(argv)`. `unmask.cli` runs them."""
