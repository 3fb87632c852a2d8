"""Smooth multilayer perceptrons that start as exactly zero, described by plain data."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from neural.errors import config_problems, refuse
from neural.scaling import FixedScaling


class Activation(Enum):
    """Activations that are infinitely smooth, as a right-hand side of an adaptive solver must be."""

    TANH = "tanh"
    SOFTPLUS = "softplus"
    SILU = "silu"
    GELU = "gelu"
    SIN = "sin"


class InitialOutput(Enum):
    """How the last layer starts: `ZERO` makes the output exactly 0, `GLOROT` draws it like the other layers."""

    ZERO = "zero"
    GLOROT = "glorot"


def _softplus(x: Tensor) -> Tensor:
    # torch turns to the identity at 20, a jump of 2e-9 that a tight solver sees; at 40 it is below rounding.
    return functional.softplus(x, threshold=40.0)


_FUNCTIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.TANH: torch.tanh,
    Activation.SOFTPLUS: _softplus,
    Activation.SILU: functional.silu,
    Activation.GELU: functional.gelu,
    Activation.SIN: torch.sin,
}

_KINKED = {
    *("relu", "relu6", "leakyrelu", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "hardtanh", "hardswish"),
    *("hardsigmoid", "hardshrink", "softshrink", "threshold", "softsign", "abs"),
}


@final
@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron as a description: sizes and activation, no weights.

    Attributes:
        hidden: widths of the hidden layers; empty for one affine layer.
        activation: between the layers; infinitely smooth.
        initial_output: how the last layer starts.

    Raises:
        NeuralError: lists widths that are not positive integers and activations that are not smooth or not known.
    """

    hidden: tuple[int, ...] = (32, 32)
    activation: Activation = Activation.TANH
    initial_output: InitialOutput = InitialOutput.ZERO

    def __post_init__(self) -> None:
        problems = [f"`hidden` must hold positive integers, got {w!r}" for w in self.hidden if not _is_count(w)]
        if not isinstance(self.activation, Activation):
            problems.append(_activation_problem(self.activation))
        if not isinstance(self.initial_output, InitialOutput):
            problems.append(f"`initial_output` must be an InitialOutput, got {self.initial_output!r}")
        refuse("the network cannot be described:", problems)

    def build(
        self,
        inputs: int,
        outputs: int,
        *,
        input_scaling: FixedScaling | None = None,
        output_scale: float | Tensor = 1.0,
        seed: int = 0,
    ) -> "ScaledNetwork":
        """A network with weights, `(*batch, inputs)` to `(*batch, outputs)`, float64; see `ScaledNetwork`."""
        return ScaledNetwork(self, inputs, outputs, input_scaling, output_scale, seed)

    def to_config(self) -> dict[str, Any]:
        """A description of plain numbers and text that survives JSON."""
        return {
            "hidden": list(self.hidden),
            "activation": self.activation.value,
            "initial_output": self.initial_output.value,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MLP":
        """The description that `to_config` wrote.

        Raises:
            NeuralError: lists missing and unknown keys and values that cannot be used.
        """
        headline = "the saved network cannot be read:"
        refuse(headline, config_problems(config, ("hidden", "activation", "initial_output")))
        problems = [] if isinstance(config["hidden"], list | tuple) else [f"'hidden' is no list: {config['hidden']!r}"]
        known = [member.value for member in InitialOutput]
        if config["initial_output"] not in known:
            problems.append(f"'initial_output' must be one of {known}, got {config['initial_output']!r}")
        refuse(headline, problems)
        return mlp(config["hidden"], config["activation"], InitialOutput(config["initial_output"]))


def mlp(
    hidden: Iterable[int] = (32, 32),
    activation: Activation | str = Activation.TANH,
    initial_output: InitialOutput = InitialOutput.ZERO,
) -> MLP:
    """Describes a multilayer perceptron; `activation` may be given by name, for instance `"softplus"`.

    Raises:
        NeuralError: lists widths that are not positive integers and activations that are not smooth or not known.
    """
    names = {member.value: member for member in Activation}
    chosen = names.get(activation.lower(), activation) if isinstance(activation, str) else activation
    return MLP(tuple(hidden), chosen, initial_output)  # type: ignore[arg-type]  # a wrong one is refused there


@final
class ScaledNetwork(nn.Module):
    """`output_scale * perceptron(input_scaling(x))` with fixed scales; made by `MLP.build`.

    With `InitialOutput.ZERO` the last layer starts at zero: the output is exactly 0 for every input, while the gradient
    of the last layer is not. The other weights are drawn as by Glorot and Bengio (2010, PMLR 9:249), uniform on
    `±sqrt(6 / (inputs + outputs))` of the layer, from a private generator; biases start at 0.

    Args:
        spec: the description.
        inputs, outputs: sizes of the last axis.
        input_scaling: applied to the input, or None.
        output_scale: number or `(outputs,)`, positive, in the unit of the output.
        seed: of the private generator.

    Raises:
        NeuralError: lists sizes and scales that do not fit.
    """

    output_scale: Tensor

    def __init__(
        self,
        spec: MLP,
        inputs: int,
        outputs: int,
        input_scaling: FixedScaling | None = None,
        output_scale: float | Tensor = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        factor = torch.as_tensor(output_scale).detach().clone().to(torch.float64)
        refuse("the network cannot be built:", _build_problems(inputs, outputs, input_scaling, factor))
        self.spec, self.inputs, self.outputs = spec, inputs, outputs
        self.input_scaling = input_scaling
        self.register_buffer("output_scale", factor)
        self._activation = _FUNCTIONS[spec.activation]
        self._layers = tuple((f"weight{i}", f"bias{i}") for i in range(len(spec.hidden) + 1))
        generator = torch.Generator().manual_seed(seed)
        widths = (inputs, *spec.hidden, outputs)
        for (weight, bias), before, after in zip(self._layers, widths[:-1], widths[1:], strict=True):
            self.register_parameter(weight, nn.Parameter(glorot(after, before, generator)))
            self.register_parameter(bias, nn.Parameter(torch.zeros(after, dtype=torch.float64)))
        if spec.initial_output is InitialOutput.ZERO:
            nn.init.zeros_(getattr(self, self._layers[-1][0]))

    def forward(self, x: Tensor) -> Tensor:
        """`(*batch, inputs)` to `(*batch, outputs)`."""
        if x.shape[-1] != self.inputs:
            refuse("the network cannot be applied:", [f"expected {self.inputs} inputs last, got {x.shape=}"])
        h = x if self.input_scaling is None else self.input_scaling(x)
        for weight, bias in self._layers[:-1]:
            h = self._activation(functional.linear(h, getattr(self, weight), getattr(self, bias)))
        weight, bias = self._layers[-1]
        return functional.linear(h, getattr(self, weight), getattr(self, bias)) * self.output_scale

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Matrix `(outputs, inputs)` and bias `(outputs,)` of every layer."""
        return [(getattr(self, weight), getattr(self, bias)) for weight, bias in self._layers]

    def squared_weight_norm(self) -> Tensor:
        """Sum of the squares of all weights, biases left out; a scalar."""
        return torch.stack([getattr(self, weight).square().sum() for weight, _ in self._layers]).sum()

    def to_config(self) -> dict[str, Any]:
        """Everything but the weights, as plain data; `from_config` and `load_state_dict` rebuild the network."""
        scaling = None if self.input_scaling is None else self.input_scaling.to_config()
        return {
            "spec": self.spec.to_config(),
            "inputs": self.inputs,
            "outputs": self.outputs,
            "input_scaling": scaling,
            "output_scale": self.output_scale.tolist(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ScaledNetwork":
        """A fresh network of the description; its weights are to be loaded with `load_state_dict`.

        Raises:
            NeuralError: lists missing and unknown keys and values that cannot be used.
        """
        headline = "the saved network cannot be read:"
        refuse(headline, config_problems(config, ("spec", "inputs", "outputs", "input_scaling", "output_scale")))
        scale, saved = config["output_scale"], config["input_scaling"]
        numbers = scale if isinstance(scale, list) else [scale]
        if not all(isinstance(number, int | float) for number in numbers):
            refuse(headline, [f"'output_scale' must be a number or a list of numbers, got {scale!r}"])
        scaling = None if saved is None else FixedScaling.from_config(saved)
        factor = torch.tensor(scale, dtype=torch.float64)
        return cls(MLP.from_config(config["spec"]), config["inputs"], config["outputs"], scaling, factor)

    def extra_repr(self) -> str:
        widths = " → ".join(str(width) for width in (self.inputs, *self.spec.hidden, self.outputs))
        return f"{widths}, {self.spec.activation.value}, output_scale={self.output_scale.tolist()}"


def glorot(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A float64 matrix `(rows, columns)`, uniform on `±sqrt(6 / (rows + columns))` (Glorot and Bengio 2010, eq. 16)."""
    unit = torch.rand(rows, columns, generator=generator, dtype=torch.float64)
    return (2.0 * unit - 1.0) * math.sqrt(6.0 / (rows + columns))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _activation_problem(activation: object) -> str:
    known = ", ".join(f"{member.value!r}" for member in Activation)
    name = activation if isinstance(activation, str) else type(activation).__name__
    if name.lower() in _KINKED:
        reason = "a derivative of it jumps, so inside an ODE an adaptive solver loses its order and rejects steps"
        return f"the activation {name!r} is not smooth: {reason}; use one of {known}"
    return f"the activation {activation!r} is not known; use one of {known}"


def _build_problems(inputs: int, outputs: int, scaling: FixedScaling | None, factor: Tensor) -> list[str]:
    sizes = {"inputs": inputs, "outputs": outputs}
    problems = [f"`{name}` must be a positive integer, got {n!r}" for name, n in sizes.items() if not _is_count(n)]
    if scaling is not None and scaling.channels != inputs:
        problems.append(f"`input_scaling` has {scaling.channels} channels, the network {inputs} inputs")
    if factor.shape not in ((), (outputs,)):
        problems.append(f"`output_scale` must be a number or of shape ({outputs},), got {factor.shape=}")
    if not bool((factor.isfinite() & (factor > 0)).all()):
        problems.append(f"`output_scale` must be finite and positive, got {factor.tolist()}")
    return problems
