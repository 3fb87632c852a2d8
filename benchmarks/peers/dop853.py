"""DOP853 of Hairer and Wanner (numbalsoda): right-hand side, patients and doses in one function compiled by numba."""

from benchmarks.measure import serve
from benchmarks.peers.compiled import population

if __name__ == "__main__":
    import numbalsoda

    serve(
        "DOP853 (numbalsoda)",
        ("numbalsoda", "numba"),
        "right-hand side and loop over patients compiled by numba (fastmath), what depends on parameters alone"
        " computed once a patient, scalar absolute tolerance",
        population(numbalsoda.dop853),
    )
