"""The scripts behind every number in docs/results/, run from the root: `python -m benchmarks.atari --help`."""
