"""Speed and sample use, against peers and against the floor. `python -m benchmarks --help`."""
