"""Batches as arrays, worked off in shares by several threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from torch import Tensor


def array(value: Tensor) -> Any:
    """The numbers of a tensor, contiguous."""
    return np.ascontiguousarray(value.detach().numpy())


def in_shares(run: Callable[[int, int], None], subjects: int, size: int, threads: int) -> None:
    """Calls `run(first, last)` for the subjects from `first` up to `last`, `size` of them at a time."""
    firsts = range(0, subjects, size)
    lasts = [min(first + size, subjects) for first in firsts]
    if threads == 1 or len(firsts) <= 1:
        for first, last in zip(firsts, lasts, strict=True):
            run(first, last)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, firsts, lasts))
