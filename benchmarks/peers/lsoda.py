"""LSODA of ODEPACK (numbalsoda): right-hand side, patients and doses in one function compiled by numba."""

from benchmarks.measure import serve
from benchmarks.peers.compiled import population

if __name__ == "__main__":
    import numbalsoda

    serve(
        "LSODA (numbalsoda)",
        ("numbalsoda", "numba"),
        "right-hand side and loop over patients compiled by numba (fastmath), what depends on parameters alone"
        " computed once a patient, Jacobian by differences inside LSODA, scalar absolute tolerance",
        population(numbalsoda.lsoda),
    )
