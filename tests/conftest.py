"""What holds for all tests: no test fails because the machine is busy.

One thread for tensors: the tests' are small, and threads that wait for each other are slow on a busy machine. And no
deadline for Hypothesis' examples, of which the first of a kind takes as long as torch takes to choose its kernels.

Nor because of who started them: what a script runs in the background ignores Ctrl-C, and programs heed that.
"""

from __future__ import annotations

import signal

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
