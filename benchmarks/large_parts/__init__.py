"""The parts of `benchmarks/large_backbones.py`, one idea a file."""
