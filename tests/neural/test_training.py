import pytest
import torch
from torch import Tensor

import neural.training
from neural import RK4, Hiding, LatentODE, NeuralError, StopReason, mlp, train_latent_ode
from tests.neural.oscillation import NOISE, oscillation

NETWORK = mlp((32,))


def model_for(series, seed=0, hidden=32):
    return LatentODE.for_series(series, 4, hidden=hidden, network=NETWORK, integrator=RK4(0.5), seed=seed)


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Root mean square error over that of predicting the mean, which is zero here."""
    return ((found - exact).square().mean() / exact.square().mean()).sqrt().item()


def test_learns_a_damped_oscillation_from_sparse_irregular_noisy_samples():
    series, solution = oscillation(64, 14)
    fit = train_latent_ode(model_for(series), series, iterations=200, learning_rate=0.02, progress=False)
    times = torch.linspace(0, 10, 81, dtype=torch.float64)
    exact = solution(times.expand(64, -1))
    prediction = fit.model.predict(series, times, torch.Generator().manual_seed(0))
    rows = list(fit.held_out_rows)
    assert len(rows) == 13
    # Predicting the mean scores 1; the same seed gives the same fit, near 0.25.
    assert relative_error(prediction.mean[rows], exact[rows]) < 0.5
    assert fit.best_loss < fit.held_out[0][1] - 1.0
    inside = (prediction.quantile(0.05) < exact) & (exact < prediction.quantile(0.95))
    # Intervals that include the noise hold the noise-free curve more often than 90 %, unless the posterior is too sure.
    assert inside[rows].double().mean().item() > 0.8
    noise = fit.model.noise * fit.model.scaling.scale
    # Noise is what the model cannot explain: never below the truth by more than the error of its estimate.
    assert bool((noise > 0.8 * NOISE).all())


def test_a_seed_fixes_everything_and_the_given_model_is_left_alone():
    series, _ = oscillation(10, 6)
    model = model_for(series, hidden=8)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.get_rng_state()
    settings = {"iterations": 12, "batch_size": 4, "seed": 3, "progress": False, "hiding": Hiding(0.4, 0.5)}
    one, same = (train_latent_ode(model, series, **settings) for _ in range(2))
    other = train_latent_ode(model, series, **(settings | {"seed": 4}))
    assert torch.equal(before, torch.get_rng_state())
    assert one.losses == same.losses != other.losses
    assert one.held_out == same.held_out
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), same.model.parameters(), strict=True))
    assert len(one.losses) == 12
    assert [iteration for iteration, _ in one.held_out] == [0, 10, 12]
    assert "12 iterations" in repr(one)


def test_the_returned_weights_are_those_of_the_best_evaluation():
    series, _ = oscillation(12, 6)
    check, _ = oscillation(5, 6, seed=1)
    fit = train_latent_ode(model_for(series), series, iterations=40, held_out=check, progress=False, seed=7)
    bound = fit.model.elbo(check, torch.Generator().manual_seed(7), samples=8).sum() / check.count.sum()
    assert -bound.item() == fit.best_loss
    assert dict(fit.held_out)[fit.best_iteration] == fit.best_loss


def test_an_interrupt_returns_the_best_so_far(monkeypatch):
    series, _ = oscillation(8, 5)
    step = neural.training._Run.step

    def interrupted(self, iteration, batch_size):
        if iteration == 16:
            raise KeyboardInterrupt
        return step(self, iteration, batch_size)

    monkeypatch.setattr(neural.training._Run, "step", interrupted)
    fit = train_latent_ode(model_for(series, hidden=8), series, iterations=50, progress=False)
    assert fit.reason is StopReason.INTERRUPTED
    assert len(fit.losses) == 15
    assert fit.best_iteration in (0, 10)


def test_patience_ends_a_training_that_no_longer_gets_better():
    series, _ = oscillation(6, 5)
    # A step too small to change any weight: no evaluation is better than the first.
    fit = train_latent_ode(
        model_for(series, hidden=8), series, iterations=200, learning_rate=1e-30, patience=2, progress=False
    )
    assert fit.reason is StopReason.PATIENCE
    assert (fit.best_iteration, len(fit.losses)) == (0, 20)


def test_a_loss_that_is_not_finite_ends_the_training_with_finite_weights():
    series, _ = oscillation(6, 5)
    huge = model_for(series, hidden=8)
    fit = train_latent_ode(huge, series, iterations=30, learning_rate=1e200, progress=False)
    assert fit.reason is StopReason.DIVERGED
    assert all(bool(p.isfinite().all()) for p in fit.model.parameters())


def test_hiding_only_ever_hides():
    series, _ = oscillation(200, 8)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(Hiding(0.0, 0.0).apply(series, generator).mask, series.mask)
    thinned = Hiding(0.5, 0.0).apply(series, generator)
    assert not bool((thinned.mask & ~series.mask).any())
    # The hidden fraction is uniform between 0 and 0.5: its mean over 200 subjects is good to 0.01.
    assert 1 - (thinned.count.sum() / series.count.sum()).item() == pytest.approx(0.25, abs=0.04)
    cut = Hiding(0.0, 1.0).apply(series, generator)
    ends = torch.where(cut.seen, cut.times, -torch.inf).amax(-1, keepdim=True)
    assert torch.equal(cut.mask, series.mask & (series.times <= ends)[..., None])


def test_the_bar_shows_both_losses(capsys):
    series, _ = oscillation(6, 4)
    train_latent_ode(model_for(series, hidden=8), series, iterations=2)
    shown = capsys.readouterr().err
    assert "latent ODE" in shown
    assert "held_out=" in shown


def test_errors_list_every_problem():
    series, _ = oscillation(6, 4)
    empty = series.until(torch.tensor([-1.0, 20, 20, 20, 20, 20], dtype=torch.float64))
    with pytest.raises(NeuralError) as caught:
        train_latent_ode(
            model_for(series), empty, iterations=0, learning_rate=0.0, held_out=1.0, batch_size=0, patience=0
        )
    assert len(caught.value.problems) == 6
    assert "subjects [0]" in caught.value.problems[-1]
    with pytest.raises(NeuralError) as caught:
        Hiding(1.5, -0.1)
    assert len(caught.value.problems) == 2
