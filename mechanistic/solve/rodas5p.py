"""Rodas5P: the default for stiff systems."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from mechanistic.solve.loop import solve_by_steps
from mechanistic.solve.method import AbstractMethod, Rhs, Step, added, combine
from mechanistic.solve.problem import Outcome, Problem

# G. Steinebach, BIT Numer. Math. 63 (2023) 27, doi:10.1007/s10543-023-00967-x; coefficients in the transformed form of
# Hairer & Wanner, Solving ODEs II, section IV.7, equation (7.25).
GAMMA = 0.21193756319429014
C = (0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1.0, 1.0, 1.0)
D = (
    0.21193756319429014,
    -0.42387512638858027,
    -0.3384627126235924,
    1.8046452872882734,
    2.325825639765069,
    0.0,
    0.0,
    0.0,
)
_A6 = (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946)
A = (
    (),
    (3.0,),
    (2.849394379747939, 0.45842242204463923),
    (-6.954028509809101, 2.489845061869568, -10.358996098473584),
    (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
    _A6,
    (*_A6, 1.0),
    (*_A6, 1.0, 1.0),
)
COUPLING = (
    (),
    (-14.155112264123755,),
    (-17.97296035885952, -2.859693295451294),
    (147.12150275711716, -1.41221402718213, 71.68940251302358),
    (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
    (24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471),
    (
        30.91273214028599,
        -3.1208243349937974,
        77.79954646070892,
        34.28646028294783,
        -19.097331116725623,
        -28.087943162872662,
    ),
    (
        37.80277123390563,
        -3.2571969029072276,
        112.26918849496327,
        66.9347231244047,
        -40.06618937091002,
        -54.66780262877968,
        -9.48861652309627,
    ),
)
DENSE = (
    (
        25.948786856663858,
        -2.5579724845846235,
        10.433815404888879,
        -2.3679251022685204,
        0.524948541321073,
        1.1241088310450404,
        0.4272876194431874,
        -0.17202221070155493,
    ),
    (
        -9.91568850695171,
        -0.9689944594115154,
        3.0438037242978453,
        -24.495224566215796,
        20.176138334709044,
        15.98066361424651,
        -6.789040303419874,
        -6.710236069923372,
    ),
    (
        11.419903575922262,
        2.8879645146136994,
        72.92137995996029,
        80.12511834622643,
        -52.072871366152654,
        -59.78993625266729,
        -0.15582684282751913,
        4.883087185713722,
    ),
)
SHORTEST = 1e-12
"""Stand-in, relative to the time, for a step of (nearly) zero length, whose linear system would overflow."""


@final
@dataclass(frozen=True, slots=True)
class Rodas5P(AbstractMethod):
    """Rosenbrock, order 5(4), 8 stages, stiffly accurate and L-stable, dense output of order 4; one Jacobian a step.

    Steinebach 2023, doi:10.1007/s10543-023-00967-x. It needs an exact Jacobian, which every field of this library has.
    It solves `M dx/dt = f` of index 1 with a singular mass matrix as well (Hairer & Wanner, section VI.1).
    """

    max_steps: int = 20_000
    order = 5
    error_order = 4
    reuses_last = False

    def solve(self, problem: Problem) -> Outcome:
        return solve_by_steps(self, problem)

    def step(self, rhs: Rhs, t: Tensor, x: Tensor, h: Tensor, first: Tensor | None = None) -> Step:
        empty = h <= 1e8 * torch.finfo(h.dtype).tiny
        usable = torch.where(empty, SHORTEST * (1 + t.abs()), h)
        size = usable.unsqueeze(-1)
        jacobian, slope = rhs.linearise(t, x)
        mass = rhs.field.mass
        unit = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device) if mass is None else mass
        matrix = unit / (GAMMA * size.unsqueeze(-1)) - jacobian
        if mass is not None:
            # An equation in which nothing has any effect now leaves its state as it is.
            matrix = matrix + torch.diag_embed((matrix == 0).all(-1).to(x))
        factors, pivots, _ = torch.linalg.lu_factor_ex(matrix)
        start = rhs(t, x) if first is None else first
        stages: list[Tensor] = []
        argument = x
        for node, weight, row, links in zip(C, D, A, COUPLING, strict=True):
            argument = x if not row else x + combine(row, stages)
            right = start if not row else rhs(t + node * usable, argument)
            if weight:
                right = right + (weight * size) * slope
            if links:
                linked = combine(links, stages) / size
                right = right + (linked if mass is None else linked @ mass.T)
            stages.append(torch.linalg.lu_solve(factors, pivots, right.unsqueeze(-1)).squeeze(-1))
        end = argument + stages[-1]
        speed = start if mass is None else (end - x) / size
        end = torch.where(empty.unsqueeze(-1), x + h.unsqueeze(-1) * speed, end)
        error = torch.where(empty.unsqueeze(-1), 0.0, stages[-1])
        return Step(end, error, tuple(stages), None, None)

    def interpolate(self, theta: Tensor, x: Tensor, end: Tensor, h: Tensor, stages: Tensor) -> Tensor:
        # Element by element: a matrix product may round a row differently in another batch.
        first, second, third = added(x.new_tensor(DENSE).T[..., None, None] * stages.unsqueeze(1))
        at = theta.unsqueeze(-1)
        # Written so that a state that stands still keeps its value to the last digit: conditions may count on it.
        return x + at * ((end - x) + (1 - at) * (first + at * (second + at * third)))
