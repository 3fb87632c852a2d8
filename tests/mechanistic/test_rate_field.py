"""The compiled field: equal to the symbols it was made from, with derivatives equal to autograd's."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import sympy
import torch
from sympy import Piecewise, exp, symbols
from torch import Tensor

import mechanistic as mech
from mechanistic.compile import rate_field
from mechanistic.compile.families import assignment_layers, moving_assignments
from mechanistic.compile.rate_field import RateField
from mechanistic.model import KineticModel, Parameter, Reaction, State, symbol, time

MODELS = {name: getattr(mech.library, name) for name in mech.library.__all__ if name != "closed_form"}
ROWS = 5


def layered() -> KineticModel:
    """Assignments on assignments, explicit time, a rate rule, a piecewise, and a constant assignment."""
    a, b, c, k, v, low, high, scale, drive = symbols("a b c k v low high scale drive")
    return KineticModel(
        name="layers",
        states=(State("a", 1), State("b", 2), State("c", symbol("k") / 3, nonnegative=False)),
        parameters=(Parameter("k", 0.7), Parameter("v", 1.3)),
        reactions=(
            Reaction("r1", "a -> 2 b", high * a),
            Reaction("r2", "b ->", Piecewise((k * b, b < 1), (low * b / (1 + b), True))),
            Reaction("r3", "-> a", drive * scale * exp(-time)),
        ),
        rates={"c": sympy.sin(time) * low - k * c + drive},
        assignments={
            "high": low**2 + scale * b + time,
            "low": a * b / (v + a) + scale,
            "scale": k * v + 1,
            "drive": sympy.cos(2 * time) + 2,
        },
        observables={"total": a + b / 2, "level": high * c, "fixed": scale},
    )


ALL = {**MODELS, "layered": layered}


def random_points(field: RateField, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Times, states and parameters around their nominal sizes."""
    generator = torch.Generator().manual_seed(seed)

    def spread(size: Tensor) -> Tensor:
        return size * (0.1 + 2 * torch.rand(ROWS, len(size), generator=generator, dtype=torch.float64))

    return 3 * torch.rand(ROWS, generator=generator, dtype=torch.float64), spread(field.scales), spread(field.nominal())


def lambdified(model: KineticModel, expressions: list[sympy.Expr]) -> Callable[[Tensor, Tensor, Tensor], np.ndarray]:
    """The expressions by sympy's own printer, row by row."""
    names = [symbol(name) for name in (*model.state_names, *model.parameter_names)]
    function = sympy.lambdify([time, *names], [model.expand(e) for e in expressions], ["scipy", "numpy"])
    return lambda t, x, p: np.array(
        [function(float(s), *y.tolist(), *q.tolist()) for s, y, q in zip(t, x, p, strict=True)], dtype=float
    )


# Both sides evaluate the same formula in a different order: some rounding errors, relative to the largest term.
def close(actual: Tensor, expected: Tensor | np.ndarray, rtol: float = 1e-11) -> None:
    wanted = torch.as_tensor(expected)
    size = wanted.abs().flatten(1).amax(1).clamp_min(1e-300) if wanted.numel() else wanted.new_ones(len(wanted))
    gap = (actual - wanted).abs().flatten(1) / size[:, None]
    assert gap.numel() == 0 or gap.max() < rtol


@pytest.mark.parametrize("name", ALL)
def test_the_field_equals_the_symbols_it_was_made_from(name: str) -> None:
    model = ALL[name]()
    field = RateField(model)
    point = random_points(field)
    close(field(*point), lambdified(model, list(model.derivatives().values()))(*point))
    close(field.rates(*point), lambdified(model, [r.rate for r in model.reactions])(*point))
    close(field.observe(*point), lambdified(model, list(model.observables.values()))(*point))
    close(field.assignments(*point), lambdified(model, list(model.assignments.values()))(*point))
    close(field.initial(point[2]), lambdified(model, [s.initial for s in model.states])(*point))
    assert dict(zip(model.state_names, field.initial(field.nominal()).tolist(), strict=True)) == pytest.approx(
        model.initial_values(), rel=1e-14
    )


@pytest.mark.parametrize("name", ALL)
def test_jacobian_and_time_derivative_equal_autograd(name: str) -> None:
    field = RateField(ALL[name]())
    t, x, p = random_points(field, seed=1)
    rows = [(s[None], y[None], q[None]) for s, y, q in zip(t, x, p, strict=True)]
    by_state, by_time = [], []
    for s, y, q in rows:
        wrt_time, wrt_state = torch.autograd.functional.jacobian(lambda s, y, q=q: field(s, y, q), (s, y))
        by_state.append(wrt_state[0, :, 0])
        by_time.append(wrt_time[0, :, 0])
    close(field.jacobian(t, x, p), torch.stack(by_state))
    close(field.time_derivative(t, x, p), torch.stack(by_time))
    # The general implementation by reverse mode agrees with the symbolic one.
    general = mech.AbstractVectorField.linearise(field, t, x, p)
    close(field.jacobian(t, x, p), general.jacobian)
    close(field.time_derivative(t, x, p), general.time_derivative)


@pytest.mark.parametrize("name", ["huang_ferrell_mapk", "krishna_nfkb", "layered"])
def test_the_path_of_large_models_equals_the_dense_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ALL[name]()
    monkeypatch.setattr(rate_field, "DENSE_SCATTER", 1_000_000)
    dense = RateField(model)
    monkeypatch.setattr(rate_field, "DENSE_SCATTER", 0)
    sparse = RateField(model)
    assert sparse._chain.matrix is None
    assert dense._chain.matrix is not None
    point = random_points(dense)
    close(sparse.jacobian(*point), dense.jacobian(*point), rtol=1e-14)
    close(sparse.time_derivative(*point), dense.time_derivative(*point), rtol=1e-14)


def test_derivatives_with_respect_to_parameters_pass_through_field_jacobian_and_observables() -> None:
    field = RateField(layered())
    t, x, p = random_points(field)
    inputs = (t.requires_grad_(), x.requires_grad_(), p.requires_grad_())
    for function in (field, field.jacobian, field.time_derivative, field.observe):
        assert torch.autograd.gradcheck(function, inputs)


def test_laws_of_one_shape_are_one_family_whatever_their_names() -> None:
    field = RateField(mech.library.huang_ferrell_mapk())
    assert len(field._laws.families) == 2  # mass action of one and of two reactants
    assert repr(field) == "RateField('MAPK cascade, mass action': 30 rate laws in 2 families)"
    names = "z y x w v u"
    s = symbols(names)
    k, n = symbols("k n")
    hill = [Reaction(f"r{i}", f"{a} ->", k * a**n / (a**n + b**n)) for i, (a, b) in enumerate(pairwise(s))]
    model = KineticModel(
        "hill", tuple(State(a.name, 1) for a in s), (Parameter("k", 1), Parameter("n", 2)), tuple(hill)
    )
    assert len(RateField(model)._laws.families) == 1


def test_large_models_compile_in_seconds_and_keep_few_families() -> None:
    count = 600
    generator = np.random.default_rng(0)
    s = [symbol(f"s{i}") for i in range(100)]
    k = [symbol(f"k{i}") for i in range(count)]
    reactions = []
    for i in range(count):
        a, b, c = (int(j) for j in generator.choice(100, 3, replace=False))
        reactions.append(Reaction(f"r{i}", f"s{a} + s{b} -> s{c}", k[i] * s[a] * s[b] / (1 + s[c])))
    model = KineticModel(
        "random",
        tuple(State(a.name, 1.0) for a in s),
        tuple(Parameter(a.name, 1.0 + i / count) for i, a in enumerate(k)),
        tuple(reactions),
    )
    field = RateField(model)
    assert len(field._laws.families) == 1
    assert field._chain.matrix is None
    t, x, p = random_points(field)
    expected = torch.autograd.functional.jacobian(lambda y: field(t[:1], y, p[:1]), x[:1])[0, :, 0]
    close(field.jacobian(t[:1], x[:1], p[:1]), expected[None])


def test_a_batch_of_any_shape_gives_rows_of_that_shape() -> None:
    field = RateField(layered())
    t, x, p = random_points(field)
    whole = field(t, x, p)
    assert field(t[0], x[0], p[0]).tolist() == pytest.approx(whole[0].tolist())
    wide = field(t.expand(2, 3, ROWS), x.expand(2, 3, ROWS, 3), p.expand(2, 3, ROWS, 2))
    torch.testing.assert_close(wide[1, 2], whole, rtol=1e-14, atol=0)
    assert field.jacobian(t.expand(2, ROWS), x.expand(2, ROWS, 3), p.expand(2, ROWS, 2)).shape == (2, ROWS, 3, 3)
    assert field.observe(t[:0], x[:0], p[:0]).shape == (0, 3)


def test_models_without_reactions_parameters_or_observables() -> None:
    empty = RateField(KineticModel("still", (State("a", 2),)))
    t, x, p = torch.zeros(3).double(), torch.ones(3, 1).double(), torch.zeros(3, 0).double()
    assert empty(t, x, p).tolist() == [[0.0]] * 3
    assert empty.jacobian(t, x, p).tolist() == [[[0.0]]] * 3
    assert empty.observe(t, x, p).shape == (3, 0)
    assert empty.initial(p).tolist() == [[2.0]] * 3
    constant = RateField(KineticModel("drip", (State("a"),), (), (Reaction("in", "-> a", 3),)))
    assert constant(t, x, p).tolist() == [[3.0]] * 3
    assert constant.time_derivative(t, x, p).tolist() == [[0.0]] * 3


def test_layers_and_what_moves() -> None:
    model = layered()
    assert [sorted(layer) for layer in assignment_layers(model.assignments)] == [["drive", "scale"], ["low"], ["high"]]
    assert moving_assignments(model.assignments, model.parameter_names) == {"drive", "low", "high"}


def test_scales_come_from_the_declaration_the_initial_value_the_totals_or_the_smallest() -> None:
    a, b = symbols("a b")
    model = KineticModel(
        "scales",
        (State("a", 5), State("b"), State("c", scale=0.1), State("d"), State("e", 7, scale=2.0)),
        (),
        (Reaction("swap", "a -> 2 b", a), Reaction("back", "2 b -> a", b), Reaction("leak", "-> d", a)),
    )
    assert RateField(model).scales.tolist() == [5.0, 10.0, 0.1, 0.1, 2.0]


def test_units_are_those_of_the_model() -> None:
    field = RateField(mech.library.one_compartment_oral())
    assert (field.unit_of("gut"), field.unit_of("CL"), field.unit_of("time"), field.unit_of("cp")) == (
        "mg", "L/h", "h", "",
    )  # fmt: skip


def test_a_field_in_single_precision_computes_in_it() -> None:
    model = mech.library.huang_ferrell_mapk()
    single, double = RateField(model).float(), RateField(model)
    t, x, p = random_points(double)
    small = single(t.float(), x.float(), p.float())
    assert small.dtype == single.jacobian(t.float(), x.float(), p.float()).dtype == torch.float32
    close(small.double(), double(t, x, p), rtol=1e-5)
