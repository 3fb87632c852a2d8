"""diffrax: value and gradient of a log-likelihood, all conditions by vmap, in reverse mode."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.exchange import Evidence, Request
from benchmarks.measure import ABSOLUTE, Evaluate, serve_value
from benchmarks.peers.compiled import load


def prepare(request: Request) -> Evaluate:
    """One jitted function of parameters and tolerance."""
    import diffrax
    import jax
    import jax.numpy as jnp
    import optimistix

    jax.config.update("jax_enable_x64", True)
    given = Evidence.read(Path(request.task))
    equations, likelihood = (load(given.folder / f"{name}_jax.py") for name in ("equations", "likelihood"))
    term = diffrax.ODETerm(lambda t, x, c: equations.rates(t, x, c))
    times, atol = jnp.asarray(given.times), ABSOLUTE * given.sizes
    safe = np.where(given.logarithmic, given.data, 1.0)
    data = np.where(given.logarithmic, np.log10(safe), given.data)
    scale = np.where(given.logarithmic, safe * np.log(10), 1.0)

    def course(p: Any, rtol: Any) -> Any:
        solver = diffrax.Kvaerno5(root_finder=diffrax.with_stepsize_controller_tols(optimistix.Chord)())
        found = diffrax.diffeqsolve(
            term, solver, times[0], times[-1], None, likelihood.initial(p), equations.constants(p),
            saveat=diffrax.SaveAt(ts=times), max_steps=4096, throw=False,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol * rtol),
            adjoint=diffrax.RecursiveCheckpointAdjoint(),
        )  # fmt: skip
        return found.ys

    def loss(theta: Any, rtol: Any) -> Any:
        linear = jnp.where(given.decadic, 10.0**theta, theta)
        p = jnp.where(given.place >= 0, linear[given.place.clip(0)], given.base)
        own = jnp.where(given.own_place >= 0, linear[given.own_place.clip(0)], given.own_base)
        states = jax.vmap(course, in_axes=(0, None))(p, rtol)
        x = states[given.condition, given.time]
        seen = jax.vmap(likelihood.observed)(times[given.time], x, own)
        rows, count = np.arange(len(data)), seen.shape[1] // 2
        y, sigma = seen[rows, given.observable], seen[rows, count + given.observable]
        y = jnp.where(given.logarithmic, jnp.log10(jnp.where(given.logarithmic, y, 1.0)), y)
        return (0.5 * np.log(2 * np.pi) + jnp.log(sigma * scale) + 0.5 * ((data - y) / sigma) ** 2).sum()

    both = jax.jit(jax.value_and_grad(loss))

    def evaluate(rtol: float) -> np.ndarray:
        found, slope = both(given.theta, rtol)
        return np.r_[float(found), np.asarray(slope)]

    return evaluate


if __name__ == "__main__":
    serve_value(
        "diffrax",
        ("diffrax", "jax"),
        "vmap over conditions, jit, reverse mode through checkpoints; Kvaerno5 with the chord method",
        prepare,
    )
