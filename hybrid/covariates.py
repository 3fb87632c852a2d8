"""How covariates move parameters: powers (allometry), straight lines and categories, on the unconstrained scale."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from hybrid.parameters import ParameterError


class AbstractEffect(ABC):
    """How a covariate moves a parameter on its unconstrained scale."""

    covariate: str

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the coefficients that a fit may change; empty when the effect is fixed."""

    @abstractmethod
    def start(self) -> tuple[float, ...]:
        """Where those coefficients start."""

    @abstractmethod
    def shift(self, covariate: Tensor, coefficients: Tensor) -> Tensor:
        """What is added to the unconstrained parameter, `(*batch,)`, for values `(*batch,)`.

        Args:
            covariate: the values; for a category the index of its level.
            coefficients: `(*batch, names)`.
        """


@final
@dataclass(frozen=True, slots=True)
class Power(AbstractEffect):
    """A positive parameter times `(covariate / reference) ** exponent`; allometry has 0.75 for flows, 1 for volumes.

    The exponent is fixed unless `estimated`.
    """

    covariate: str
    reference: float
    exponent: float
    estimated: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return ("exponent",) if self.estimated else ()

    def start(self) -> tuple[float, ...]:
        return (self.exponent,) if self.estimated else ()

    def shift(self, covariate: Tensor, coefficients: Tensor) -> Tensor:
        exponent = coefficients[..., 0] if self.estimated else self.exponent
        return exponent * (covariate / self.reference).log()


@final
@dataclass(frozen=True, slots=True)
class Linear(AbstractEffect):
    """`slope × (covariate − reference)` on the unconstrained scale: for a positive parameter, a factor per unit.

    The slope is estimated, from 0 on, unless `estimated` is false.
    """

    covariate: str
    reference: float
    slope: float = 0.0
    estimated: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        return ("slope",) if self.estimated else ()

    def start(self) -> tuple[float, ...]:
        return (self.slope,) if self.estimated else ()

    def shift(self, covariate: Tensor, coefficients: Tensor) -> Tensor:
        slope = coefficients[..., 0] if self.estimated else self.slope
        return slope * (covariate - self.reference)


@final
@dataclass(frozen=True, slots=True)
class Category(AbstractEffect):
    """A shift for each level of a categorical covariate but the first, which is the reference.

    The shifts are estimated from 0 on, or from `shifts` (one for each level after the first).
    """

    covariate: str
    levels: tuple[str, ...]
    shifts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        object.__setattr__(self, "shifts", tuple(self.shifts) or (0.0,) * (len(self.levels) - 1))
        if len(self.levels) < 2 or len(set(self.levels)) < len(self.levels) or len(self.shifts) != len(self.levels) - 1:
            problem = f"{len(self.levels)} levels {self.levels} and {len(self.shifts)} shifts"
            advice = "give two or more different levels, the reference first, and a shift for each but the first"
            raise ParameterError(f"the effect of `{self.covariate}` is not defined:", [f"{problem}; {advice}"])

    @property
    def names(self) -> tuple[str, ...]:
        return self.levels[1:]

    def start(self) -> tuple[float, ...]:
        return self.shifts

    def shift(self, covariate: Tensor, coefficients: Tensor) -> Tensor:
        levels = torch.cat([torch.zeros_like(coefficients[..., :1]), coefficients], dim=-1)
        index = covariate.round().long()
        return levels.expand(*index.shape, -1).gather(-1, index[..., None])[..., 0]
