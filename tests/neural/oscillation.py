"""A problem with a known answer: damped rotations of random phase and size, seen rarely, irregularly, with noise."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from neural import Series

NOISE = 0.1


def oscillation(subjects: int, steps: int, seed: int = 0) -> tuple[Series, Callable[[Tensor], Tensor]]:
    """A series over times 0 to 10 with two channels, 30 % of the values missing, and its noise-free solution."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.rand(subjects, steps, generator=generator, dtype=torch.float64).mul(10).sort(-1).values
    size, phase = torch.rand(2, subjects, 1, generator=generator, dtype=torch.float64)
    size, phase = 1.0 + 0.5 * size, 2.0 * math.pi * phase

    def solution(t: Tensor) -> Tensor:
        angle = 2.0 * t + phase
        return (size * torch.exp(-0.15 * t))[..., None] * torch.stack([angle.cos(), angle.sin()], -1)

    exact = solution(times)
    values = exact + NOISE * torch.randn(exact.shape, generator=generator, dtype=torch.float64)
    mask = torch.rand(values.shape, generator=generator) < 0.7
    return Series(times, torch.where(mask, values, torch.nan), mask), solution
