"""The scripts behind every number in docs/results/, run from the root: `python -m benchmarks.atari --help`."""

import os

# As train.py does, and as early: before torch is loaded, here or in the processes that measure.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
