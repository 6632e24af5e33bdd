"""What holds for all tests: no test fails because the machine is busy.

One thread for tensors: the tests' are small, and threads that wait for each other are slow on a busy machine. And no
deadline for Hypothesis' examples, of which the first of a kind takes as long as torch takes to choose its kernels.
"""

from __future__ import annotations

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
