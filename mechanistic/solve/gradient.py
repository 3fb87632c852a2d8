"""Output of recorded steps, and exact derivatives of the numbers returned.

Discretise, then differentiate: the derivative is that of the numerical solution with the step sizes held fixed as
fractions of the segment between two stops, so that it follows a stop that moves. The states at which every step
started are recorded, so all steps of all subjects are linearised at once, in one batch; only the adjoint recursion
through the products of their small Jacobians is sequential.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mechanistic.solve.method import AbstractMethod, Rhs
from mechanistic.solve.problem import Problem, Status

ROWS_AT_ONCE = 1_000_000
"""Steps × states linearised in one batch; larger records are taken in pieces to bound memory."""


class Record(NamedTuple):
    """Accepted steps of all subjects, and the nodes (states at the start of a step, and at the end) they connect.

    Attributes:
        subject, node: whose step, and from which of its nodes it starts, `(step,)`.
        t, h: start and size, `(step,)`.
        x: state at the start, `(step, state)`.
        segment: between which stops, `(step,)`.
        node_of_stop: the node right after each stop's jump, -1 where it was not reached, `(subject, stop)`.
        nodes: index of each subject's last node, `(subject,)`.
        last: state at the last node, `(subject, state)`.
    """

    subject: Tensor
    node: Tensor
    t: Tensor
    h: Tensor
    x: Tensor
    segment: Tensor
    node_of_stop: Tensor
    nodes: Tensor
    last: Tensor

    def select(self, rows: Tensor) -> "Record":
        """Some of the steps."""
        subject, node, t, h, x, segment, *rest = self
        return Record(subject[rows], node[rows], t[rows], h[rows], x[rows], segment[rows], *rest)


class _Reading(NamedTuple):
    """Where every output is read: at a node, or inside a step; indices into flattened outputs.

    Attributes:
        at_node: outputs read at a node, with `subject` and `node` of each.
        inside: outputs read inside a step, with `step` and the output `time` of each.
        at_start: outputs that show the state before anything was given.
    """

    at_node: Tensor
    subject: Tensor
    node: Tensor
    inside: Tensor
    step: Tensor
    time: Tensor
    at_start: Tensor
    start_subject: Tensor


def read_out(method: AbstractMethod, problem: Problem, record: Record, status: Tensor, reached: Tensor) -> Tensor:
    """States at the output times, `(batch, time, state)`, differentiable with respect to everything in the problem."""
    stops = problem.stops
    inputs = (problem.parameters, problem.initial, stops.times, stops.jumps, stops.rates)
    reading = _reading(problem, record, status, reached)
    context = _Context(method, problem, record, reading)
    return cast(Tensor, _Solve.apply(context, *inputs, *_weights(problem)))


def _weights(problem: Problem) -> list[Tensor]:
    return [weight for weight in problem.field.parameters() if weight.requires_grad]


class _Context(NamedTuple):
    method: AbstractMethod
    problem: Problem
    record: Record
    reading: _Reading


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, context: _Context, *inputs: Tensor) -> Tensor:
        ctx.context = context
        ctx.save_for_backward(*inputs)
        return _values(context, inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, seed: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *_adjoint(ctx.context, ctx.saved_tensors, seed, ctx.needs_input_grad[1:]))


def _values(context: _Context, inputs: tuple[Tensor, ...]) -> Tensor:
    method, problem, record, reading = context
    batch, count = problem.times.shape
    n = problem.initial.shape[-1]
    out = problem.initial.new_full((batch * count, n), torch.nan)
    out[reading.at_start] = inputs[1][reading.start_subject]
    place = _node_table(record)
    states = torch.cat([record.x, record.last])
    out[reading.at_node] = states[place[reading.subject, reading.node]]
    used, where = torch.unique(reading.step, return_inverse=True)
    for chunk in _pieces(len(used), n, out):
        rows = used[chunk]
        mine = (where >= chunk[0]) & (where <= chunk[-1])
        step = method.step(
            _rhs(problem, record, rows, inputs[0], inputs[4]), record.t[rows], record.x[rows], record.h[rows]
        )
        local = where[mine] - chunk[0]
        theta = (reading.time[mine] - record.t[rows][local]) / record.h[rows][local]
        ends = step.x[local], record.h[rows][local], torch.stack(step.stages)[:, local]
        out[reading.inside[mine]] = method.interpolate(theta, record.x[rows][local], *ends)
    return out.reshape(batch, count, n)


def _pieces(steps: int, states: int, like: Tensor) -> list[Tensor]:
    """Indices of steps, in pieces that bound memory."""
    if steps == 0:
        return []
    return list(torch.arange(steps, device=like.device).split(max(1, ROWS_AT_ONCE // max(states, 1))))


def _rhs(problem: Problem, record: Record, rows: Tensor, parameters: Tensor, rates: Tensor) -> Rhs:
    subject = record.subject[rows]
    inputs = rates[subject, record.segment[rows]] if rates.requires_grad or bool((rates != 0).any()) else None
    return Rhs(problem.field, parameters[subject], inputs)


def _node_table(record: Record) -> Tensor:
    """Row of `[record.x, record.last]` that holds each subject's node, `(subject, node)`."""
    subjects = len(record.nodes)
    width = int(record.nodes.max()) + 1 if subjects else 1
    table = torch.zeros(subjects, width, dtype=torch.long, device=record.nodes.device)
    table[record.subject, record.node] = torch.arange(len(record.subject), device=table.device)
    table[torch.arange(subjects, device=table.device), record.nodes] = len(record.subject) + torch.arange(
        subjects, device=table.device
    )
    return table


def _reading(problem: Problem, record: Record, status: Tensor, reached: Tensor) -> _Reading:
    """Finds where each output is read; outputs past a failure and padding are left out."""
    times, stops = problem.times, problem.stops.times.detach()
    subject = torch.arange(len(times), device=times.device)[:, None].expand_as(times)
    wanted = times.isfinite() & ((status == Status.OK)[:, None] | (times <= reached[:, None]))
    equal = times.unsqueeze(-1) == stops.unsqueeze(1)
    index = torch.arange(stops.shape[1], device=times.device)
    last = torch.where(equal, index, -1).amax(-1)
    first = torch.where(equal, index, stops.shape[1]).amin(-1).clamp(max=stops.shape[1] - 1)
    at_stop = equal.any(-1)
    after_node = record.node_of_stop.gather(1, last.clamp_min(0))
    before_node = record.node_of_stop.gather(1, first)
    before = problem.before & at_stop
    at_start = wanted & before & (before_node == 0)
    at_node = wanted & at_stop & ~before
    if problem.stops.times.requires_grad:
        # Its time stays where it is while the stop moves: it is read at the fraction 0 of the step that follows.
        at_node = at_node & (after_node == record.nodes[:, None])
    inside = wanted & ~at_start & ~at_node
    place = _node_table(record)
    starts = torch.full(place.shape, torch.inf, dtype=times.dtype, device=times.device)
    starts[record.subject, record.node] = record.t
    found = torch.searchsorted(starts, times.nan_to_num(0.0).contiguous(), right=True) - 1
    node = torch.where(before, before_node - 1, found).clamp_min(0)
    flat = torch.arange(times.numel(), device=times.device).reshape(times.shape)
    return _Reading(
        flat[at_node],
        subject[at_node],
        after_node[at_node],
        flat[inside],
        place[subject[inside], node[inside]],
        times[inside],
        flat[at_start],
        subject[at_start],
    )


def _adjoint(
    context: _Context, saved: tuple[Tensor, ...], seed: Tensor, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    batch, count, n = seed.shape
    flat = seed.reshape(batch * count, n)
    context = _asked(context, flat)
    _, problem, record, reading = context
    leaves = [value.detach().requires_grad_(want) for value, want in zip(saved[:5], wanted[:5], strict=True)]
    weights = list(saved[5:])
    if list(map(id, weights)) != list(map(id, _weights(problem))):
        raise RuntimeError("the weights of the field were exchanged between `simulate` and `backward`")
    width = int(record.nodes.max()) + 1 if batch else 1

    seeds = seed.new_zeros(width, batch, 1, n)
    seeds[:, :, 0].index_put_((reading.node, reading.subject), flat[reading.at_node], accumulate=True)
    through, direct, replays = _linearise(context, leaves, flat[reading.inside])
    seeds[:, :, 0].index_put_((record.node, record.subject), direct, accumulate=True)

    passing = torch.eye(n, dtype=seed.dtype, device=seed.device).expand(width, batch, n, n).clone()
    passing[record.node, record.subject] = through
    backward = [seed.new_zeros(batch, 1, n)]
    for node in range(width - 1, -1, -1):
        backward.append(torch.baddbmm(seeds[node], backward[-1], passing[node]))
    adjoint = torch.stack(backward[::-1]).squeeze(2)

    cotangent = adjoint[record.node + 1, record.subject]
    grads = _parameter_gradients(replays, cotangent, [leaves[0], leaves[2], leaves[4], *weights], wanted)
    initial = adjoint[0].index_put((reading.start_subject,), flat[reading.at_start], accumulate=True)
    # After the last node the adjoint is zero; so it is at stops that were not reached.
    stop = torch.where(record.node_of_stop < 0, width, record.node_of_stop).clamp(max=width)
    jumps = adjoint.transpose(0, 1).gather(1, stop.unsqueeze(-1).expand(-1, -1, n))
    parameters, times, rates, *rest = grads
    result = (parameters, initial, times, jumps, rates, *rest)
    return tuple(g if want else None for g, want in zip(result, wanted, strict=True))


def _asked(context: _Context, flat: Tensor) -> _Context:
    """The steps and outputs that a non-zero seed depends on: what failed, or was solved again, costs nothing."""
    record, reading = context.record, context.reading
    seeded = (flat != 0).any(-1)
    at_node, inside = seeded[reading.at_node], seeded[reading.inside]
    step = reading.step[inside]
    subject = torch.cat([reading.subject[at_node], record.subject[step]])
    node = torch.cat([reading.node[at_node], record.node[step] + 1])
    nodes = torch.zeros_like(record.nodes).scatter_reduce(0, subject, node, "amax")
    rows = (record.node < nodes[record.subject]).nonzero().squeeze(1)
    place = torch.zeros_like(record.node).index_copy(0, rows, torch.arange(len(rows), device=rows.device))
    return context._replace(
        record=record.select(rows)._replace(nodes=nodes),
        reading=reading._replace(
            at_node=reading.at_node[at_node],
            subject=reading.subject[at_node],
            node=reading.node[at_node],
            inside=reading.inside[inside],
            step=place[step],
            time=reading.time[inside],
        ),
    )


class _Replay(NamedTuple):
    """Steps evaluated again with a graph.

    Attributes:
        rows: which steps.
        end: states at the end of the steps.
        score: sum of outputs inside these steps times their seeds; a scalar.
    """

    rows: Tensor
    end: Tensor
    score: Tensor


def _linearise(context: _Context, leaves: list[Tensor], seeds: Tensor) -> tuple[Tensor, Tensor, list[_Replay]]:
    """∂(end)/∂(start) of every step, `(step, state, state)`, and what its outputs ask of its start, `(step, state)`."""
    record = context.record
    steps, n = record.x.shape
    through, direct = record.x.new_zeros(steps, n, n), torch.zeros_like(record.x)
    replays = []
    for rows in _pieces(steps, n, direct):
        start = record.x[rows].detach().requires_grad_()
        replay = _replay(context, leaves, rows, start, seeds)
        replays.append(replay)
        for state in range(n):
            row = torch.zeros_like(start)
            row[:, state] = 1.0
            through[rows, state] = torch.autograd.grad(replay.end, start, row, retain_graph=True)[0]
        if replay.score.requires_grad:
            direct[rows] = torch.autograd.grad(replay.score, start, retain_graph=True)[0]
    return through, direct, replays


def _replay(context: _Context, leaves: list[Tensor], rows: Tensor, start: Tensor, seeds: Tensor) -> _Replay:
    method, problem, record, reading = context
    parameters, _, times, _, rates = leaves
    subject, segment = record.subject[rows], record.segment[rows]
    with torch.enable_grad():
        opens, closes = times[subject, segment], times[subject, segment + 1]
        length = (closes - opens).detach()
        usable = torch.where(length > 0, length, 1.0)
        # Fractions are constants: the mesh moves with its stops. A segment of zero length is one step from end to end.
        offset = torch.where(length > 0, (record.t[rows] - opens.detach()) / usable, 0.0)
        share = torch.where(length > 0, record.h[rows] / usable, 1.0)
        t, h = opens + offset * (closes - opens), share * (closes - opens)
        step = method.step(_rhs(problem, record, rows, parameters, rates), t, start, h)
        mine = (reading.step >= rows[0]) & (reading.step <= rows[-1])
        local = reading.step[mine] - rows[0]
        theta = (reading.time[mine] - t[local]) / h[local]
        values = method.interpolate(theta, start[local], step.x[local], h[local], torch.stack(step.stages)[:, local])
        score = (values * seeds[mine]).sum()
    return _Replay(rows, step.x, score)


def _parameter_gradients(
    replays: list[_Replay], cotangent: Tensor, sources: list[Tensor], wanted: tuple[bool, ...]
) -> list[Tensor]:
    """Gradients with respect to parameters, stop times, input rates and weights, summed over all steps."""
    totals = [torch.zeros_like(source) for source in sources]
    needed = [wanted[0], wanted[2], wanted[4], *wanted[5:]]
    chosen = [i for i, need in enumerate(needed) if need]
    if not chosen:
        return totals
    for replay in replays:
        with torch.enable_grad():
            total = (replay.end * cotangent[replay.rows]).sum() + replay.score
        if not total.requires_grad:
            continue
        parts = torch.autograd.grad(total, [sources[i] for i in chosen], allow_unused=True)
        for i, part in zip(chosen, parts, strict=True):
            if part is not None:
                totals[i] += part
    return totals
