"""A kinetic model compiled to batched tensors with an analytic sparse Jacobian."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast, final

import sympy
import torch
from torch import Tensor, nn

from mechanistic.compile.balance import Balance
from mechanistic.compile.discrete import Assignments, Discrete, needed
from mechanistic.compile.families import Expressions, Layout, Tables, assignment_columns, moving_assignments
from mechanistic.compile.switches import Switches
from mechanistic.conservation import conserved_totals
from mechanistic.field import AbstractVectorField, Constraints, Linearisation
from mechanistic.model import KineticModel, delay, time

DENSE_SCATTER = 20_000
"""Entries × targets up to which a scatter is cheaper as one dense matrix product."""


@final
class RateField(AbstractVectorField):
    """`dx/dt = N v(t, x, p) + r(t, x, p)` of a `KineticModel`, compiled by rate family; owns nothing learnable.

    Rate laws that are equal up to the names in them are evaluated and differentiated once, as one vector.

    Attributes:
        model: what was compiled.
    """

    def __init__(self, model: KineticModel) -> None:
        super().__init__()
        self.model = model
        self.state_names = model.state_names
        self.parameter_names = model.parameter_names
        self.observable_names = tuple(model.observables)
        switches = Switches(model)
        locked = {name: switches.locked(value) for name, value in model.assignments.items()}
        written = (*(r.rate for r in model.reactions), *model.rates.values(), *model.algebraic.values())
        laws = [switches.locked(law) for law in written]
        used = needed(locked, laws)
        states, parameters = (
            {name: i for i, name in enumerate(names)} for names in (self.state_names, self.parameter_names)
        )
        layout = Layout(states, parameters, assignment_columns(used), switches.columns)
        moving = moving_assignments(locked, self.parameter_names)
        self._assignments = Assignments(used, layout, moving)
        self._laws = Expressions(laws, layout, moving)
        seen = [switches.undelayed(value) for value in model.observables.values()]
        self._layout = replace(layout, assignments=assignment_columns(locked))
        self._everything = Assignments(locked, self._layout)
        self._observables = Expressions(seen, self._layout)
        self._initial = Expressions([_at_start(model, state.initial) for state in model.states], layout)
        self._parts = [*cast(list[Expressions], list(self._assignments.layers)), self._laws]
        balance = Balance.of(model)
        self._chain = _Chain(self._parts, layout, balance.net)
        discrete = switches.count or model.events or balance.mass is not None
        self._discrete = Discrete(model, switches, layout, [*laws, *used.values()]) if discrete else None
        self._buffers_of(model, balance)

    def _buffers_of(self, model: KineticModel, balance: Balance) -> None:
        dtype = torch.float64
        net = torch.tensor(balance.net, dtype=dtype).reshape(len(model.states), len(self._laws))
        self.register_buffer("_net", net, persistent=False)
        for name, kind in (("mass", dtype), ("relaxing", torch.bool), ("steered", torch.bool)):
            value = None if balance.mass is None else torch.tensor(getattr(balance, name), dtype=kind)
            self.register_buffer(f"_{name}", value, persistent=False)
        self.register_buffer(
            "_nominal", torch.tensor([p.value for p in model.parameters], dtype=dtype), persistent=False
        )
        self.register_buffer("scales", torch.tensor(state_scales(model), dtype=dtype), persistent=False)
        nonnegative = torch.tensor([state.nonnegative for state in model.states], dtype=torch.bool)
        self.register_buffer("nonnegative", nonnegative, persistent=False)

    @property
    def constraints(self) -> Constraints | None:
        if self._mass is None:
            return None
        return Constraints(*(cast(Tensor, part) for part in (self._mass, self._relaxing, self._steered)))

    @property
    def discrete(self) -> Discrete | None:
        return self._discrete

    @property
    def parts(self) -> list[Expressions]:
        """The assignments that the laws use, layer by layer, and at last the laws themselves."""
        return self._parts

    @property
    def net(self) -> Tensor:
        """How the laws move the states, `(state, law)`."""
        return cast(Tensor, self._net)

    def forward(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor | None = None) -> Tensor:
        return nn.functional.linear(self._laws(self._tables(t, x, p, held)), cast(Tensor, self._net))

    def rates(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor | None = None) -> Tensor:
        """Rates of the reactions, `(*batch, reaction)`; arguments as for `forward`."""
        return cast(Tensor, self._laws(self._tables(t, x, p, held)))[..., : len(self.model.reactions)]

    def assignments(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor | None = None) -> Tensor:
        """Values of the assignments, `(*batch, assignment)`, in the model's order; arguments as for `forward`."""
        order = [self._layout.assignments[name] for name in self.model.assignments]
        return cast(Tables, self._everything(t, x, p, self._held(t, x, p, held))).assignments[..., order]

    def observe(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor | None = None) -> Tensor:
        return cast(Tensor, self._observables(self._everything(t, x, p, self._held(t, x, p, held))))

    def initial(self, p: Tensor) -> Tensor:
        states = p.new_zeros((*p.shape[:-1], len(self.state_names)))
        return cast(Tensor, self._initial(Tables(states, p, p.new_zeros(p.shape[:-1]), states[..., :0])))

    def nominal(self) -> Tensor:
        return cast(Tensor, self._nominal)

    def unit_of(self, name: str) -> str:
        quantities = {s.name: s.unit for s in self.model.states} | {p.name: p.unit for p in self.model.parameters}
        return self.model.time_unit if name == "time" and name not in quantities else quantities.get(name, "")

    def linearise(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor | None = None) -> Linearisation:
        tables = self._tables(t, x, p, held)
        slopes = [part.slopes(tables) for part in self._parts]
        n = len(self.state_names)
        extended = self._chain(slopes, x).reshape(*x.shape[:-1], n, n + 1)
        return Linearisation(extended[..., :n], extended[..., n])

    def __repr__(self) -> str:
        families = len(self._laws.families)
        return f"RateField({self.model.name!r}: {len(self._laws)} rate laws in {families} families)"

    def _tables(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor | None) -> Tables:
        return cast(Tables, self._assignments(t, x, p, self._held(t, x, p, held)))

    def _held(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor | None) -> Tensor | None:
        return held if self._discrete is None else self._discrete.complete(t, x, p, held)


@final
class _Chain(nn.Module):
    """The chain rule through the layers of assignments, as index lists fixed at compile time.

    Every part (a layer of assignments, at last the rate laws) has derivative entries with respect to states, to time
    and to earlier assignments. A total entry (expression, column) is the sum of products of a slope with the total
    entry of the assignment that it goes through, or of a slope alone.
    """

    def __init__(self, parts: Sequence[Expressions], layout: Layout, net: Sequence[Sequence[float]]) -> None:
        super().__init__()
        n = len(layout.states)
        totals: dict[tuple[int, int], int] = {}
        entries: dict[tuple[int, int], int] = {}
        offset = 0
        self.sizes: list[int] = []
        self.plain: list[bool] = []
        for level, part in enumerate(parts):
            entries, links = _links(part, totals, n)
            self.register_buffer(
                f"links{level}", torch.tensor(links, dtype=torch.long).reshape(-1, 3).T, persistent=False
            )
            self.sizes.append(len(entries))
            self.plain.append(links == [(i, -1, i) for i in range(len(part.terms))])
            base = len(totals)
            totals |= {(offset + expression, col): base + i for (expression, col), i in entries.items()}
            offset += len(part)
        self._scatter(entries, net, n)

    def _scatter(self, entries: dict[tuple[int, int], int], net: Sequence[Sequence[float]], n: int) -> None:
        places = [
            (index, row * (n + 1) + col, net[row][law])
            for (law, col), index in entries.items()
            for row in range(n)
            if net[row][law] != 0
        ]
        size = n * (n + 1)
        self.size = size
        if len(entries) * size <= DENSE_SCATTER:
            matrix = torch.zeros(size, len(entries), dtype=torch.float64)
            for index, place, count in places:
                matrix[place, index] += count
            self.register_buffer("matrix", matrix, persistent=False)
        else:
            self.matrix = None
            self.register_buffer("source", torch.tensor([index for index, _, _ in places]), persistent=False)
            self.register_buffer("target", torch.tensor([place for _, place, _ in places]), persistent=False)
            weights = torch.tensor([count for _, _, count in places], dtype=torch.float64)
            self.register_buffer("count", weights, persistent=False)

    def forward(self, slopes: Sequence[Tensor], like: Tensor) -> Tensor:
        """The Jacobian and the time derivative beside it, flat: `(*batch, state · (state + 1))`."""
        upstream = like.new_zeros((*like.shape[:-1], 0))
        total = upstream
        for level, slope in enumerate(slopes):
            links = cast(Tensor, getattr(self, f"links{level}"))
            total = slope if self.plain[level] else _accumulate(slope, upstream, links, self.sizes[level])
            upstream = torch.cat([upstream, total], dim=-1)
        if self.matrix is not None:
            return nn.functional.linear(total, self.matrix)
        flat = like.new_zeros((*like.shape[:-1], self.size))
        weighted = total.index_select(-1, cast(Tensor, self.source)) * cast(Tensor, self.count)
        return flat.index_add(-1, cast(Tensor, self.target), weighted)


def _links(
    part: Expressions, totals: dict[tuple[int, int], int], n: int
) -> tuple[dict[tuple[int, int], int], list[tuple[int, int, int]]]:
    """Entries of a part, `(expression, column) → index`, and their links `(slope, upstream entry or -1, entry)`."""
    entries: dict[tuple[int, int], int] = {}
    links = []
    by_assignment: dict[int, list[tuple[int, int]]] = {}
    for (assignment, col), index in totals.items():
        by_assignment.setdefault(assignment, []).append((col, index))
    for slope, (expression, kind, column) in enumerate(part.terms):
        through = by_assignment.get(column, []) if kind == "a" else [(n if kind == "t" else column, -1)]
        for col, upstream in through:
            links.append((slope, upstream, entries.setdefault((expression, col), len(entries))))
    return entries, links


def _accumulate(slope: Tensor, upstream: Tensor, links: Tensor, size: int) -> Tensor:
    """Total entries, `(*batch, size)`: each link adds a slope, times an upstream entry unless that is -1."""
    source, through, target = links
    with_one = torch.cat([upstream, upstream.new_ones((*upstream.shape[:-1], 1))], dim=-1)
    products = slope.index_select(-1, source) * with_one.index_select(-1, through % with_one.shape[-1])
    return slope.new_zeros((*slope.shape[:-1], size)).index_add(-1, target, products)


def _at_start(model: KineticModel, initial: sympy.Expr) -> sympy.Expr:
    """An initial value over parameters; what is delayed is at the start what it is then."""
    written = model.expand(initial)
    while written.has(delay):
        written = written.xreplace({atom: atom.args[0] for atom in written.atoms(delay)})
    return written.xreplace({time: sympy.S.Zero})


def state_scales(model: KineticModel) -> list[float]:
    """Typical size of each state: as declared, else its initial value, else the largest conserved total that it is part
    of, else the smallest of the sizes found so far (the careful choice for a tolerance), else 1."""
    initial = model.initial_values()
    sizes: dict[str, float] = {}
    for state in model.states:
        if state.scale is not None:
            sizes[state.name] = float(state.scale)
        elif initial[state.name] != 0:
            sizes[state.name] = abs(initial[state.name])
    shares: dict[str, float] = {}
    for total in conserved_totals(model) if len(sizes) < len(model.states) else ():
        held = abs(sum(float(weight) * initial[name] for name, weight in total.weights.items()))
        for name, weight in total.weights.items():
            shares[name] = max(shares.get(name, 0.0), held / abs(float(weight)))
    sizes = {name: share for name, share in shares.items() if share > 0} | sizes
    fallback = min(sizes.values(), default=1.0)
    return [sizes.get(name, fallback) for name in model.state_names]
