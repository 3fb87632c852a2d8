"""diffrax: a batch of patients compiled by XLA, each with its own steps (vmap); Kvaerno5 where stiff, else Tsit5."""

import numpy as np

from benchmarks.exchange import Request, Task
from benchmarks.measure import ABSOLUTE, Solve, serve
from benchmarks.peers.compiled import load

BATCH = 50
"""Patients of one call: a larger batch waits longer for its slowest patient, a smaller one pays more calls."""


def prepare(task: Task, request: Request) -> Solve:
    """One jitted function of a batch; the tolerance is an argument, so that it is compiled once."""
    import diffrax
    import jax
    import jax.numpy as jnp
    import optimistix

    jax.config.update("jax_enable_x64", True)
    equations = load(task.folder / "equations_jax.py")
    term = diffrax.ODETerm(lambda t, x, c: equations.rates(t, x, c))
    segments = task.segments()
    atol = ABSOLUTE * task.sizes
    width = 1 if request.alone else BATCH

    def one(p, x, rtol):
        if request.options["stiff"]:
            # A third of the steps of the default, VeryChord, which gives a step up after two iterations.
            solver = diffrax.Kvaerno5(root_finder=diffrax.with_stepsize_controller_tols(optimistix.Chord)())
        else:
            solver = diffrax.Tsit5()
        control = diffrax.PIDController(rtol=rtol, atol=atol * rtol)
        constants = equations.constants(p)
        courses = []
        for s in segments:
            inside = task.times[s.first : s.first + s.count]
            saved = jnp.asarray(np.r_[inside, s.end])
            found = diffrax.diffeqsolve(
                term, solver, s.start, s.end, None, x + s.jump, constants, saveat=diffrax.SaveAt(ts=saved),
                stepsize_controller=control, max_steps=100_000, throw=False,
                adjoint=diffrax.ForwardMode(),
            )  # fmt: skip
            courses.append(found.ys[:-1])
            x = found.ys[-1]
        return jnp.concatenate(courses)

    batched = jax.jit(jax.vmap(one, in_axes=(0, 0, None)))

    def solve(parameters: np.ndarray, initial: np.ndarray, rtol: float) -> np.ndarray:
        results = []
        for begin in range(0, len(initial), width):
            rows = np.minimum(np.arange(begin, begin + width), len(initial) - 1)
            results.append(np.asarray(batched(parameters[rows], initial[rows], rtol)))
        return np.concatenate(results)[: len(initial)]

    return solve


if __name__ == "__main__":
    serve(
        "diffrax",
        ("diffrax", "jax"),
        f"vmap over {BATCH} patients, jit; Kvaerno5 with the chord method (stiff) or Tsit5, its own tolerances",
        prepare,
    )
