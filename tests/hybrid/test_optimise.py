"""L-BFGS with backtracking, on functions whose minimum is known."""

import math

import pytest
import torch
from torch import Tensor

from hybrid.optimise import Point, flatten, minimise, unflatten
from tests.hybrid.problems import drawn


def point(function, x: Tensor) -> Point:
    x = x.detach().requires_grad_()
    value = function(x)
    if not bool(value.isfinite()):
        return Point(x.detach(), math.inf, torch.zeros_like(x))
    return Point(x.detach(), float(value.detach()), torch.autograd.grad(value, x)[0])


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1].square()).square() + (1 - x[:-1]).square()).sum()


@pytest.mark.parametrize("size", [2, 10])
def test_rosenbrock_valley_is_followed_to_its_end(size):
    start = point(rosenbrock, torch.full((size,), -1.2, dtype=torch.float64))
    seen: list[float] = []
    found = minimise(lambda x: point(rosenbrock, x), start, 500, 1e-16, watch=lambda p: seen.append(p.value))
    # The last gain was below 1e-16 in a valley whose smallest curvature is about 0.1 to 1.
    assert torch.allclose(found.x, torch.ones(size, dtype=torch.float64), atol=1e-6)
    assert seen == sorted(seen, reverse=True)
    assert len(seen) < 200


def test_a_quadratic_is_solved_to_the_last_digits():
    factor = drawn((6, 6), 1)
    matrix = factor @ factor.T + 0.1 * torch.eye(6, dtype=torch.float64)
    target = drawn((6,), 2)

    def bowl(x: Tensor) -> Tensor:
        return 0.5 * (x - target) @ matrix @ (x - target)

    found = minimise(lambda x: point(bowl, x), point(bowl, torch.zeros(6, dtype=torch.float64)), 200, 1e-20)
    # The value is below 1e-18 then, and the smallest curvature at least 0.1.
    assert torch.allclose(found.x, target, atol=1e-8)


def test_an_infinite_region_makes_the_step_shorter():
    # Minimum at x = 0.5 · (1, 1), next to a wall at 0 behind which there is no value.
    def barrier(x: Tensor) -> Tensor:
        inside = torch.where(x > 0, x, 1.0)
        return torch.where((x > 0).all(), (2 * inside - inside.log()).sum(), torch.inf)

    start = point(barrier, torch.tensor([40.0, 1e-3], dtype=torch.float64))
    found = minimise(lambda x: point(barrier, x), start, 200, 1e-14)
    # Curvature 1 / x² = 4: a gain below 1e-14 leaves an error of order 1e-7.
    assert torch.allclose(found.x, torch.full((2,), 0.5, dtype=torch.float64), atol=1e-6)


def test_nothing_moves_where_nothing_improves():
    start = point(rosenbrock, torch.ones(4, dtype=torch.float64))
    assert minimise(lambda x: point(rosenbrock, x), start, 50, 1e-9) is start

    def cliff(x: Tensor) -> Point:
        return start if torch.equal(x, start.x) else Point(x, math.inf, torch.zeros_like(x))

    steep = start._replace(gradient=torch.ones(4, dtype=torch.float64))
    assert minimise(cliff, steep, 50, 1e-9) is steep


def test_a_budget_of_steps_is_kept():
    seen: list[Point] = []
    start = point(rosenbrock, torch.full((2,), -1.2, dtype=torch.float64))
    minimise(lambda x: point(rosenbrock, x), start, 3, 0.0, watch=seen.append)
    assert len(seen) == 3


def test_vectors_and_tensors_are_inverse():
    tensors = [drawn((2, 3), 1), drawn((0,), 2), drawn((), 3), drawn((4,), 4)]
    vector = flatten(tensors)
    assert vector.shape == (11,)
    assert all(torch.equal(a, b) for a, b in zip(unflatten(vector, tensors), tensors, strict=True))
    assert flatten([]).shape == (0,)
