"""Sparse LU factors: fill, the identity `L U = A`, kernels against dense algebra, independence of the lanes."""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanistic import RateField, library, read_sbml
from mechanistic.errors import ModelError
from mechanistic.native import sparse_ir
from mechanistic.native.build import compile_kernels
from mechanistic.native.emit import Kernels
from mechanistic.native.lanes import LANES
from mechanistic.native.sparse import Factorisation, factorise
from tests.shared import shared_file

MODELS = sorted(name for name in library.__all__ if name != "closed_form")
BENCHMARKS = ("Bachmann_MSB2011", "Fujita_SciSignal2010", "Raia_CancerResearch2011", "Zheng_PNAS2012")
FORMS = {"written out": 10**9, "loops": 0}

Pattern = tuple[int, list[int], list[int]]


def pattern_of(field: RateField) -> Pattern:
    """Where the Jacobian is not zero at states drawn at random."""
    size = len(field.state_names)
    draws = torch.rand(5, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameters = field.nominal().expand(5, -1)
    jacobian = field.linearise(parameters.new_zeros(5), (0.1 + draws) * field.scales, parameters).jacobian
    rows, columns = (jacobian != 0).any(0).nonzero().T.tolist()
    return size, rows, columns


@cache
def library_pattern(name: str) -> Pattern:
    return pattern_of(RateField(getattr(library, name)()))


@cache
def benchmark_pattern(name: str) -> Pattern:
    return pattern_of(RateField(read_sbml(shared_file(f"benchmark_models/{name}/model_{name}.xml"))))


def random_pattern(size: int, entries: int, seed: int) -> Pattern:
    places = np.random.default_rng(seed).choice(size * size, entries, replace=False)
    return size, (places // size).tolist(), (places % size).tolist()


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    size = draw(st.integers(1, 8))
    pairs = draw(st.lists(st.tuples(*[st.integers(0, size - 1)] * 2), unique=True, max_size=3 * size))
    return size, [i for i, _ in pairs], [j for _, j in pairs]


def planned(pattern: Pattern) -> Factorisation:
    found = factorise(*pattern)
    assert found is not None
    return found


def dense(pattern: Pattern, j: np.ndarray, s: float) -> np.ndarray:
    """`diag(s) - J` from its entries."""
    size, rows, columns = pattern
    matrix = np.diag(np.full(size, float(s)))
    matrix[rows, columns] -= j
    return matrix


# The plan -----------------------------------------------------------------------------------------------------------


@given(patterns(), st.integers(0, 1000))
def test_the_product_of_the_factors_is_the_matrix(pattern, seed):
    size, rows, _ = pattern
    f = planned(pattern)
    j = np.random.default_rng(seed).uniform(-1, 1, len(rows))
    lu = np.zeros(f.places)
    lu[list(f.entries)] = -j
    lower, upper = np.eye(size), np.zeros((size, size))
    for pivot in f.pivots:
        lu[pivot.place] += 2 * size
    for pivot in f.pivots:
        lu[list(pivot.lowers)] /= lu[pivot.place]
        products = np.outer(lu[list(pivot.lowers)], lu[list(pivot.uppers)]).ravel()
        lu[list(pivot.targets)] -= products
        upper[pivot.state, [pivot.state, *pivot.upper]] = lu[[pivot.place, *pivot.uppers]]
        lower[list(pivot.lower), pivot.state] = lu[list(pivot.lowers)]
    # Rows are dominated by the diagonal, so that no element grows: errors stay at rounding of numbers up to 2 n.
    np.testing.assert_allclose(lower @ upper, dense(pattern, j, 2 * size), rtol=0, atol=1e-14 * size)
    order = list(f.order)
    assert np.array_equal(np.tril(lower[np.ix_(order, order)]), lower[np.ix_(order, order)])
    assert np.array_equal(np.triu(upper[np.ix_(order, order)]), upper[np.ix_(order, order)])


@given(patterns())
def test_every_number_has_a_place_of_its_own(pattern):
    f = planned(pattern)
    assert sorted(f.order) == list(range(f.size))
    assert sorted([*f.entries, *f.empty]) == list(range(f.places))
    places = [place for pivot in f.pivots for place in (pivot.place, *pivot.uppers, *pivot.lowers)]
    assert places == list(range(f.places))
    assert f.places == f.size + f.solve_multiply_adds


def test_a_tree_has_no_fill():
    # Taken from the leaves, each state is eliminated when one neighbour is left.
    parents = np.random.default_rng(0).integers(0, np.arange(1, 60))
    children = np.arange(1, 60)
    f = planned((60, [*parents.tolist(), *children.tolist()], [*children.tolist(), *parents.tolist()]))
    assert f.places == 60 + 2 * 59
    assert f.multiply_adds == 59


@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_a_full_matrix_takes_what_elimination_takes(size):
    rows, columns = np.divmod(np.arange(size * size), size)
    f = planned((size, rows.tolist(), columns.tolist()))
    assert f.places == size * size
    assert f.multiply_adds == (size - 1) * size * (2 * size - 1) // 6
    assert f.scalings == size * (size - 1) // 2


def test_a_triangular_matrix_needs_no_multiplication():
    rows, columns = np.tril_indices(12)
    f = planned((12, rows.tolist(), columns.tolist()))
    assert f.multiply_adds == 0
    assert f.places == 12 * 13 // 2


@pytest.mark.parametrize("name", MODELS)
def test_the_order_is_no_worse_than_that_of_the_model(name):
    f = planned(library_pattern(name))
    assert f.places <= _places_in_natural_order(*library_pattern(name))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_order_is_no_worse_than_that_of_a_published_file(name):
    f = planned(benchmark_pattern(name))
    assert f.places <= _places_in_natural_order(*benchmark_pattern(name))


def _places_in_natural_order(size: int, rows: list[int], columns: list[int]) -> int:
    filled = np.eye(size, dtype=bool)
    filled[rows, columns] = True
    for k in range(size):
        filled[k + 1 :, k + 1 :] |= np.outer(filled[k + 1 :, k], filled[k, k + 1 :])
    return int(filled.sum())


def test_the_order_does_not_depend_on_the_order_of_the_entries():
    size, rows, columns = library_pattern("huang_ferrell_mapk")
    assert planned((size, rows, columns)).order == planned((size, rows[::-1], columns[::-1])).order


def test_factors_that_fill_memory_are_not_planned():
    rows, columns = np.divmod(np.arange(200 * 200), 200)
    assert factorise(200, rows.tolist(), columns.tolist()) is None


def test_every_bad_pair_is_named():
    with pytest.raises(ModelError) as caught:
        factorise(3, [0, 0, 3, 1], [1, 1, 0, -1])
    assert caught.value.problems == ("(3, 0) is outside", "(1, -1) is outside", "(0, 1) is given twice")


# The kernels --------------------------------------------------------------------------------------------------------


class Compiled(NamedTuple):
    """Kernels in machine code, which live as long as their engine."""

    engine: object
    kernels: dict[str, Callable[..., None]]

    def run(self, name: str, *arrays: np.ndarray) -> None:
        self.kernels[name](*(array.ctypes.data for array in arrays))


def compiled(f: Factorisation) -> Compiled:
    kernels = Kernels.new()
    names = {"factor": 3, "solve": 3, "solve_transposed": 3, "backward_error": 6}
    for name in names:
        getattr(sparse_ir, f"emit_{name}")(kernels, name, f)
    engine = compile_kernels(kernels)
    kinds = {name: ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * count) for name, count in names.items()}
    return Compiled(engine, {name: kind(engine.get_function_address(name)) for name, kind in kinds.items()})


class Case(NamedTuple):
    """Matrices and right-hand sides of all lanes; arrays are `(element, lane)`."""

    j: np.ndarray
    s: np.ndarray
    b: np.ndarray

    @classmethod
    def drawn(cls, pattern: Pattern, seed: int = 0) -> "Case":
        """Columns and rows are dominated by the diagonal."""
        size, rows, columns = pattern
        rng = np.random.default_rng(seed)
        busiest = max(np.bincount(rows + columns, minlength=1).max(), 1)
        return cls(
            rng.uniform(-1, 1, (len(rows), LANES)),
            rng.uniform(1.5, 3, (1, LANES)) * busiest,
            rng.uniform(-1, 1, (size, LANES)),
        )

    def solved(self, f: Factorisation, code: Compiled) -> dict[str, np.ndarray]:
        results = {"lu": np.full((f.places, LANES), np.nan)}
        code.run("factor", self.j, self.s, results["lu"])
        for name in ("solve", "solve_transposed"):
            results[name] = np.full((f.size, LANES), np.nan)
            code.run(name, results["lu"], self.b, results[name])
        return results

    def backward_error(self, y: np.ndarray, weights: np.ndarray, code: Compiled) -> np.ndarray:
        ratio = np.full((1, LANES), -1.0)
        code.run("backward_error", self.j, self.s, self.b, y, weights, ratio)
        return ratio[0]


def check_against_dense_algebra(pattern: Pattern, seed: int = 0) -> None:
    f = planned(pattern)
    case = Case.drawn(pattern, seed)
    results = case.solved(f, compiled(f))
    for lane in range(LANES):
        matrix = dense(pattern, case.j[:, lane], case.s[0, lane])
        # The condition number is below 10, since diagonals are three times the rest of a row.
        for name, operator in (("solve", matrix), ("solve_transposed", matrix.T)):
            expected = np.linalg.solve(operator, case.b[:, lane])
            np.testing.assert_allclose(results[name][:, lane], expected, rtol=0, atol=1e-14 * abs(expected).max())


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    monkeypatch.setattr(sparse_ir, "WRITTEN_OUT", FORMS[request.param])
    return request.param


@pytest.mark.parametrize("limit", FORMS.values(), ids=FORMS)
@settings(max_examples=12)
@given(pattern=patterns(), seed=st.integers(0, 1000))
def test_kernels_solve_like_dense_algebra(limit, pattern, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse_ir, "WRITTEN_OUT", limit)
        check_against_dense_algebra(pattern, seed)


@pytest.mark.parametrize("name", ["huang_ferrell_mapk", "hires", "transit_absorption", "one_compartment_iv"])
def test_kernels_solve_the_systems_of_models(name, form):
    check_against_dense_algebra(library_pattern(name))


def test_kernels_solve_a_system_of_many_states():
    check_against_dense_algebra(random_pattern(250, 900, 0))


@pytest.mark.parametrize("name", ["huang_ferrell_mapk", "repressilator"])
def test_loops_give_the_very_numbers_of_the_written_out_form(name, monkeypatch):
    pattern = library_pattern(name)
    f, case = planned(pattern), Case.drawn(pattern)
    results = []
    for limit in FORMS.values():
        monkeypatch.setattr(sparse_ir, "WRITTEN_OUT", limit)
        results.append(case.solved(f, compiled(f)))
    for key, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][key])


def test_a_lane_has_the_same_bits_wherever_it_is_and_whatever_is_beside_it(form):
    pattern = library_pattern("huang_ferrell_mapk")
    f = planned(pattern)
    code = compiled(f)
    case, other = Case.drawn(pattern, 0), Case.drawn(pattern, 1)
    before = case.solved(f, code)
    for lane in range(LANES):
        moved = (lane + 3) % LANES
        for mine, theirs in zip(case, other, strict=True):
            theirs[:, moved] = mine[:, lane]
        after = other.solved(f, code)
        for key, value in before.items():
            np.testing.assert_array_equal(value[:, lane], after[key][:, moved])


def test_a_pivot_of_zero_spoils_its_own_lane_only(form):
    pattern = library_pattern("kholodenko_mapk")
    f = planned(pattern)
    code, case = compiled(f), Case.drawn(pattern)
    before = case.solved(f, code)
    case.j[:, 5], case.s[:, 5] = 0.0, 0.0
    after = case.solved(f, code)
    others = [lane for lane in range(LANES) if lane != 5]
    for key, value in after.items():
        np.testing.assert_array_equal(value[:, others], before[key][:, others])
        assert not np.isfinite(value[:, 5]).all()
    assert np.isnan(case.backward_error(after["solve"], np.ones((f.size, LANES)), code)).tolist() == [
        lane == 5 for lane in range(LANES)
    ]


@pytest.mark.parametrize("name", ["huang_ferrell_mapk", "turnover_stimulated_loss"])
def test_the_backward_error_is_what_its_formula_says(name):
    pattern = library_pattern(name)
    f = planned(pattern)
    code, case = compiled(f), Case.drawn(pattern)
    rng = np.random.default_rng(2)
    y, weights = rng.uniform(-1, 1, (f.size, LANES)), rng.uniform(0.1, 10, (f.size, LANES))
    found = case.backward_error(y, weights, code)
    for lane in range(LANES):
        size, rows, columns = pattern
        matrix = dense(pattern, case.j[:, lane], case.s[0, lane])
        sizes = np.diag(np.full(size, case.s[0, lane]))
        np.add.at(sizes, (rows, columns), abs(case.j[:, lane]))
        left = abs(matrix @ y[:, lane] - case.b[:, lane])
        whole = sizes @ abs(y[:, lane]) + abs(case.b[:, lane])
        expected = (weights[:, lane] * left).max() / (weights[:, lane] * whole).max()
        assert found[lane] == pytest.approx(expected, rel=1e-12)


def test_the_backward_error_of_a_solution_is_rounding():
    pattern = library_pattern("huang_ferrell_mapk")
    f = planned(pattern)
    code, case = compiled(f), Case.drawn(pattern)
    y = case.solved(f, code)["solve"]
    assert (case.backward_error(y, np.ones_like(y), code) < 1e-15).all()


def test_the_backward_error_does_not_depend_on_units():
    # Factors are powers of two, so that every product and sum keeps its digits.
    size, rows, columns = pattern = library_pattern("hires")
    f = planned(pattern)
    code, case = compiled(f), Case.drawn(pattern)
    y = np.random.default_rng(3).uniform(-1, 1, (size, LANES))
    units = 2.0 ** np.random.default_rng(4).integers(-40, 40, (size, 1))
    changed = Case(case.j * units[rows] / units[columns], case.s, case.b * units)
    expected = case.backward_error(y, np.ones_like(y), code)
    np.testing.assert_array_equal(changed.backward_error(y * units, np.ones_like(y) / units, code), expected)


def test_the_backward_error_of_nothing_is_zero():
    pattern = library_pattern("lotka_volterra")
    case = Case.drawn(pattern)
    nothing = np.zeros_like(case.b)
    code = compiled(planned(pattern))
    assert (Case(case.j, case.s, nothing).backward_error(nothing, np.ones_like(nothing), code) == 0).all()


def test_the_backward_error_shows_what_a_small_pivot_did():
    # [[s, 1], [1, s]] has the condition number 1, but 1/s swallows what stands beside it when the pivot is s.
    pattern = (2, [0, 1], [1, 0])
    case = Case(np.full((2, LANES), -1.0), np.full((1, LANES), 1.0), np.ones((2, LANES)) * [[1.0], [2.0]])
    case.s[0, 2] = 1e-20
    f = planned(pattern)
    code = compiled(f)
    case.s[0] += np.where(np.arange(LANES) == 2, 0.0, 1.0)
    y = case.solved(f, code)["solve"]
    errors = case.backward_error(y, np.ones_like(y), code)
    assert errors[2] > 0.1
    assert (np.delete(errors, 2) < 1e-15).all()
