"""Fitting: Adam, then L-BFGS, with the random effects integrated out; early stopping, interrupt and resume."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from tqdm import tqdm

from hybrid.data import Cohort
from hybrid.objective import Unknowns, evaluate, find_modes
from hybrid.optimise import Point, flatten, minimise, unflatten
from hybrid.population import PopulationValues
from hybrid.results import Checkpoint, Fit, FitOptions, HistoryRow
from hybrid.simulator import Simulator, SimulatorError
from mechanistic.errors import SolveError

SCALE_SPREAD = 2.0
"""SD of the weak normal priors on the log SDs of random effects and noise about where they start."""
RETREATS = 12
"""Times that Adam goes back from a point that cannot be simulated before the fit gives up."""


def fit(
    simulator: Simulator,
    cohort: Cohort,
    *,
    held_out: Cohort | float = 0.2,
    start: Fit | None = None,
    options: FitOptions | None = None,
    resume: Fit | None = None,
    seed: int = 0,
    progress: bool = True,
    watch: Callable[[HistoryRow], None] | None = None,
) -> Fit:
    """Fits a simulator to a cohort; the simulator is left as it is.

    What is maximised is the posterior density of typical values, covariate coefficients, SDs and weights, with each
    subject's random effects at their mode and integrated out by Laplace's method (`hybrid.objective`).

    Pressing Ctrl-C returns an unfinished `Fit`; passing that as `resume`, with the same other arguments, goes on to the
    same result as an uninterrupted run.

    Args:
        simulator: what to fit.
        cohort: the subjects.
        held_out: subjects that only decide when to stop: a cohort, or a fraction of `cohort`; 0 for none.
        start: another fit whose estimates of parameters of the same name are taken over.
        options: how to descend; those of `resume` where there is one, else `FitOptions()`.
        resume: an unfinished fit.
        seed: of the choice of held-out subjects.
        progress: whether to show a progress bar.
        watch: called with every update.

    Raises:
        SimulatorError, NoiseError: for a cohort that does not fit the simulator, or a fit that is not of this one.
        SolveError: when the simulation fails where the fit starts, or wherever it turns.
    """
    simulator.check(cohort)
    if isinstance(held_out, Cohort):
        simulator.check(held_out)
        train, left = cohort, held_out
    elif held_out:
        train, left = cohort.split(1.0 - held_out, seed)
    else:
        train, left = cohort, None
    trained = simulator.with_field(copy.deepcopy(simulator.field))
    chosen = options or (FitOptions() if resume is None else resume.options)
    descent = _Descent(trained, train, left, chosen, watch)
    if resume is not None:
        descent.restore(resume)
    else:
        descent.begin(start)
    return descent.run(progress)


class _Kept(NamedTuple):
    """What a fit has reached; replaced as a whole, so that an interrupt finds no half of a step."""

    state: Checkpoint
    history: tuple[HistoryRow, ...]


class _Next(NamedTuple):
    state: Checkpoint
    row: HistoryRow | None = None


@final
class _Descent:
    """The state of a fit. Every step ends by keeping what it reached: an interrupt loses a step of Adam or a round."""

    def __init__(
        self,
        simulator: Simulator,
        cohort: Cohort,
        held_out: Cohort | None,
        options: FitOptions,
        watch: Callable[[HistoryRow], None] | None,
    ) -> None:
        self.simulator, self.cohort, self.held_out = simulator, cohort, held_out
        self.options, self.watch = options, watch
        self.weights = [w for w in simulator.field.parameters() if w.requires_grad]
        self.origin = self._start_unknowns()
        self.seconds = 0.0
        self.kept = _Kept(Checkpoint("adam", 0, {}, {}), ())

    @property
    def state(self) -> Checkpoint:
        """Where the descent stands."""
        return self.kept.state

    def begin(self, start: Fit | None) -> None:
        """Starts at the prior medians, or at another fit; finds the first random effects."""
        unknowns = self.origin if start is None else self._take_over(start)
        if start is not None:
            theirs = dict(start.simulator.field.named_parameters())
            with torch.no_grad():
                for name, weight in self.simulator.field.named_parameters():
                    if name in theirs and theirs[name].shape == weight.shape:
                        weight.copy_(theirs[name])
        with torch.no_grad():
            self.simulator.solve(
                self.simulator.parameters(unknowns.values, unknowns.eta, self.cohort), self.cohort
            ).check(self.cohort.ids)
        modes = find_modes(self.simulator, self.cohort, unknowns, 5)
        unknowns = replace(unknowns, eta=modes.eta)
        x = self._vector(unknowns)
        size = 0 if self.held_out is None else len(self.held_out)
        tensors = {
            "x": x,
            "first": torch.zeros_like(x),
            "second": torch.zeros_like(x),
            "slopes": modes.slopes,
            "held_out_eta": torch.zeros(size, unknowns.eta.shape[-1], dtype=x.dtype),
            "best": x,
        }
        numbers = {"best": -math.inf, "best_row": -1.0, "waiting": 0.0, "last": math.inf, "rate": 1.0, "updated": -1.0}
        self.kept = _Kept(Checkpoint("adam" if self.options.adam_steps else "lbfgs", 0, tensors, numbers), ())

    def restore(self, fit: Fit) -> None:
        """Goes on where an unfinished fit stands."""
        size = sum(part.numel() for part in [*_parts(self.origin), *self.weights])
        held_out = (None if cohort is None else cohort.ids for cohort in (self.held_out, fit.held_out))
        problems = [] if self.cohort.ids == fit.cohort.ids else ["it was trained on other subjects"]
        problems += [] if len(set(held_out)) == 1 else ["other subjects were held out"]
        if not problems and fit.checkpoint.tensors["x"].numel() != size:
            problems = [f"it has {fit.checkpoint.tensors['x'].numel()} unknowns, this simulator and cohort {size}"]
        if problems:
            advice = "; give `fit` the same simulator, cohort, `held_out` and `seed` as before"
            raise SimulatorError("the fit cannot be resumed:", [problem + advice for problem in problems])
        self.kept, self.seconds = _Kept(fit.checkpoint, fit.history), fit.seconds

    def run(self, progress: bool) -> Fit:
        """Descends to the end, or to an interrupt."""
        began = time.perf_counter()
        total = self.options.adam_steps + self.options.rounds * self.options.round_steps
        with tqdm(total=total, disable=not progress, unit="step", dynamic_ncols=True, mininterval=0.5) as bar:
            self.bar = bar
            try:
                while self.state.phase != "done":
                    self._advance()
            except KeyboardInterrupt:
                bar.set_description("interrupted")
            bar.total = bar.n
            bar.refresh()
        self.seconds += time.perf_counter() - began
        return self._fit()

    def _advance(self) -> None:
        """One step, one round or one update."""
        state, row = self._next()
        self.kept = _Kept(state, self.kept.history if row is None else (*self.kept.history, row))
        if row is not None and self.watch is not None:
            self.watch(row)

    def _next(self) -> _Next:
        state, options = self.state, self.options
        adam = state.phase == "adam"
        last = state.step >= (options.adam_steps if adam else options.rounds)
        due = last or not adam or state.step % options.refresh == 0
        if due and state.numbers["updated"] != state.step:
            return self._update()
        if last:
            return _Next(self._ended(state))
        return _Next(self._adam() if adam else self._round())

    def _adam(self) -> Checkpoint:
        """One step of Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1)."""
        state = self.state
        tensors, numbers = dict(state.tensors), dict(state.numbers)
        point = self._evaluate(tensors["x"], tensors["slopes"])
        if not math.isfinite(point.value):
            return self._retreat(tensors, numbers)
        count = state.step + 1
        first = 0.9 * tensors["first"] + 0.1 * point.gradient
        second = 0.999 * tensors["second"] + 0.001 * point.gradient.square()
        move = (first / (1 - 0.9**count)) / ((second / (1 - 0.999**count)).sqrt() + 1e-12)
        tensors |= {"first": first, "second": second, "safe": tensors["x"]}
        tensors["x"] = tensors["x"] - numbers["rate"] * self._rates() * move
        self._show(point)
        return Checkpoint("adam", count, tensors, numbers)

    def _retreat(self, tensors: dict[str, Tensor], numbers: dict[str, float]) -> Checkpoint:
        """Back to the last point that could be simulated, with a smaller rate."""
        numbers["retreats"] = numbers.get("retreats", 0.0) + 1
        if numbers["retreats"] > RETREATS or "safe" not in tensors:
            self._explain(tensors["x"])
        numbers["rate"] *= 0.5
        tensors["x"] = tensors["safe"]
        tensors["first"] = torch.zeros_like(tensors["first"])
        numbers["updated"] = -1.0
        return Checkpoint("adam", self.state.step, tensors, numbers)

    def _explain(self, x: Tensor) -> None:
        """Raises the error of the simulation that cannot be done, or says that the likelihood is zero."""
        unknowns = self._unknowns(x)
        with torch.no_grad():
            p = self.simulator.parameters(unknowns.values, unknowns.eta, self.cohort)
            self.simulator.solve(p, self.cohort).check(self.cohort.ids)
        raise SolveError("the fit cannot go on:", ["the likelihood is zero or not finite; check noise model and data"])

    def _update(self) -> _Next:
        """Refreshes random effects, slopes and held-out score, and decides whether the phase goes on."""
        state, options = self.state, self.options
        tensors, numbers = dict(state.tensors), dict(state.numbers)
        unknowns = self._unknowns(tensors["x"])
        modes = find_modes(self.simulator, self.cohort, unknowns, 2)
        unknowns, value = self._better(replace(unknowns, eta=modes.eta), modes.slopes)
        tensors["x"] = self._vector(unknowns)
        tensors["slopes"] = modes.slopes
        score = math.nan
        if self.held_out is not None:
            mine = replace(unknowns, eta=tensors["held_out_eta"])
            theirs = find_modes(self.simulator, self.held_out, mine, 4)
            tensors["held_out_eta"], score = theirs.eta, float(theirs.terms.marginal.mean())
        if not math.isfinite(value):
            return _Next(self._retreat(tensors, numbers) if state.phase == "adam" else self._ended(state))
        prior = self.simulator.population.log_prob_eta(unknowns.values, unknowns.eta)
        marginal = modes.terms._replace(prior=prior).marginal
        row = HistoryRow(state.phase, state.step, value, float(-2 * marginal.sum()), score)
        judged = score if self.held_out is not None else -value
        if judged > numbers["best"]:
            numbers |= {"best": judged, "best_row": float(len(self.kept.history)), "waiting": 0.0}
            tensors["best"] = tensors["x"]
        else:
            numbers["waiting"] += 1
        flat = abs(numbers["last"] - value) < options.tolerance
        numbers |= {"last": value, "updated": float(state.step)}
        updated = Checkpoint(state.phase, state.step, tensors, numbers)
        return _Next(self._ended(updated) if numbers["waiting"] >= options.patience or flat else updated, row)

    def _better(self, unknowns: Unknowns, slopes: Tensor) -> tuple[Unknowns, float]:
        """These unknowns, or the same subjects described from their own mean, whichever has the lower objective.

        Moving the mean of the random effects into the typical values changes no prediction, only what the effects
        cost; a descent that follows the narrow valley between the two needs many steps for that.
        """
        population = self.simulator.population
        value = self._value(self._vector(unknowns), slopes)
        if not population.effect_names:
            return unknowns, value
        mean = unknowns.eta.mean(0)
        place = torch.tensor([population.space.names.index(name) for name in population.effect_names])
        typical = unknowns.values.typical.index_add(0, place, population.deviations(unknowns.values, mean))
        centred = replace(unknowns, values=replace(unknowns.values, typical=typical), eta=unknowns.eta - mean)
        other = self._value(self._vector(centred), slopes)
        return (centred, other) if other < value else (unknowns, value)

    def _vector(self, unknowns: Unknowns) -> Tensor:
        """The unknowns and the field's weights as one vector."""
        return flatten([*_parts(unknowns), *(w.detach() for w in self.weights)])

    def _round(self) -> Checkpoint:
        """One round of L-BFGS with fixed slopes."""
        state, options = self.state, self.options
        tensors, numbers = dict(state.tensors), dict(state.numbers)
        start = self._evaluate(tensors["x"], tensors["slopes"])
        if not math.isfinite(start.value):
            self._explain(tensors["x"])

        def evaluate(x: Tensor) -> Point:
            return self._evaluate(x, tensors["slopes"])

        found = minimise(evaluate, start, options.round_steps, options.tolerance / 10, watch=self._show)
        tensors["x"] = found.x
        return Checkpoint("lbfgs", state.step + 1, tensors, numbers)

    def _ended(self, state: Checkpoint) -> Checkpoint:
        """The next phase, from the best point so far."""
        if state.numbers["best_row"] < 0:
            self._explain(state.tensors["x"])
        phase = "lbfgs" if state.phase == "adam" and self.options.rounds else "done"
        numbers = {**state.numbers, "waiting": 0.0, "last": math.inf, "updated": -1.0}
        return Checkpoint(phase, 0, {**state.tensors, "x": state.tensors["best"]}, numbers)

    def _rates(self) -> Tensor:
        size = sum(part.numel() for part in _parts(self.origin))
        weights = sum(w.numel() for w in self.weights)
        rates = self.state.tensors["x"].new_full((size + weights,), self.options.learning_rate)
        rates[size:] = self.options.weight_rate
        return rates

    def _unknowns(self, x: Tensor) -> Unknowns:
        """The unknowns in a vector; puts the weights in it into the field."""
        like = [*_parts(self.origin), *self.weights]
        parts = unflatten(x, like)
        with torch.no_grad():
            for weight, value in zip(self.weights, parts[6:], strict=True):
                weight.copy_(value)
        return Unknowns(PopulationValues(*parts[:4]), parts[4], parts[5])

    def _loss(self, unknowns: Unknowns, slopes: Tensor) -> Tensor:
        terms = evaluate(self.simulator, self.cohort, unknowns, slopes)
        space, origin = self.simulator.population.space, self.origin
        prior = space.log_prior(unknowns.values.typical)
        scales = unknowns.values.log_sd - origin.values.log_sd, unknowns.log_sd - origin.log_sd
        prior = prior - sum(part.square().sum() for part in scales) / (2 * SCALE_SPREAD**2)
        prior = prior - 0.5 * (unknowns.values.coefficients - origin.values.coefficients).square().sum()
        prior = prior - 0.5 * unknowns.values.correlation.square().sum()
        decay = sum((w.square().sum() for w in self.weights if w.ndim > 1), prior.new_zeros(()))
        return -terms.marginal.sum() - prior.sum() + self.options.weight_decay * decay

    def _evaluate(self, x: Tensor, slopes: Tensor) -> Point:
        unknowns = self._unknowns(x)
        parts = [part.clone().requires_grad_() for part in _parts(unknowns)]
        loss = self._loss(Unknowns(PopulationValues(*parts[:4]), parts[4], parts[5]), slopes)
        if not bool(loss.isfinite()):
            return Point(x, math.inf, torch.zeros_like(x))
        sources = [*parts, *self.weights]
        grads = torch.autograd.grad(loss, sources, allow_unused=True)
        gradient = flatten([torch.zeros_like(s) if g is None else g for g, s in zip(grads, sources, strict=True)])
        value = float(loss.detach()) if bool(gradient.isfinite().all()) else math.inf
        return Point(x, value, gradient)

    def _value(self, x: Tensor, slopes: Tensor) -> float:
        with torch.no_grad():
            value = float(self._loss(self._unknowns(x), slopes))
        return value if math.isfinite(value) else math.inf

    def _show(self, point: Point) -> None:
        last = self.kept.history[-1] if self.kept.history else None
        shown = {"objective": f"{point.value:.2f}", "|gradient|": f"{float(point.gradient.norm()):.2g}"}
        if last is not None:
            shown["−2LL"] = f"{last.minus_two_log_likelihood:.1f}"
            shown["held-out"] = f"{last.held_out:.3f}"
        self.bar.set_description(self.state.phase, refresh=False)
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()

    def _start_unknowns(self) -> Unknowns:
        population = self.simulator.population
        eta = torch.zeros(len(self.cohort), len(population.effect_names), dtype=torch.float64)
        return Unknowns(population.start(), self.simulator.noise.start(), eta)

    def _take_over(self, start: Fit) -> Unknowns:
        """The starting point with estimates of the same names taken from another fit."""
        mine, theirs = self.simulator, start.simulator
        values, given = self.origin.values, start.unknowns.values

        def merged(names: Any, others: Any, own: Tensor, other: Tensor) -> Tensor:
            place = {name: i for i, name in enumerate(others)}
            parts = [other[place[n]] if n in place else own[i] for i, n in enumerate(names)]
            return torch.stack(parts) if parts else own

        a, b = mine.population, theirs.population
        # Natural values, because another prior may have another unconstrained scale.
        natural = a.space.to_natural(values.typical), b.space.to_natural(given.typical)
        typical = a.space.to_unconstrained(merged(a.space.names, b.space.names, *natural))
        changed = replace(
            values,
            typical=torch.where(typical.isfinite(), typical, values.typical),
            log_sd=merged(a.effect_names, b.effect_names, values.log_sd, given.log_sd),
            coefficients=merged(a.coefficient_names, b.coefficient_names, values.coefficients, given.coefficients),
            correlation=given.correlation if a.effect_names == b.effect_names else values.correlation,
        )
        log_sd = merged(mine.noise.names, theirs.noise.names, self.origin.log_sd, start.unknowns.log_sd)
        same = a.effect_names == b.effect_names and self.cohort.ids == start.cohort.ids
        return Unknowns(changed, log_sd, start.unknowns.eta if same else self.origin.eta)

    def _fit(self) -> Fit:
        unknowns = self._unknowns(self.state.tensors["best"] if self.state.phase == "done" else self.state.tensors["x"])
        return Fit(
            self.simulator,
            self.cohort,
            self.held_out,
            unknowns.detach(),
            self.kept.history,
            self.options,
            self.state.phase == "done",
            self.seconds,
            self.state,
        )


def _parts(unknowns: Unknowns) -> list[Tensor]:
    v = unknowns.values
    return [v.typical, v.log_sd, v.coefficients, v.correlation, unknowns.log_sd, unknowns.eta]
