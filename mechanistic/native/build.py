"""Machine code of a model: its kernels, compiled for this processor."""

from dataclasses import dataclass
from typing import Any, final

from llvmlite import binding as llvm

from mechanistic.native.backward import backward_workspace, emit_backward
from mechanistic.native.emit import Kernels
from mechanistic.native.functions import load_library
from mechanistic.native.gradient import Backward
from mechanistic.native.program import Program
from mechanistic.native.shadows import emit_shadows
from mechanistic.native.sparse import Factorisation, factorise
from mechanistic.native.sparse_ir import emit_backward_error, emit_factor, emit_solve, emit_solve_transposed
from mechanistic.native.steps import Workspace, emit_steps

EFFORT = 1
"""Of the code generator, of 0 … 3: more takes twice as long on long functions and gains nothing there."""


@final
@dataclass(frozen=True, slots=True)
class Forward:
    """Kernels that advance a block of subjects; see `mechanistic.native.steps`.

    Attributes:
        engine: keeps the machine code in memory.
    """

    program: Program
    workspace: Workspace
    engine: Any

    def address(self, name: str) -> int:
        """Where a kernel is."""
        return int(self.engine.get_function_address(name))


def build_forward(program: Program) -> Forward | None:
    """The kernels of a model; None where its Jacobian has too many entries to be factored without pivoting."""
    factorisation = factorise(program.states, program.rows, program.columns)
    if factorisation is None:
        return None
    kernels = _kernels_of(program, factorisation)
    kernels.tape("prepare", program.prepare, [program.parameters], [program.constants])
    emit_backward_error(kernels, "residual", factorisation)
    workspace = Workspace.of(program, factorisation.places)
    emit_shadows(kernels, program, workspace)
    emit_steps(kernels, program, workspace)
    return Forward(program, workspace, compile_kernels(kernels))


def build_backward(program: Program, method: str) -> Backward | None:
    """Kernels that go back through the steps of `tsit5` or `rodas5p`; None as for `build_forward`."""
    factorisation = factorise(program.states, program.rows, program.columns)
    if factorisation is None:
        return None
    kernels = _kernels_of(program, factorisation)
    emit_solve_transposed(kernels, "solve_transposed", factorisation)
    workspace = backward_workspace(program, factorisation.places)
    emit_backward(kernels, program, workspace)
    engine = compile_kernels(kernels)
    back, prepare = (engine.get_function_address(name) for name in (f"{method}_back", "prepare_pullback"))
    return Backward(back, prepare, workspace, engine)


def _kernels_of(program: Program, factorisation: Factorisation) -> Kernels:
    """A module with what steps call, forward and backward."""
    kernels = Kernels.new()
    inputs = [1, program.states, program.constants, program.held]
    kernels.tape("rates", program.rates, inputs, [program.states])
    kernels.tape("linearise", program.linearise, inputs, [program.states, program.entries])
    emit_factor(kernels, "factor", factorisation)
    emit_solve(kernels, "solve", factorisation)
    return kernels


def compile_kernels(kernels: Kernels) -> Any:
    """An execution engine that holds the machine code of a module."""
    load_library()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(str(kernels.module))
    module.verify()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    machine = target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=EFFORT)
    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine
