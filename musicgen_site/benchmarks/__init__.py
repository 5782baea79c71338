"""Benchmarks of the running product. They print ratios measured in one run, with the machine's name."""
