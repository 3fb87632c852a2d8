"""Training of the latent ODE."""

import copy
import math
import time
from dataclasses import dataclass, replace
from enum import Enum
from typing import final

import torch
from torch import Tensor
from tqdm import tqdm

from neural.errors import NeuralError, refuse
from neural.latent_ode import LatentODE
from neural.series import Series

_EVALUATE_EVERY = 10
_HELD_OUT_SAMPLES = 8
_FINAL_RATE = 0.1

# Just below the usual norms: one rare norm of a thousand would otherwise fill Adam's second moments and stall it.
_LARGEST_GRADIENT = 0.5


class StopReason(Enum):
    """Why a training ended, as a sentence."""

    ITERATIONS = "all iterations were done"
    PATIENCE = "the held-out loss had stopped falling"
    INTERRUPTED = "it was interrupted from the keyboard"
    DIVERGED = (
        "the loss or a gradient was not finite, or the solver gave up; lower the learning rate or set `decay_time`"
    )


@final
@dataclass(frozen=True, eq=False)
class LatentODEFit:
    """The outcome of a training.

    Attributes:
        model: the trained model, with the weights of `best_iteration`.
        losses: training loss of each iteration, minus ELBO in nats per observed value.
        held_out: `(iteration, loss)` of each evaluation of the held-out subjects; of all when none is held out.
        held_out_rows: which rows of the flattened batch were held out; empty when they were given as series.
        best_iteration: where the held-out loss was lowest.
        reason: why the training ended.
        seconds: time that it took.
    """

    model: LatentODE
    losses: tuple[float, ...]
    held_out: tuple[tuple[int, float], ...]
    held_out_rows: tuple[int, ...]
    best_iteration: int
    reason: StopReason
    seconds: float

    @property
    def best_loss(self) -> float:
        """The lowest held-out loss, minus ELBO in nats per observed value."""
        return min((loss for _, loss in self.held_out), default=math.nan)

    def __repr__(self) -> str:
        done = f"{len(self.losses)} iterations in {self.seconds:.1f} s"
        best = f"best held-out loss {self.best_loss:.4f} at iteration {self.best_iteration}"
        return f"LatentODEFit({done}; {best}; {self.reason.value})"


@final
@dataclass(frozen=True)
class Hiding:
    """What an encoder does not see in training of the records that are scored; a guard against learning them by heart.

    Attributes:
        thinning: of every subject a random fraction of the observed values is hidden, uniform from 0 to `thinning`.
        truncation: probability with which a subject is hidden from a random time on, so that forecasting is learned.
    """

    thinning: float = 0.5
    truncation: float = 0.0

    def __post_init__(self) -> None:
        values = {"thinning": self.thinning, "truncation": self.truncation}
        problems = [f"`{name}` must lie between 0 and 1, got {v}" for name, v in values.items() if not 0.0 <= v <= 1.0]
        refuse("the hiding:", problems)

    def apply(self, series: Series, generator: torch.Generator) -> Series:
        """The same series, of one batch axis, with a smaller mask."""
        first = torch.where(series.seen, series.times, torch.inf).amin(-1)
        last = torch.where(series.seen, series.times, -torch.inf).amax(-1)
        chance, place, fraction = torch.rand(3, len(first), generator=generator, dtype=first.dtype).to(first.device)
        lots = torch.rand(series.mask.shape, generator=generator, dtype=first.dtype).to(first.device)
        thinned = replace(series, mask=series.mask & (lots >= self.thinning * fraction[:, None, None]))
        return thinned.until(torch.where(chance < self.truncation, first + place * (last - first), torch.inf))


_DEFAULT_HIDING = Hiding()


def train_latent_ode(
    model: LatentODE,
    series: Series,
    *,
    iterations: int = 500,
    learning_rate: float = 0.01,
    held_out: float | Series = 0.2,
    batch_size: int | None = None,
    hiding: Hiding = _DEFAULT_HIDING,
    patience: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> LatentODEFit:
    """Maximises the evidence lower bound with Adam; `model` itself stays as it is.

    The weight of the divergence from the prior rises from 0 to 1 over the first fifth of the iterations, the learning
    rate falls to a tenth along half a cosine, gradients are clipped to norm 0.5. Ctrl-C returns the best found so far.

    Args:
        model: where to start; a copy is trained.
        series: the subjects.
        iterations: number of gradient steps.
        learning_rate: of Adam (Kingma and Ba 2015, arXiv 1412.6980).
        held_out: the fraction of subjects to hold out, or other series; 0 for none.
        batch_size: subjects a step, drawn without replacement; None for all.
        hiding: what the encoder does not see of the record that is scored.
        patience: number of evaluations (one every 10 iterations) without improvement after which to stop.
        seed: of everything random.
        progress: whether to show a bar with the losses.

    Raises:
        NeuralError: lists arguments that cannot be used; series that do not fit the model.
    """
    flat = series.flat()
    refuse(
        "the training cannot start:",
        _problems(flat, iterations, learning_rate, held_out, batch_size, patience),
    )
    generator = torch.Generator().manual_seed(seed)
    train, check, rows = _split(flat, held_out, generator)
    run = _Run(copy.deepcopy(model), train, check, learning_rate, iterations, hiding, generator)
    begin = time.perf_counter()
    reason = StopReason.ITERATIONS
    bar = tqdm(total=iterations, disable=not progress, desc="latent ODE")
    try:
        run.evaluate(0, seed)
        for iteration in range(1, iterations + 1):
            if not run.step(iteration, batch_size):
                reason = StopReason.DIVERGED
                break
            if iteration % _EVALUATE_EVERY == 0 or iteration == iterations:
                run.evaluate(iteration, seed)
            bar.update()
            bar.set_postfix(loss=f"{run.losses[-1]:.3f}", held_out=f"{run.held_out[-1][1]:.3f}", refresh=False)
            if iteration - run.best_iteration >= patience * _EVALUATE_EVERY:
                reason = StopReason.PATIENCE
                break
    except KeyboardInterrupt:
        reason = StopReason.INTERRUPTED
    finally:
        bar.close()
    run.model.load_state_dict(run.best_weights)
    history = (tuple(run.losses), tuple(run.held_out), rows, run.best_iteration)
    return LatentODEFit(run.model, *history, reason, time.perf_counter() - begin)


class _Run:
    """The changing parts of one training: weights, optimiser, history."""

    def __init__(
        self,
        model: LatentODE,
        train: Series,
        check: Series,
        learning_rate: float,
        iterations: int,
        hiding: Hiding,
        generator: torch.Generator,
    ) -> None:
        self.model, self.train, self.check = model, train, check
        self.iterations, self.hiding, self.generator = iterations, hiding, generator
        self.optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate_factor)
        self.losses: list[float] = []
        self.held_out: list[tuple[int, float]] = []
        self.best_weights = copy.deepcopy(model.state_dict())
        self.best_iteration = 0

    def step(self, iteration: int, batch_size: int | None) -> bool:
        """One gradient step; false when it cannot be made."""
        subjects = len(self.train.times)
        batch = self.train
        if batch_size is not None and batch_size < subjects:
            batch = batch.select(torch.randperm(subjects, generator=self.generator)[:batch_size])
        weight = min(1.0, iteration / (0.2 * self.iterations))
        self.optimiser.zero_grad()
        try:
            bound = self.model.elbo(
                batch, self.generator, kl_weight=weight, encoded=self.hiding.apply(batch, self.generator)
            )
        except NeuralError:
            return False
        loss = -bound.sum() / batch.count.sum()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), _LARGEST_GRADIENT)
        if not (bool(loss.isfinite()) and bool(norm.isfinite())):
            return False
        self.optimiser.step()
        self.schedule.step()
        self.losses.append(float(loss.detach()))
        return True

    @torch.no_grad()
    def evaluate(self, iteration: int, seed: int) -> None:
        """Records the held-out loss, always with the same random numbers; keeps the weights when it is lowest."""
        generator = torch.Generator().manual_seed(seed)
        try:
            bound = self.model.elbo(self.check, generator, samples=_HELD_OUT_SAMPLES)
            loss = float(-bound.sum() / self.check.count.sum())
        except NeuralError:
            loss = math.inf
        best = min((found for _, found in self.held_out), default=math.inf)
        self.held_out.append((iteration, loss))
        if loss < best:
            self.best_weights, self.best_iteration = copy.deepcopy(self.model.state_dict()), iteration

    def _rate_factor(self, done: int) -> float:
        return _FINAL_RATE + (1.0 - _FINAL_RATE) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done / self.iterations)))


def _split(
    flat: Series, held_out: float | Series, generator: torch.Generator
) -> tuple[Series, Series, tuple[int, ...]]:
    if isinstance(held_out, Series):
        return flat, held_out.flat(), ()
    subjects = len(flat.times)
    order = torch.randperm(subjects, generator=generator)
    kept = subjects - round(held_out * subjects)
    if kept == subjects:
        return flat, flat, ()
    rows: Tensor = order[kept:].sort().values
    return flat.select(order[:kept].sort().values), flat.select(rows), tuple(rows.tolist())


def _problems(
    flat: Series,
    iterations: int,
    learning_rate: float,
    held_out: float | Series,
    batch_size: int | None,
    patience: int,
) -> list[str]:
    problems = []
    counts = {"iterations": iterations, "patience": patience} | (
        {} if batch_size is None else {"batch_size": batch_size}
    )
    problems += [f"`{name}` must be at least 1, got {count}" for name, count in counts.items() if count < 1]
    if not learning_rate > 0:
        problems.append(f"`learning_rate` must be positive, got {learning_rate}")
    if not isinstance(held_out, Series) and not 0 <= round(held_out * len(flat.times)) < len(flat.times):
        problems.append(f"`held_out` must leave a subject to train on, got {held_out} of {len(flat.times)} subjects")
    if not bool((flat.count > 0).all()):
        empty = (flat.count == 0).nonzero().flatten().tolist()
        problems.append(f"nothing is observed of the subjects {empty}; leave them out")
    return problems
