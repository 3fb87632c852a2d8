"""What becomes of an SBML file in a process that is limited, and that notices what no file may bring about."""

import os
import sys
import time
from pathlib import Path
from tempfile import gettempdir
from typing import NamedTuple, final

from tests.child import Child
from tests.mechanistic.sbml_text import apply, function, listed, parameter, rate, sbml

STAGES = ("read", "compile", "solve")


@final
class Request(NamedTuple):
    """A file, and how far to go with it.

    Attributes:
        source: the text, bytes that stand in a file, or the path of a file.
        stage: `read`, `compile` or `solve`; each does what stands before it too.
    """

    source: str | bytes | Path
    stage: str = "read"


@final
class Outcome(NamedTuple):
    """What happened.

    Attributes:
        error: name of the exception's class; empty when there was none.
        expected: whether the error is one that the project raises on purpose, or there was none.
        message: of the exception.
        forbidden: what was done that no file may bring about.
        seconds: wall time.
        memory: bytes by which the largest resident size grew.
        shown: repr of the model.
        states: amounts at the end, by name; empty unless it was solved.
    """

    error: str = ""
    expected: bool = True
    message: str = ""
    forbidden: tuple[str, ...] = ()
    seconds: float = 0.0
    memory: int = 0
    shown: str = ""
    states: tuple[tuple[str, float], ...] = ()


def confined(seconds: float, memory: int) -> Child:
    """A process for requests of this module.

    Args:
        seconds: limit of one request.
        memory: bytes of address space beyond what importing everything takes.
    """
    return Child(attempt, seconds, memory, prepare, beyond=True)


# In the child process

_noticed: list[str] | None = None
_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Models of several files are copied into a folder of their own before libsbml sees them.
_COPIES = os.path.join(gettempdir(), "kinetwin-")


def prepare() -> None:
    """Imports what a file may need, by reading and solving one, and starts to watch."""
    import torch

    torch.set_num_threads(1)
    # Machine code is kept on disk on purpose; here every file that is written counts.
    os.environ["KINETWIN_CODE_CACHE"] = "off"
    quantities = listed("Parameters", parameter("x", "1", constant=False), parameter("k", "1"))
    warm = listed("FunctionDefinitions", function("f", "a", apply("sin", "a"))), quantities
    _solved(sbml(*warm, listed("Rules", rate("x", apply("times", "k", "x")))), "solve")
    attempt(Request(sbml("<"), "read"))
    sys.addaudithook(_watch)


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    """Notes code made of text, programs and connections that are started, and files that are written."""
    if _noticed is None:
        return
    watched = (
        "os.system",
        "os.exec",
        "os.fork",
        "os.posix_spawn",
        "os.spawn",
        "subprocess.",
        "socket.",
        "ctypes.dlopen",
    )
    writes = event == "open" and _is_written(*arguments) and not str(arguments[0]).startswith(_COPIES)
    if writes or event.startswith(watched) or (event in ("compile", "exec") and not _is_importing()):
        _noticed.append(f"{event}{tuple(str(each)[:200] for each in arguments)}")


def _is_written(path: object, mode: object, flags: object) -> bool:
    by_mode = isinstance(mode, str) and any(letter in mode for letter in "wax+")
    return by_mode or (isinstance(flags, int) and bool(flags & _FLAGS))


def _is_importing() -> bool:
    """Whether a module is being imported, which compiles and executes its file."""
    frame = sys._getframe(2)
    while frame is not None:
        if "importlib._bootstrap" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def attempt(request: Request) -> Outcome:
    """Reads, compiles and solves a file, as far as is asked."""
    global _noticed
    from mechanistic.errors import KinetwinError

    before, began = _peak(), time.perf_counter()
    _noticed = []
    outcome = Outcome()
    try:
        shown, states = _solved(request.source, request.stage)
        outcome = Outcome(shown=shown, states=states)
    except KinetwinError as error:
        outcome = Outcome(type(error).__name__, True, str(error)[:100_000])
    except BaseException as error:
        outcome = Outcome(type(error).__name__, False, str(error)[:1000])
    forbidden, _noticed = tuple(_noticed), None
    return outcome._replace(forbidden=forbidden, seconds=time.perf_counter() - began, memory=max(_peak() - before, 0))


def _solved(source: str | bytes | Path, stage: str) -> tuple[str, tuple[tuple[str, float], ...]]:
    from mechanistic.sbml import read_sbml
    from mechanistic.simulate import compiled, simulate
    from mechanistic.solve.auto import Auto
    from mechanistic.solve.rodas5p import Rodas5P
    from mechanistic.solve.tsit5 import Tsit5

    model = read_sbml(source)
    states: tuple[tuple[str, float], ...] = ()
    if stage != "read":
        field = compiled(model)
        if stage == "solve":
            solver = Auto(Tsit5(max_steps=200), Rodas5P(max_steps=200))
            solution = simulate(field, (0.0, 0.5, 1.0), solver=solver)
            states = tuple(zip(model.state_names, solution.states[-1].tolist(), strict=True))
    return repr(model), states


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
