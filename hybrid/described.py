"""A hybrid field as data: what surrounds its networks, written as tapes that compiled code runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast, final

from torch import Tensor, nn

from hybrid.coupling import Coupling, FluxResidual, Gate, ParameterCurve, ParameterDrive
from hybrid.parameters import AbstractBijection, Exp, Identity, Logit, LogLogit
from mechanistic.compile import RateField
from mechanistic.compile.coupled import Coupled, Dense, logistic
from mechanistic.compile.tape import Tape, TapeBuilder
from neural.latent_field import LatentField
from neural.networks import ScaledNetwork
from neural.scaling import Compression, FixedScaling

MOST_POINTS = 200
"""Points of a measured curve: all are gone through at every evaluation."""


@final
@dataclass(frozen=True, slots=True)
class Anatomy:
    """The parts of a hybrid field.

    Attributes:
        known: the mechanism.
        couplings: each with what its network sees: columns of the states, the covariates and the time together.
        latent: the field of latent states, or None.
        context: columns of the states that it sees.
        references: name of each covariate → reference value.
    """

    known: RateField
    couplings: Sequence[tuple[Coupling, Sequence[int]]]
    latent: LatentField | None
    context: Sequence[int]
    references: Mapping[str, float]

    @property
    def states(self) -> int:
        return len(self.known.state_names) + (0 if self.latent is None else self.latent.latent)

    @property
    def parameters(self) -> int:
        hidden = self.states - len(self.known.state_names)
        return len(self.known.parameter_names) + len(self.references) + hidden

    @property
    def networks(self) -> list[nn.Module]:
        """All networks, in order."""
        parts = [coupling for coupling, _ in self.couplings if not isinstance(coupling, ParameterCurve)]
        return [part.network for part in (*parts, *([] if self.latent is None else [self.latent]))]


def reason_against(anatomy: Anatomy) -> str | None:
    """Why compiled code cannot run a hybrid; None when it can."""
    for network in anatomy.networks:
        if not isinstance(network, ScaledNetwork):
            return f"the network `{type(network).__name__}` is not one that `neural.mlp` describes"
    for coupling, _ in anatomy.couplings:
        if isinstance(coupling, ParameterCurve) and len(cast(Tensor, coupling.times)) > MOST_POINTS:
            return f"the curve of `{coupling.parameter}` has more than {MOST_POINTS} points"
        if isinstance(coupling, ParameterDrive) and type(coupling.bijection) not in BIJECTIONS:
            return f"the bijection `{type(coupling.bijection).__name__}` of `{coupling.parameter}` is not known"
    return None


def describe(anatomy: Anatomy) -> Coupled | str:
    """The hybrid as a mechanism with networks, or in a sentence why it is none."""
    reason = reason_against(anatomy)
    if reason is not None:
        return reason
    networks = [cast(ScaledNetwork, network) for network in anatomy.networks]
    return Coupled(
        anatomy.known, anatomy.states, anatomy.parameters, tuple(dense(network) for network in networks),
        _seen(anatomy), *_joined(anatomy, networks),
    )  # fmt: skip


def _seen(anatomy: Anatomy) -> Tape:
    writer = Writer.of(anatomy, 0)
    visible = writer.visible(anatomy)
    outputs: list[int] = []
    for coupling, columns in anatomy.couplings:
        if not isinstance(coupling, ParameterCurve):
            outputs += writer.inputs(coupling.network, [visible[c] for c in columns])
    if anatomy.latent is not None:
        outputs += writer.latent_inputs(anatomy.known, anatomy.latent, anatomy.context)
    return writer.builder.finish(outputs)


def _joined(anatomy: Anatomy, networks: Sequence[ScaledNetwork]) -> tuple[Tape, Tape]:
    """Driven parameters, and what is added to dx/dt."""
    writer = Writer.of(anatomy, sum(network.outputs for network in networks))
    b, found = writer.builder, iter(range(1 + anatomy.states + anatomy.parameters, writer.builder.slots))
    driven = list(writer.parameters[: len(anatomy.known.parameter_names)])
    count = len(anatomy.known.state_names)
    learned = [b.constant(0.0)] * count
    for coupling, _ in anatomy.couplings:
        if isinstance(coupling, ParameterCurve):
            driven[coupling.column] = writer.curve(coupling, 0)
            continue
        network = coupling.network
        outputs = writer.outputs(network, [next(found) for _ in range(network.outputs)])
        if isinstance(coupling, ParameterDrive):
            driven[coupling.column] = writer.drive(coupling, outputs[0])
        else:
            added = writer.residual(coupling, outputs)
            learned = [b.apply("add", total, part) for total, part in zip(learned, added, strict=True)]
    if anatomy.latent is not None:
        network = anatomy.latent.network
        outputs = writer.outputs(network, [next(found) for _ in range(network.outputs)])
        learned += writer.latent_rates(anatomy.latent, outputs, writer.states[count:])
    return b.finish(driven), b.finish(learned)


def dense(network: ScaledNetwork) -> Dense:
    """The layers of a network."""
    return Dense((network.inputs, *network.spec.hidden, network.outputs), network.spec.activation.value)


def weights_of(network: nn.Module) -> list[Tensor]:
    """The weights of a network, layer by layer, each matrix by rows and then the bias."""
    return [part.reshape(-1) for layer in cast(ScaledNetwork, network).layers for part in layer]


@final
@dataclass(frozen=True, slots=True)
class Writer:
    """Appends to a tape what couplings do around their networks.

    Attributes:
        builder: of the tape.
        states, parameters: registers of those of the whole.
    """

    builder: TapeBuilder
    states: Sequence[int]
    parameters: Sequence[int]

    @classmethod
    def of(cls, anatomy: Anatomy, outputs: int) -> "Writer":
        """A tape of time, states, parameters and so many outputs of networks."""
        n, k = anatomy.states, anatomy.parameters
        return cls(TapeBuilder(1 + n + k + outputs), range(1, 1 + n), range(1 + n, 1 + n + k))

    def visible(self, anatomy: Anatomy) -> list[int]:
        """What networks of couplings may see: states, covariates relative to their references, time."""
        b, first = self.builder, len(anatomy.known.parameter_names)
        relative = []
        for register, value in zip(self.parameters[first:], anatomy.references.values(), strict=False):
            share = b.apply("div", register, self.number(value if value != 0 else 1.0))
            relative.append(b.apply("sub", share, self.number(float(value != 0))))
        return [*self.states, *relative, 0]

    def number(self, value: float) -> int:
        return self.builder.constant(float(value))

    def inputs(self, network: ScaledNetwork, seen: Sequence[int]) -> list[int]:
        """What the layers of a network read, for what the network is given."""
        scaling = network.input_scaling
        return list(seen) if scaling is None else self._scaled(scaling, seen)

    def outputs(self, network: ScaledNetwork, found: Sequence[int]) -> list[int]:
        """What a network gives, for what its last layer gives."""
        scales = network.output_scale.expand(network.outputs).tolist()
        return [self.builder.apply("mul", value, self.number(s)) for value, s in zip(found, scales, strict=True)]

    def residual(self, coupling: FluxResidual, found: Sequence[int]) -> list[int]:
        """What learned fluxes add to dx/dt of the mechanism, for the outputs of their network."""
        b = self.builder
        fluxes = [self._gated(coupling.gate, i, flux) for i, flux in enumerate(found)]
        rows = []
        for row in cast(Tensor, coupling.net).tolist():
            terms = [b.apply("mul", flux, self.number(c)) for flux, c in zip(fluxes, row, strict=True) if c != 0]
            rows.append(b.total(terms))
        return rows

    def drive(self, coupling: ParameterDrive, found: int) -> int:
        """The driven value of a parameter, for the output of its network."""
        b, limit = self.builder, self.number(coupling.limit)
        shift = b.apply("mul", limit, b.apply("tanh", b.apply("div", found, limit)))
        forward, inverse = BIJECTIONS[type(coupling.bijection)]
        free = inverse(self, coupling.bijection, self.parameters[coupling.column])
        return forward(self, coupling.bijection, b.apply("add", free, shift))

    def curve(self, coupling: ParameterCurve, t: int) -> int:
        """The value of a measured curve: its start, and what each piece has added until then."""
        b = self.builder
        times, values = (getattr(coupling, name).tolist() for name in ("times", "values"))
        total = self.number(values[0])
        for i, (begin, end) in enumerate(pairwise(times)):
            since = b.apply("max", b.apply("sub", t, self.number(begin)), self.number(0.0))
            share = b.apply("min", self.number(end - begin), since)
            slope = self.number((values[i + 1] - values[i]) / (end - begin))
            total = b.apply("add", total, b.apply("mul", slope, share))
        return total

    def latent_inputs(self, known: RateField, latent: LatentField, context: Sequence[int]) -> list[int]:
        """What the network of a latent field reads: latent states, context in its scale, and time where it wants it."""
        b, count = self.builder, len(known.state_names)
        scales = [*known.scales.tolist(), *[1.0] * latent.latent]
        seen = [*self.states[count:]]
        seen += [b.apply("div", self.states[place], self.number(scales[place])) for place in context]
        if latent.time_scale is not None:
            seen.append(b.apply("div", 0, self.number(latent.time_scale)))
        return self.inputs(latent.network, seen)

    def latent_rates(self, latent: LatentField, outputs: Sequence[int], states: Sequence[int]) -> list[int]:
        """The rates of latent states, for the outputs of their network."""
        if latent.decay_time is None:
            return list(outputs)
        b, time = self.builder, self.number(latent.decay_time)
        return [b.apply("sub", rate, b.apply("div", z, time)) for rate, z in zip(outputs, states, strict=True)]

    def _scaled(self, scaling: FixedScaling, seen: Sequence[int]) -> list[int]:
        b, results = self.builder, []
        for value, shift, scale in zip(seen, scaling.shift.tolist(), scaling.scale.tolist(), strict=True):
            standard = b.apply("div", b.apply("sub", value, self.number(shift)), self.number(scale))
            results.append(COMPRESSIONS[scaling.compression](b, standard))
        return results

    def _gated(self, gate: Gate, index: int, flux: int) -> int:
        b, zero = self.builder, self.number(0.0)
        ahead, back = (
            self._open(gate, getattr(gate, name)[:, index].tolist()) for name in ("forward_index", "reverse_index")
        )
        return b.apply("mul", flux, b.apply("where", b.apply("lt", zero, flux), ahead, back))

    def _open(self, gate: Gate, consumed: Sequence[int]) -> int:
        """How far the gate is open for a flux that consumes these states; a number beyond them stands for none."""
        b, share = self.builder, self.number(1.0)
        half: Any = gate.half_open
        for state in consumed:
            if state < len(half):
                present = b.apply("max", self.states[state], self.number(0.0))
                part = b.apply("div", present, b.apply("add", present, self.number(float(half[state]))))
                share = b.apply("mul", share, part)
        return share


def _odd_logarithm(b: TapeBuilder, x: int) -> int:
    zero, one = b.constant(0.0), b.constant(1.0)
    above, below = (b.apply("log", b.apply("add", one, b.apply("max", each, zero))) for each in (x, b.apply("neg", x)))
    return b.apply("where", b.apply("le", zero, x), above, b.apply("neg", below))


COMPRESSIONS: dict[Compression, Callable[[TapeBuilder, int], int]] = {
    Compression.NONE: lambda b, x: x,
    Compression.ASINH: lambda b, x: b.apply("asinh", x),
    Compression.LOG1P: _odd_logarithm,
}


def _logit_forward(writer: Writer, map_: Any, u: int) -> int:
    b = writer.builder
    share = logistic(b, u)
    return b.apply("add", writer.number(map_.lower), b.apply("mul", writer.number(map_.upper - map_.lower), share))


def _logit_inverse(writer: Writer, map_: Any, x: int) -> int:
    b = writer.builder
    parts = b.apply("sub", x, writer.number(map_.lower)), b.apply("sub", writer.number(map_.upper), x)
    return b.apply("sub", *(b.apply("log", part) for part in parts))


def _log_logit_forward(writer: Writer, map_: Any, u: int) -> int:
    return writer.builder.apply("exp", _logit_forward(writer, map_._logarithm(), u))


def _log_logit_inverse(writer: Writer, map_: Any, x: int) -> int:
    return _logit_inverse(writer, map_._logarithm(), writer.builder.apply("log", x))


Map = Callable[[Writer, Any, int], int]

BIJECTIONS: dict[type[AbstractBijection], tuple[Map, Map]] = {
    Identity: (lambda writer, map_, u: u, lambda writer, map_, x: x),
    Exp: (
        lambda writer, map_, u: writer.builder.apply("exp", u),
        lambda writer, map_, x: writer.builder.apply("log", x),
    ),
    Logit: (_logit_forward, _logit_inverse),
    LogLogit: (_log_logit_forward, _log_logit_inverse),
}
"""Forward and inverse of the bijections."""
