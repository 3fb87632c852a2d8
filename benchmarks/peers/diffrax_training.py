"""diffrax: a training step of the hybrid with Tsit5, by vmap or with one clock for the batch, in reverse mode."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.exchange import Request
from benchmarks.hybrids import Training
from benchmarks.measure import ABSOLUTE, Evaluate, serve_value

STEPS = {"vmap": 256, "one clock": 512, "reference": 4096}
"""Steps that are kept for the way back; more cost time."""


def prepare(request: Request) -> Evaluate:
    """One jitted function of parameters, weights and tolerance."""
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    given = Training.read(Path(request.task) / "batch.npz")
    clock = request.options["clock"]
    scale, flux, half = jnp.asarray(given.scale), given.flux, given.half
    times, data, initial = (jnp.asarray(value) for value in (given.times, given.data, given.initial))
    moments = jnp.sort(times.reshape(-1))
    place = jnp.searchsorted(moments, times)

    def rates(t: Any, x: Any, arguments: Any) -> Any:
        (ka, cl, v, q, v2), w = arguments
        hidden = jnp.arcsinh(x / scale)
        for i in (0, 2):
            hidden = jnp.tanh(w[i] @ hidden + w[i + 1])
        learned = (w[4] @ hidden + w[5])[0] * flux
        present = jnp.maximum(x[1], 0.0)
        learned = learned * jnp.where(learned > 0, present / (present + half), 1.0)
        between = q / v * x[1] - q / v2 * x[2]
        return jnp.stack([-ka * x[0], ka * x[0] - cl / v * x[1] - between - learned, between])

    def solved(term: Any, x: Any, arguments: Any, at: Any, rtol: Any) -> Any:
        control = diffrax.PIDController(rtol=rtol, atol=ABSOLUTE * rtol * jnp.broadcast_to(scale, x.shape))
        return diffrax.diffeqsolve(
            diffrax.ODETerm(term), diffrax.Tsit5(), 0.0, at[-1], None, x, arguments, saveat=diffrax.SaveAt(ts=at),
            stepsize_controller=control, max_steps=STEPS[clock], throw=False,
            adjoint=diffrax.RecursiveCheckpointAdjoint(),
        ).ys  # fmt: skip

    def together(t: Any, x: Any, arguments: Any) -> Any:
        return jax.vmap(lambda one, p: rates(t, one, (p, arguments[1])))(x, arguments[0])

    def loss(p: Any, w: Any, rtol: Any) -> Any:
        if clock == "one clock":
            states = solved(together, initial, (p, w), moments, rtol)[place, jnp.arange(len(p))[:, None]]
        else:
            states = jax.vmap(lambda a, x, at: solved(rates, x, (a, w), at, rtol))(p, initial, times)
        return jnp.mean((states[..., 1] - data) ** 2)

    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    parameters, weights = jnp.asarray(given.parameters), [jnp.asarray(layer) for layer in given.layers]

    def evaluate(rtol: float) -> np.ndarray:
        value, (by_parameters, by_weights) = both(parameters, weights, rtol)
        return np.concatenate([np.ravel(np.asarray(part)) for part in (value, by_parameters, *by_weights)])

    return evaluate


if __name__ == "__main__":
    serve_value("diffrax", ("diffrax", "jax"), "jit, Tsit5, reverse mode through checkpoints; see the row", prepare)
