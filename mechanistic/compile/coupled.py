"""A mechanism with networks, as data: what they read, their dense layers, and where their outputs go.

Everything around a network (scaling, gates, stoichiometry, bijections) is a tape; the weights are no part of it.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import final

from torch import Tensor

from mechanistic.compile.rate_field import RateField
from mechanistic.compile.tape import Tape, TapeBuilder, differentiate
from mechanistic.errors import nearest
from mechanistic.field import AbstractVectorField

SOFTPLUS_END = 40.0
"""Where softplus is its argument to within rounding."""


@final
@dataclass(frozen=True, slots=True)
class Dense:
    """A multilayer perceptron: affine layers with an activation between them.

    Attributes:
        widths: of the inputs, the hidden layers and the outputs.
        activation: a name of `ACTIVATIONS`.

    Raises:
        ValueError: there is no such activation.
    """

    widths: tuple[int, ...]
    activation: str

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"there is no activation `{self.activation}`{nearest(self.activation, ACTIVATIONS)}")

    @property
    def inputs(self) -> int:
        return self.widths[0]

    @property
    def outputs(self) -> int:
        return self.widths[-1]

    @property
    def weights(self) -> int:
        """How many numbers its matrices and biases are."""
        return sum(after * (before + 1) for before, after in zip(self.widths, self.widths[1:], strict=False))


@final
@dataclass(frozen=True)
class Coupled:
    """`dx/dt = f(t, x, p̃) + w`, with parameters `p̃` and additions `w` that follow from the outputs of networks.

    The inputs of `seen` are the time, the states and the parameters; those of `driven` and `learned` are the same and
    then the outputs of all networks.

    Attributes:
        known: `f`; its states come first.
        states, parameters: how many the whole has.
        networks: each reads inputs and gives outputs of its own, one network after another.
        seen: → the inputs of all networks.
        driven: → the parameters of `known`.
        learned: → what is added to dx/dt, one output a state.
    """

    known: RateField
    states: int
    parameters: int
    networks: tuple[Dense, ...]
    seen: Tape
    driven: Tape
    learned: Tape


class AbstractCoupled(AbstractVectorField):
    """A field that may be described as a mechanism with networks."""

    @abstractmethod
    def coupled(self) -> Coupled | str:
        """The description, or in a sentence why there is none; it follows from the modules of the field and buffers."""

    @abstractmethod
    def weights(self) -> Tensor:
        """The weights of all networks, `(weight,)`: of every layer the matrix `(output, input)` by rows, then the bias.

        It is computed from the parameters of the field, so that gradients flow to them.
        """


@final
@dataclass(frozen=True, slots=True)
class Activation:
    """An activation as a tape of one input: its value, then its first and second derivative."""

    tape: Tape

    def only(self, order: int) -> Tape:
        """The value and derivatives up to an order."""
        return self.tape.only(self.tape.outputs[: order + 1])


@lru_cache(maxsize=32)
def activation(name: str) -> Activation:
    """The activation of a name of `ACTIVATIONS`."""
    b = TapeBuilder(1)
    outputs = [ACTIVATIONS[name](b, 0)]
    for _ in range(2):
        slope = differentiate(b, outputs[-1], 0)
        outputs.append(b.constant(0.0) if slope is None else slope)
    return Activation(b.finish(outputs))


def logistic(b: TapeBuilder, x: int) -> int:
    """`1 / (1 + e^-x)`."""
    return b.apply("div", b.constant(1.0), b.apply("add", b.constant(1.0), b.apply("exp", b.apply("neg", x))))


def _sigmoid(b: TapeBuilder, x: int) -> int:
    # Below it the value is no normal number, and the quotients of its derivatives would be `inf / inf`.
    return logistic(b, b.apply("max", x, b.constant(-700.0)))


def _softplus(b: TapeBuilder, x: int) -> int:
    end = b.constant(SOFTPLUS_END)
    grown = b.apply("exp", b.apply("min", x, end))
    return b.apply("where", b.apply("lt", end, x), x, b.apply("log", b.apply("add", b.constant(1.0), grown)))


def _gelu(b: TapeBuilder, x: int) -> int:
    error = b.apply("erf", b.apply("mul", x, b.constant(0.5**0.5)))
    return b.apply("mul", b.apply("mul", x, b.constant(0.5)), b.apply("add", b.constant(1.0), error))


def _elu(b: TapeBuilder, x: int) -> int:
    zero = b.constant(0.0)
    below = b.apply("sub", b.apply("exp", b.apply("min", x, zero)), b.constant(1.0))
    return b.apply("where", b.apply("lt", zero, x), x, below)


ACTIVATIONS: dict[str, Callable[[TapeBuilder, int], int]] = {
    "identity": lambda b, x: x,
    "tanh": lambda b, x: b.apply("tanh", x),
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "silu": lambda b, x: b.apply("mul", x, _sigmoid(b, x)),
    "gelu": _gelu,
    "elu": _elu,
    "relu": lambda b, x: b.apply("where", b.apply("lt", b.constant(0.0), x), x, b.constant(0.0)),
    "sin": lambda b, x: b.apply("sin", x),
}
"""Activations by name: the register of their value, appended to a builder."""
