"""The hybrid as a vector field: exactly the mechanism at the start, derivatives, latent states, covariates."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hybrid.coupling import CouplingError, FluxResidual, ParameterCurve, ParameterDrive
from hybrid.field import HybridField
from hybrid.parameters import Logit
from mechanistic.compile import RateField
from mechanistic.schedule import Schedule
from mechanistic.simulate import simulate
from mechanistic.solve import Rodas5P, Tolerance, Tsit5
from neural.latent_field import LatentField
from neural.networks import mlp
from tests.hybrid.problems import MAPK, ONE, TWO, drawn, perturbed, randomise, some_states

NET = mlp((5,))
REFERENCE = {"wt": 70.0}


def residual() -> FluxResidual:
    return FluxResidual(TWO, NET, extra=["central ->"], along=["distribution"])


def seeing_everything() -> FluxResidual:
    return FluxResidual(TWO, NET, extra=["central ->"], inputs=["central", "wt", "time", "latent_0"])


def drive() -> ParameterDrive:
    return ParameterDrive(TWO, "Q", NET, inputs=["peripheral", "time"])


def curve() -> ParameterCurve:
    return ParameterCurve(TWO, "CL", [0.0, 2.0, 5.0], [4.0, 7.0, 1.0])


def latent() -> LatentField:
    return LatentField(2, 1, NET, decay_time=5.0, time_scale=10.0)


KINDS: dict[str, Callable[[], HybridField]] = {
    "nothing": lambda: HybridField(RateField(TWO)),
    "residual": lambda: HybridField(RateField(TWO), residual()),
    "two residuals": lambda: HybridField(RateField(TWO), residual(), FluxResidual(TWO, NET, extra=["-> peripheral"])),
    "residual with time and covariate": lambda: HybridField(
        RateField(TWO), FluxResidual(TWO, NET, extra=["central ->"], inputs=["wt", "time"]), covariates=REFERENCE
    ),
    "drive": lambda: HybridField(RateField(TWO), drive()),
    "curve": lambda: HybridField(RateField(TWO), curve()),
    "latent": lambda: HybridField(RateField(TWO), latent=latent(), context=["central"]),
    "everything": lambda: HybridField(
        RateField(TWO),
        seeing_everything(),
        ParameterDrive(TWO, "V", NET, inputs=["wt"], bijection=Logit(1.0, 200.0)),
        drive(),
        curve(),
        latent=latent(),
        context=["central"],
        covariates=REFERENCE,
    ),
}


def point(field: HybridField, rows: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    known = perturbed(TWO, rows)
    p = field.nominal() * torch.ones(rows, 1, dtype=torch.float64)
    p[:, : known.shape[1]] = known
    if field.covariates:
        p[:, known.shape[1]] = torch.linspace(50, 100, rows, dtype=torch.float64)
    t = torch.tensor([0.3, 0.9, 1.7, 2.6, 3.9, 6.0], dtype=torch.float64)[:rows]
    x = field.scales * drawn((rows, len(field.state_names)), 5).abs()
    return t, x, p


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("curve", "everything")])
def test_before_training_the_hybrid_is_the_mechanism_with_a_live_gradient(kind):
    field = KINDS[kind]()
    t, x, p = point(field)
    count = len(TWO.state_names)
    rate = field(t, x, p)
    mechanism = RateField(TWO)(t, x[:, :count], p[:, : len(TWO.parameter_names)])
    # A driven parameter passes through a logarithm and back, which round in the last place.
    assert torch.allclose(rate[:, :count], mechanism, rtol=1e-15 if kind == "drive" else 0, atol=0)
    if kind == "nothing":
        assert not list(field.parameters())
        return
    gradient = torch.autograd.grad(rate.square().sum(), list(field.parameters()), allow_unused=True)
    last = [g for g, (name, _) in zip(gradient, field.named_parameters(), strict=True) if name.endswith("weight1")]
    assert last
    assert all(g is not None and float(g.abs().max()) > 0 for g in last)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_those_of_the_right_hand_side(kind):
    field = KINDS[kind]()
    randomise(field, 0.7)
    t, x, p = point(field)
    linear = field.linearise(t, x, p)
    # Row by row through plain autograd: an independent way to the same numbers, so that only rounding is between them.
    for row in range(len(t)):
        states, times = torch.autograd.functional.jacobian(
            lambda a, b, r=row: field(b[None], a[None], p[r][None])[0], (x[row], t[row])
        )
        assert torch.allclose(linear.jacobian[row], states, rtol=1e-11, atol=1e-12)
        assert torch.allclose(linear.time_derivative[row], times, rtol=1e-11, atol=1e-12)
    assert torch.allclose(field.jacobian(t, x, p), linear.jacobian)
    assert torch.allclose(field.time_derivative(t, x, p), linear.time_derivative)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_differentiable_once_more(kind):
    field = KINDS[kind]()
    randomise(field, 0.5)
    t, x, p = point(field, 2)
    sources = [x.clone().requires_grad_(), p.clone().requires_grad_(), *field.parameters()]

    def total() -> Tensor:
        linear = field.linearise(t, sources[0], sources[1])
        return (linear.jacobian * drawn(linear.jacobian.shape, 1)).sum() + linear.time_derivative.square().sum()

    value = total()
    gradients = torch.autograd.grad(value, sources, allow_unused=True)
    step = 1e-6
    for source, gradient in zip(sources, gradients, strict=True):
        direction = drawn(source.shape, 2) * source.detach().abs().clamp_min(0.1)
        values = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                source += sign * step * direction
            values.append(float(total().detach()))
            with torch.no_grad():
                source -= sign * step * direction
        expected = (values[0] - values[1]) / (2 * step)
        found = 0.0 if gradient is None else float((gradient * direction).sum())
        # Central differences: truncation of order step² and rounding of order 1e-16 / step of the value.
        assert found == pytest.approx(expected, rel=2e-5, abs=1e-8 * (1 + abs(float(value.detach()))))


def test_derivatives_without_a_graph_leave_none_and_touch_no_weight():
    field = KINDS["everything"]()
    t, x, p = point(field)
    with torch.no_grad():
        linear = field.linearise(t, x, p)
    assert not linear.jacobian.requires_grad
    assert all(weight.grad is None for weight in field.parameters())
    single = field.linearise(t[0], x[0], p[0])
    assert torch.allclose(single.jacobian, linear.jacobian[0], rtol=1e-13)
    assert torch.allclose(single.time_derivative, linear.time_derivative[0], rtol=1e-13)


@pytest.mark.parametrize("kind", ["residual", "everything"])
def test_both_solvers_agree_on_a_trained_hybrid_with_doses(kind):
    field = KINDS[kind]()
    randomise(field, 0.5)
    p = point(field, 3)[2]
    doses = Schedule.bolus("central", 100.0) + Schedule.infusion("central", 50.0, 2.0, time=3.0)
    times = torch.tensor([0.5, 1.5, 3.5, 6.0, 9.0], dtype=torch.float64)
    with torch.no_grad():
        explicit, stiff = (
            simulate(field, times, p, doses, solver=solver, tolerance=Tolerance(1e-9, 1e-11)).check().states
            for solver in (Tsit5(), Rodas5P())
        )
    # A thousand times the tolerance: both accumulate errors over some hundred steps, and the curve has corners.
    assert torch.allclose(explicit, stiff, rtol=1e-6, atol=1e-6)


def test_latent_states_start_at_their_parameters_and_decay_before_training():
    field = KINDS["latent"]()
    assert field.state_names == (*TWO.state_names, "latent_0", "latent_1")
    assert field.parameter_names[-2:] == ("latent_0", "latent_1")
    assert field.nonnegative.tolist() == [True, True, False, False]
    p = field.nominal()
    p[-2:] = torch.tensor([2.0, -1.0])
    assert field.initial(p)[-2:].tolist() == [2.0, -1.0]
    times = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    found = simulate(field, times, p, tolerance=Tolerance(1e-10, 1e-12)).states[:, -2:]
    expected = (-times / 5.0).exp()[:, None] * torch.tensor([2.0, -1.0], dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=1e-8)


def test_latent_states_see_their_context_and_reach_the_fluxes():
    field = KINDS["everything"]()
    randomise(field, 0.5)
    t, x, p = point(field)
    base = field(t, x, p)
    moved = x.clone()
    moved[:, TWO.state_names.index("central")] += 10.0
    latent_columns = slice(len(TWO.state_names), None)
    assert bool((field(t, moved, p)[:, latent_columns] != base[:, latent_columns]).all())
    moved = x.clone()
    moved[:, field.state_names.index("latent_0")] += 1.0
    assert bool((field.residual(t, moved, p) != field.residual(t, x, p)).all())


def test_covariates_reach_the_networks_relative_to_their_reference():
    field = HybridField(
        RateField(ONE), FluxResidual(ONE, mlp(()), extra=["-> central"], inputs=["wt", "age"], scale=1.0),
        covariates={"wt": 70.0, "age": 0.0},
    )  # fmt: skip
    assert field.parameter_names == (*ONE.parameter_names, "wt", "age")
    with torch.no_grad():
        field.residuals[0].network.weight0.copy_(torch.tensor([[1.0, 1.0]]))
    p = field.nominal().repeat(3, 1)
    p[:, -2:] = torch.tensor([[70.0, 0.0], [105.0, 0.0], [70.0, -2.0]])
    x, t = torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    # The network sees wt / 70 - 1, and age as it is, both through asinh; at nothing there, nothing is produced.
    expected = torch.asinh(torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, -2.0]], dtype=torch.float64)).sum(-1)
    assert torch.allclose(field.residual(t, x, p).squeeze(-1).clamp_min(0), expected.clamp_min(0), rtol=1e-14)


def test_the_learned_part_is_what_the_fluxes_say():
    field = KINDS["two residuals"]()
    randomise(field, 0.5)
    t, x, p = point(field)
    flux = field.residual(t, x, p)
    assert field.flux_names == ("residual distribution", "residual central ->", "residual -> peripheral")
    assert flux.shape == (len(t), 3)
    net = torch.cat([part.net for part in field.residuals], dim=-1)
    mechanism = RateField(TWO)(t, x, p)
    assert torch.allclose(field(t, x, p), mechanism + flux @ net.T, rtol=1e-12, atol=1e-12)


def test_driven_parameters_are_those_that_the_mechanism_and_its_observables_see():
    field = KINDS["curve"]()
    t, x, p = point(field)
    driven = field.driven_parameters(t, x, p)
    column = TWO.parameter_names.index("CL")
    # Linear between (0, 4), (2, 7) and (5, 1), constant after.
    assert driven[:, column].tolist() == pytest.approx([4.45, 5.35, 6.55, 5.8, 3.2, 1.0], rel=1e-14)
    rest = [i for i in range(len(TWO.parameter_names)) if i != column]
    assert torch.equal(driven[:, rest], p[:, rest])
    assert torch.equal(field(t, x, p), RateField(TWO)(t, x, driven))
    volume = HybridField(RateField(TWO), ParameterDrive(TWO, "V", NET, inputs=["time"]))
    randomise(volume, 1.0)
    assert torch.equal(volume.observe(t, x, p), RateField(TWO).observe(t, x, volume.driven_parameters(t, x, p)))


def test_a_copy_is_independent_and_says_the_same():
    field = KINDS["everything"]()
    randomise(field, 0.5)
    twin = copy.deepcopy(field)
    t, x, p = point(field)
    assert torch.equal(twin(t, x, p), field(t, x, p))
    randomise(twin, 0.1, seed=7)
    assert not torch.equal(twin(t, x, p), field(t, x, p))
    assert twin.to_config() == field.to_config()
    assert twin.model == field.model


def test_what_holds_by_construction_is_said_in_words():
    text = KINDS["everything"]().statement()
    assert "no learned flux takes central below zero" in text
    assert "`Q` stays in its support, within ±3" in text
    assert "`CL` follows a measured curve" in text
    assert HybridField(RateField(TWO)).statement() == "nothing is learned"


def test_couplings_that_do_not_fit_are_refused_with_every_problem():
    with pytest.raises(CouplingError) as caught:
        HybridField(
            RateField(TWO),
            FluxResidual(MAPK, NET, along=["v1"]),
            ParameterDrive(TWO, "Q", NET, inputs=["centrl"]),
            ParameterCurve(TWO, "Q", [0.0, 1.0], [1.0, 2.0]),
            latent=latent(),
            context=[],
            covariates={"V": 1.0},
        )
    text = str(caught.value)
    for part in (
        "`V` has the name of a quantity of the mechanism",
        "`Q` is driven twice",
        "was made for KineticModel('MAPK",
        "input `centrl` is unknown (did you mean `central`?)",
        "takes 1 context values, `context` names 0",
    ):
        assert part in text
    with pytest.raises(CouplingError, match="context `centrl` is not a state"):
        HybridField(RateField(TWO), latent=latent(), context=["centrl"])


def test_states_start_where_some_are_empty_without_a_bad_gradient():
    field = KINDS["residual"]()
    randomise(field, 0.5)
    x = some_states(field, 20)
    assert bool((x == 0).any())
    t, p = torch.zeros(20, dtype=torch.float64), perturbed(TWO, 20)
    gradients = torch.autograd.grad(field(t, x.requires_grad_(), p).sum(), [x, *field.parameters()])
    assert all(bool(g.isfinite().all()) for g in gradients)
