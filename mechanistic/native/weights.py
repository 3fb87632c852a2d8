"""Weights of networks in memory: where kernels find them, and the sums that are their gradient."""

from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from mechanistic.compile.coupled import Dense
from mechanistic.native.coupled import gradient_size, stack_size
from mechanistic.native.dense import padded
from mechanistic.native.lanes import LANES
from mechanistic.native.network import layers
from mechanistic.native.program import Program
from mechanistic.native.shares import array


def point_at_weights(work: Any, row: int, weights: Any) -> None:
    """Notes in the workspace `work`, `(element, lane)`, where the weights are; nothing is kept of what is computed.

    Args:
        row: the first one after the held values.
        weights: `(weight,)`; they have to stay where they are as long as the workspace is used.
    """
    if len(weights):
        work.view(np.int64)[row, 0] = weights.ctypes.data


@final
class WeightGradient:
    """The gradient of a batch by the weights, added up for each share of the batch by itself.

    Shares do not depend on the number of threads, and they are added in their order; so is the result.
    """

    def __init__(self, program: Program, weights: Tensor) -> None:
        self._program = program
        self._weights = array(weights)
        self._sums: dict[int, Any] = {}

    def prepare(self, work: Any, row: int, share: int) -> Any:
        """Notes in a workspace, `(element, lane)`, where the weights, frames and sums of a share are.

        Returns what has to be kept as long as the workspace is used. Arguments are as for `point_at_weights`.
        """
        kept = np.empty((stack_size(self._program), LANES))
        sums = self._sums[share] = np.zeros(gradient_size(self._program))
        work.view(np.int64)[row : row + 3, 0] = [part.ctypes.data for part in (self._weights, kept, sums)]
        return kept

    def total(self) -> Tensor:
        """The gradient, `(weight,)`."""
        total = np.zeros(gradient_size(self._program))
        for share in sorted(self._sums):
            total += self._sums[share]
        parts = [np.empty(0)]
        for network in self._program.networks:
            size = sum(layer.rows * layer.width for layer in layers(network))
            parts += list(_weights_of(network, total[:size]))
            total = total[size:]
        return torch.from_numpy(np.concatenate(parts))


def _weights_of(network: Dense, sums: Any) -> Iterator[Any]:
    for layer in layers(network):
        rows = sums[layer.sums : layer.sums + layer.rows * layer.width].reshape(layer.rows, layer.width)
        yield rows[:, : layer.columns].ravel()
        yield rows[:, padded(layer.columns) :].sum(1)
