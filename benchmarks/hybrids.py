"""The batch of a training step, as all tools read it; imports nothing of Kinetwin, which peers have not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

PATIENTS, TIMES, HOURS, HIDDEN = 64, 12, 24.0, (32, 32)
SPREAD, NOISE = 0.3, 0.1


@final
@dataclass(frozen=True)
class Training:
    """A batch, and a network that is not at zero.

    Attributes:
        parameters, initial: `(patient, parameter)` and `(patient, state)`.
        times, data: `(patient, time)`; data are of the second state.
        layers: matrix and bias of each layer, one after the other.
        scale, flux, half: of the inputs `(state,)`, of the flux, and the amount at which its gate is half open.
    """

    parameters: np.ndarray
    initial: np.ndarray
    times: np.ndarray
    data: np.ndarray
    layers: tuple[np.ndarray, ...]
    scale: np.ndarray
    flux: float
    half: float

    def write(self, path: Path) -> None:
        """Puts it into a file."""
        layers: dict[str, Any] = {f"layer{i}": value for i, value in enumerate(self.layers)}
        named = {k: getattr(self, k) for k in ("parameters", "initial", "times", "data", "scale", "flux", "half")}
        np.savez(path, **named, **layers)

    @classmethod
    def read(cls, path: Path) -> "Training":
        """What `write` put into a file."""
        found = np.load(path)
        layers = tuple(found[f"layer{i}"] for i in range(2 * len(HIDDEN) + 2))
        named = {k: found[k] for k in ("parameters", "initial", "times", "data", "scale")}
        return cls(**named, layers=layers, flux=float(found["flux"]), half=float(found["half"]))
