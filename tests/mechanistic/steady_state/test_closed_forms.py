"""Rests that are known: closed forms, and linear systems of any size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mechanistic as mech
from mechanistic import KineticModel, Parameter, Reaction, RestStatus, State, symbol
from mechanistic.steady_state import find
from tests.mechanistic.steady_state.models import GOLDBETER_KOSHLAND, INFUSION, ISOMERS, PRODUCTION, SWITCH

EXACT = {"rtol": 1e-13, "atol": 0.0}
"""Newton's method ends at rounding, for systems as well conditioned as these."""


def close(found, expected, **tolerance):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), **(tolerance or EXACT))


def test_production_and_degradation_balance():
    rest = mech.steady_state(PRODUCTION, {"k": [3.0, 1.0, 0.2], "d": 0.5}).check()
    close(rest.states, [[6.0], [2.0], [0.4]])
    close(rest.growth, [-0.5] * 3)
    close(rest.observe(), 2 * rest.states)
    assert (rest.residual < 1e-15).all()


def test_one_subject_has_no_batch():
    rest = mech.steady_state(PRODUCTION)
    assert rest.states.shape == (1,)
    assert rest.status.shape == ()
    assert rest.dataset().sizes == {}
    assert "one subject" in repr(rest)
    assert "per h" in repr(rest)


def test_each_initial_state_reaches_the_rest_with_its_own_totals():
    start = torch.tensor([[1.0, 0.5], [4.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    rest = mech.steady_state(ISOMERS, initial=start).check()
    total = start.sum(-1)
    close(rest.states, torch.stack([0.25 * total, 0.75 * total], -1), rtol=1e-13, atol=1e-15)
    close(rest.states.sum(-1), total, rtol=1e-15, atol=0.0)
    close(rest.growth, [-0.4] * 3)


def test_two_compartments_under_infusion():
    rest = mech.steady_state(INFUSION, {"R": [5.0, 2.0]}).check()
    central = torch.tensor([5.0, 2.0], dtype=torch.float64) / 0.2
    close(rest.states, torch.stack([central, central * 0.7 / 0.3], -1))


def test_covalent_modification_is_the_function_of_goldbeter_and_koshland():
    """Goldbeter & Koshland 1981, PNAS 78:6840, doi:10.1073/pnas.78.11.6840."""
    v1 = torch.linspace(0.5, 1.5, 11, dtype=torch.float64)
    rest = mech.steady_state(GOLDBETER_KOSHLAND, {"v1": v1}).check()
    v2, j1, j2 = 1.0, 0.05, 0.08
    middle = v2 - v1 + j1 * v2 + j2 * v1
    expected = 2 * v1 * j2 / (middle + (middle**2 - 4 * (v2 - v1) * v1 * j2).sqrt())
    # The closed form loses a few digits where its root cancels.
    close(rest.states[:, 1], expected, rtol=1e-11, atol=0.0)
    close(rest.states.sum(-1), torch.ones(11))


def test_a_bistable_switch_stays_on_the_branch_of_its_initial_state():
    start = torch.tensor([0.0, 0.1, 0.39, 0.41, 0.9, 3.0], dtype=torch.float64)[:, None]
    rest = mech.steady_state(SWITCH, initial=start).check()
    close(rest.states[:, 0], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0], rtol=1e-13, atol=1e-15)
    close(rest.growth, [-0.4] * 3 + [-0.6] * 3, rtol=1e-12, atol=0.0)


def test_what_nothing_moves_is_at_rest_where_it_is():
    model = KineticModel("still", [State("A", 2.0), State("B", 3.0)], reactions=[Reaction("none", "A -> B", 0)])
    rest = mech.steady_state(model, initial={"A": [2.0, 5.0]}).check()
    close(rest.states, [[2.0, 3.0], [5.0, 3.0]])
    assert (rest.growth == -torch.inf).all()


def test_a_reaction_that_is_switched_off_conserves_what_it_would_change():
    leak = Reaction("leak", "B ->", symbol("leak") * symbol("B"))
    model = KineticModel(
        "leaking", ISOMERS.states, [*ISOMERS.parameters, Parameter("leak", 0.0)], [*ISOMERS.reactions, leak]
    )
    rest = mech.steady_state(model, {"leak": [0.0, 0.2]}).check()
    close(rest.states, [[0.375, 1.125], [0.0, 0.0]], rtol=1e-13, atol=1e-15)


def test_decay_ends_at_exactly_nothing():
    rest = mech.steady_state(mech.library.one_compartment_oral(), initial={"gut": 100.0}).check()
    assert (rest.states == 0).all()


def test_a_batch_gives_the_same_numbers_as_its_subjects():
    draws = np.random.default_rng(3)
    values = {name: draws.lognormal(np.log(v), 0.5, 7) for name, v in GOLDBETER_KOSHLAND.nominal().items()}
    together = mech.steady_state(GOLDBETER_KOSHLAND, values)
    for i in range(7):
        alone = mech.steady_state(GOLDBETER_KOSHLAND, {name: value[i] for name, value in values.items()})
        # Products of matrices of other sizes are rounded differently.
        close(alone.states, together.states[i])
        close(alone.time, together.time[i])
        assert alone.status == together.status[i]


def test_batches_of_any_shape_are_broadcast():
    rest = mech.steady_state(ISOMERS, {"f": torch.full((2, 1), 0.3)}, initial={"A": [1.0, 2.0, 3.0]}).check()
    assert rest.states.shape == (2, 3, 2)
    assert rest.status.shape == (2, 3)
    assert rest.dataset().sizes == {"subject": 6}


@settings(max_examples=15, deadline=None)
@given(size=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_linear_networks_end_where_a_linear_solve_says(size, seed):
    """`dx/dt = u + K x` with a diagonally dominant `K` is stable and keeps amounts positive."""
    draws = np.random.default_rng(seed)
    inflow, outflow = draws.uniform(0, 2, size), draws.uniform(0.1, 2, size)
    between = draws.uniform(0, 2, (size, size)) * (draws.uniform(size=(size, size)) < 0.5)
    np.fill_diagonal(between, 0.0)
    names = [f"x{i}" for i in range(size)]
    reactions = [Reaction(f"in{i}", f"-> {n}", inflow[i]) for i, n in enumerate(names)]
    reactions += [Reaction(f"out{i}", f"{n} ->", outflow[i] * symbol(n)) for i, n in enumerate(names)]
    reactions += [
        Reaction(f"from{i}to{j}", f"x{i} -> x{j}", between[i, j] * symbol(f"x{i}"))
        for i in range(size)
        for j in range(size)
        if between[i, j]
    ]
    model = KineticModel("network", [State(n, 1.0) for n in names], reactions=reactions)
    rest = mech.steady_state(model, engine=mech.Torch())
    matrix = between.T - np.diag(between.sum(1) + outflow)
    close(rest.check().states, np.linalg.solve(matrix, -inflow), rtol=1e-11, atol=1e-13)
    close(rest.growth, np.linalg.eigvals(matrix).real.max(), rtol=1e-9, atol=1e-12)


def test_the_table_of_a_batch_has_the_search_beside_the_states():
    data = mech.steady_state(PRODUCTION, {"k": [1.0, 2.0]}).dataset(subjects=["a", "b"])
    np.testing.assert_allclose(data["A"].sel(subject="b"), 4.0)
    assert data["A"].attrs["units"] == "nmol"
    assert data["growth"].attrs["units"] == "1/h"
    assert (data["status"] == RestStatus.OK).all()
    assert {"time", "residual", "double"} <= set(data.data_vars)


def test_names_and_shapes_that_do_not_fit_are_all_listed():
    with pytest.raises(mech.SolveError) as failure:
        mech.steady_state(ISOMERS, {"ff": 1.0}, initial={"AA": 1.0})
    assert len(failure.value.problems) == 2
    assert "did you mean" in str(failure.value)
    rest = mech.steady_state(ISOMERS)
    close(rest.with_states(A=[1.0, 2.0]), [[1.0, 1.125], [2.0, 1.125]])
    with pytest.raises(mech.SolveError, match="`C` is not a state"):
        rest.with_states(C=1.0)


def test_a_large_batch_is_looked_at_in_pieces(monkeypatch):
    values = {"k": torch.linspace(1.0, 3.0, 7, dtype=torch.float64)}
    whole = mech.steady_state(PRODUCTION, values)
    monkeypatch.setattr(find, "ENTRIES_AT_ONCE", 3)
    pieces = mech.steady_state(PRODUCTION, values)
    close(pieces.states, whole.states)
    assert pieces.status.tolist() == whole.status.tolist()
    assert mech.steady_state(PRODUCTION, torch.zeros(0, 2)).states.shape == (0, 1)
