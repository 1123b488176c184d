"""Randomness inside a private step that no seed reaches: dropout and its like, a data set's own transforms.

Such code draws from the global generators of torch, numpy and Python, in turn for all records of a batch. Under a state
that somebody knows (a seed; torch's, in a fresh process, is a constant), one more patient gives everybody after
other numbers, and the sum moves by far more than one clipped gradient. Under a state that nobody knows it cannot be
told who got which numbers, and the accounting holds: docs/dpsgd-engine.md, "What is random in the model", has the
argument and its conditions.

So these states are secret while private records are computed, new in each pass, and forgotten. torch keeps only 32
bits of a seed on a CPU, few enough to try them all; its Mersenne twister is given a whole state instead. On a GPU the
key has 64 bits, all fresh: to try a key costs a backward pass. Neither generator is a cipher, unlike the one of
`privacy.noise`: what is released shows noise and drawn patients plainly, but these numbers only through noised sums.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

# where a torch CPU generator's state has its words (of 32 bits, in 64), and how many
_BEGINS, _WORDS = 24, 624
_SEED_BYTES = 64


@contextmanager
def unseeded() -> Iterator[Callable[[], None]]:
    """Run the global random generators from secret states, and restore their earlier states at the end.

    torch's on the CPU and on each CUDA device, numpy's (`np.random`) and Python's (`random`). A generator object
    that code keeps for itself is not reached.

    Yields:
        A function that draws new secret states.
    """
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []

    def renew() -> None:
        torch.set_rng_state(secret_state())
        for device in cuda:
            torch.cuda.default_generators[device].manual_seed(int.from_bytes(os.urandom(8), "big"))
        np.random.seed(np.frombuffer(os.urandom(_SEED_BYTES), np.uint32))  # noqa: NPY002 (it is the one in use)
        random.seed(os.urandom(_SEED_BYTES))

    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(cuda):
        try:
            renew()
            yield renew
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def secret_state() -> torch.Tensor:
    """A state for a torch generator on the CPU, all its 19,937 bits from the operating system."""
    state = torch.Generator().manual_seed(0).get_state()  # its counters say that all words are yet to be used
    words = np.frombuffer(os.urandom(4 * _WORDS), np.uint32)
    state.numpy()[_BEGINS : _BEGINS + 8 * _WORDS].view(np.uint64)[:] = words
    return state
