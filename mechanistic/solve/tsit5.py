"""Tsit5: the default for systems that are not stiff."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from mechanistic.errors import SolveError
from mechanistic.solve.loop import solve_by_steps
from mechanistic.solve.method import AbstractMethod, Rhs, Step, added, combine
from mechanistic.solve.problem import Outcome, Problem

# Ch. Tsitouras, Comput. Math. Appl. 62 (2011) 770-775, doi:10.1016/j.camwa.2011.06.002, table 1 and section 3.
C = (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0)
A = (
    (),
    (0.161,),
    (-0.008480655492356989, 0.335480655492357),
    (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
    (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
    (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
    (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774),
)
ERROR = (
    0.0017800110522257773,
    0.0008164344596567463,
    -0.007880878010261994,
    0.1447110071732629,
    -0.5823571654525552,
    0.45808210592918686,
    -1 / 66,
)
# Coefficients of θ, θ², θ³, θ⁴ in the weight of each stage (the factored polynomials of section 3, multiplied out).
DENSE = (
    (1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216),
    (0.0, 0.13169999999999998, -0.2234, 0.1017),
    (0.0, 3.930296236894751, -5.941033872131505, 2.490627285651253),
    (0.0, -12.411077166933676, 30.338188630282318, -16.548102889244902),
    (0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928),
    (0.0, -27.896526289197286, 65.09189467479368, -34.87065786149661),
    (0.0, 1.5, -4.0, 2.5),
)


@final
@dataclass(frozen=True, slots=True)
class Tsit5(AbstractMethod):
    """Explicit Runge–Kutta, order 5(4), 7 stages with the last reused, dense output of order 4; not for stiff systems.

    Tsitouras 2011, doi:10.1016/j.camwa.2011.06.002. Stiffness is watched by the slope between the two stages at the end
    of the step (Hairer & Wanner, Solving ODEs II, section IV.2).
    """

    max_steps: int = 20_000
    order = 5
    error_order = 4
    reuses_last = True

    def solve(self, problem: Problem) -> Outcome:
        if problem.field.mass is not None:
            advice = "it has algebraic equations or fast reactions, which are implicit; use Rodas5P() or Auto()"
            raise SolveError("an explicit method cannot solve this system:", [advice])
        return solve_by_steps(self, problem)

    def step(self, rhs: Rhs, t: Tensor, x: Tensor, h: Tensor, first: Tensor | None = None) -> Step:
        stages = [rhs(t, x) if first is None else first]
        size = h.unsqueeze(-1)
        argument = x
        previous = x
        for node, row in zip(C[1:], A[1:], strict=True):
            previous, argument = argument, x + size * combine(row, stages)
            stages.append(rhs(t + node * h, argument))
        slope, moved = (stages[6] - stages[5]).detach(), (argument - previous).detach()
        scales = rhs.field.scales
        stiffness = h * (slope / scales).norm(dim=-1) / (moved / scales).norm(dim=-1).clamp_min(1e-300)
        return Step(argument, size * combine(ERROR, stages), tuple(stages), stages[6], stiffness)

    def interpolate(self, theta: Tensor, x: Tensor, end: Tensor, h: Tensor, stages: Tensor) -> Tensor:
        # Element by element: a matrix product may round a row differently in another batch.
        first, second, third, fourth = x.new_tensor(DENSE).unbind(-1)
        at = theta.unsqueeze(-1)
        weights = at * (first + at * (second + at * (third + at * fourth)))
        return x + h.unsqueeze(-1) * added(weights.T.unsqueeze(-1) * stages)
