"""The table: what is measured, beside whom, and what must be reached."""

from dataclasses import dataclass
from typing import final

from mechanistic.errors import nearest


@final
@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: unique.
        work: in words.
        case: key of the model.
        target: the ratio to reach: time of the fastest peer over ours at its error, or of one core over all.
        peers: modules of `benchmarks.peers`; none where Kinetwin is compared with itself on more cores.
        solver: key of the solver that Kinetwin uses.
        alone: every patient is solved by a call of its own.
        kind: how it is measured, a key of `benchmarks.__main__.KINDS`.
    """

    name: str
    work: str
    case: str
    target: float
    peers: tuple[str, ...]
    solver: str
    alone: bool = False
    kind: str = "population"


_STIFF = ("lsoda", "roadrunner", "sundae", "diffrax")
_SMOOTH = ("dop853", "lsoda", "roadrunner", "sundae", "diffrax", "torchdiffeq", "torchode")
_GRADIENTS = ("amici", "diffrax")
_CASES = (("bachmann", 12.0, _STIFF, "rodas5p"), ("fujita", 15.0, _STIFF, "rodas5p"), ("pk", 6.0, _SMOOTH, "tsit5"))

ROWS = (
    *(Row(f"population_{c}", "a population", c, target, peers, solver) for c, target, peers, solver in _CASES),
    *(Row(f"population_{c}_cores", "all cores, beside one", c, 1.8, (), solver) for c, _, _, solver in _CASES),
    *(Row(f"single_{c}", "one patient a call", c, 1.0, peers, solver, True) for c, _, peers, solver in _CASES),
    Row("first_result", "seconds to the first result of a new model", "bachmann", 1.0, (), "auto", kind="first"),
    Row("first_result_cached", "the same again", "bachmann", 1.0, (), "auto", kind="first"),
    Row("million", "a million patients to disk in 2 GiB", "pk", 1.0, (), "tsit5", kind="million"),
    *(
        Row(f"gradient_{c}", "log-likelihood and gradient", c, target, _GRADIENTS, "rodas5p", kind="gradient")
        for c, target in (("boehm", 8.0), ("fujita", 15.0), ("bachmann", 7.0))
    ),
    Row("training_pk", "a training step, beside one clock", "pk", 2.5, ("one clock",), "tsit5", kind="training"),
    Row("training_pk_vmap", "a training step, beside vmap", "pk", 4.0, ("vmap",), "tsit5", kind="training"),
)


def row_named(name: str) -> Row:
    """The row of that name.

    Raises:
        KeyError: with the nearest names, where there is none.
    """
    known = {row.name: row for row in ROWS}
    if name not in known:
        raise KeyError(f"`{name}` is not a row{nearest(name, known)}; --list shows them")
    return known[name]
