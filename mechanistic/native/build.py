"""Machine code of a model: its kernels in groups, each compiled when it is first used and kept on disk."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from threading import RLock
from types import MappingProxyType
from typing import Any, Final, NamedTuple, final

from mechanistic.native.backward import backward_workspace, emit_pullbacks, emit_rodas5p_back, emit_tsit5_back
from mechanistic.native.cache import key_of, store
from mechanistic.native.coupled import emit_linearise, emit_rates
from mechanistic.native.emit import Kernels
from mechanistic.native.gradient import Backward
from mechanistic.native.machine import empty_engine, engine_of, load, object_code
from mechanistic.native.program import Program
from mechanistic.native.shadows import emit_shadows
from mechanistic.native.sparse import Factorisation, factorise
from mechanistic.native.sparse_ir import emit_backward_error, emit_factor, emit_solve, emit_solve_transposed
from mechanistic.native.steps import Workspace, emit_steps


class _Given(NamedTuple):
    """What kernels are written for."""

    program: Program
    factorisation: Factorisation

    @property
    def workspace(self) -> Workspace:
        return Workspace.of(self.program, self.factorisation.places)

    @property
    def backward(self) -> Workspace:
        return backward_workspace(self.program, self.factorisation.places)


@final
@dataclass(frozen=True, slots=True)
class Group:
    """Kernels that are compiled together; they may call those of other groups.

    Attributes:
        emit: adds them to a module, and others that are left out of it.
        needs: groups whose kernels these call.
    """

    emit: Callable[[Kernels, _Given], None]
    needs: tuple[str, ...] = ()


def _common(kernels: Kernels, given: _Given) -> None:
    program = given.program
    kernels.tape("prepare", program.prepare, [program.parameters], [program.constants])
    if program.networks:
        emit_rates(kernels, program)
    else:
        kernels.tape("rates", program.rates, _inputs(program), [program.states])
    _steps(kernels, given)


def _steps(kernels: Kernels, given: _Given) -> None:
    emit_shadows(kernels, given.program, given.workspace)
    emit_steps(kernels, given.program, given.workspace)


def _linear(kernels: Kernels, given: _Given) -> None:
    program, factorisation = given
    if program.networks:
        emit_linearise(kernels, program)
    else:
        kernels.tape("linearise", program.linearise, _inputs(program), [program.states, program.entries])
    emit_factor(kernels, "factor", factorisation)
    emit_solve(kernels, "solve", factorisation)
    emit_backward_error(kernels, "residual", factorisation)


def _pullbacks(kernels: Kernels, given: _Given) -> None:
    emit_pullbacks(kernels, given.program)


def _tsit5_back(kernels: Kernels, given: _Given) -> None:
    emit_tsit5_back(kernels, given.program, given.backward)


def _rodas5p_back(kernels: Kernels, given: _Given) -> None:
    emit_solve_transposed(kernels, "solve_transposed", given.factorisation)
    emit_rodas5p_back(kernels, given.program, given.backward)


def _inputs(program: Program) -> list[int]:
    return [1, program.states, program.constants, program.held]


GROUPS: Final[Mapping[str, Group]] = MappingProxyType({
    "common": Group(_common),
    "linear": Group(_linear),
    "tsit5": Group(_steps, ("common",)),
    "rodas5p": Group(_steps, ("common", "linear")),
    "pullbacks": Group(_pullbacks),
    "tsit5_back": Group(_tsit5_back, ("common", "pullbacks")),
    "rodas5p_back": Group(_rodas5p_back, ("common", "linear", "pullbacks")),
})  # fmt: skip
"""Group by name."""

CALLED: Final[Mapping[str, int]] = MappingProxyType({
    "rates": 5, "linearise": 6, "factor": 3, "solve": 3, "residual": 6, "rates_pullback": 8,
})  # fmt: skip
"""Kernels that other groups call, and how many arguments they have."""

_OWNERS: Final = {
    "linearise": "linear", "factor": "linear", "solve": "linear", "residual": "linear",
    "rates_pullback": "pullbacks", "prepare_pullback": "pullbacks",
    "tsit5_back": "tsit5_back", "rodas5p_back": "rodas5p_back",
    "linearise_pullback": "rodas5p_back", "solve_transposed": "rodas5p_back",
}  # fmt: skip


def group_of(name: str) -> str:
    """The group that a kernel is in."""
    prefix = name.partition("_")[0]
    return _OWNERS.get(name) or (prefix if prefix in GROUPS else "common")


@final
class Library:
    """Machine code of one program; every group is loaded, or compiled, when one of its kernels is first asked for."""

    def __init__(self, program: Program, factorisation: Factorisation) -> None:
        self._given = _Given(program, factorisation)
        self._engine = empty_engine()
        self._loaded: set[str] = set()
        self._addresses: dict[str, int] = {}
        self._lock = RLock()

    @property
    def places(self) -> int:
        """How many numbers the factors of a matrix are."""
        return self._given.factorisation.places

    def address(self, name: str) -> int:
        """Where a kernel is."""
        with self._lock:
            if name not in self._addresses:
                self._load(group_of(name))
                self._addresses[name] = int(self._engine.get_function_address(name))
            return self._addresses[name]

    def _load(self, name: str) -> None:
        if name in self._loaded:
            return
        for needed in GROUPS[name].needs:
            self._load(needed)
        load(self._engine, machine_code(name, self._given.program, lambda: self._kernels(name)))
        self._loaded.add(name)

    def _kernels(self, name: str) -> Kernels:
        kernels = Kernels.new()
        for called, arguments in CALLED.items():
            kernels.declare(called, arguments)
        GROUPS[name].emit(kernels, self._given)
        kernels.keep(lambda kernel: group_of(kernel) == name)
        return kernels


def machine_code(label: str, program: object, emit: Callable[[], Kernels]) -> bytes:
    """The machine code of kernels of a program, from disk where it is there; `label` says which kernels.

    `program` is all that they follow from; see `key_of`.
    """
    kept, key = store(), key_of(label, program)
    found = None if kept is None or key is None else kept.read(key)
    if found is not None:
        return found
    code = object_code(emit())
    if kept is not None and key is not None:
        kept.write(key, code)
    return code


def compile_kernels(kernels: Kernels) -> Any:
    """An execution engine that holds the machine code of a module."""
    return engine_of(object_code(kernels))


@lru_cache(maxsize=64)
def _library(program: Program) -> Library | None:
    factorisation = factorise(program.states, program.rows, program.columns)
    return None if factorisation is None else Library(program, factorisation)


@final
@dataclass(frozen=True, slots=True)
class Forward:
    """Kernels that advance a block of subjects; see `mechanistic.native.steps`."""

    program: Program
    workspace: Workspace
    library: Library

    def address(self, name: str) -> int:
        """Where a kernel is; it is compiled first if need be."""
        return self.library.address(name)


def build_forward(program: Program) -> Forward | None:
    """The kernels of a model; None where its Jacobian has too many entries to be factored without pivoting."""
    library = _library(program)
    return None if library is None else Forward(program, Workspace.of(program, library.places), library)


def build_backward(program: Program, method: str) -> Backward | None:
    """Kernels that go back through the steps of `tsit5` or `rodas5p`; None as for `build_forward`."""
    library = _library(program)
    if library is None:
        return None
    back, prepare = library.address(f"{method}_back"), library.address("prepare_pullback")
    return Backward(method, back, prepare, backward_workspace(program, library.places), library, program)
