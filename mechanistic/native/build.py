"""Machine code of a model: its kernels, compiled for this processor."""

from dataclasses import dataclass
from typing import Any, final

from llvmlite import binding as llvm

from mechanistic.native.emit import Kernels
from mechanistic.native.functions import load_library
from mechanistic.native.program import Program
from mechanistic.native.sparse import factorise
from mechanistic.native.sparse_ir import emit_backward_error, emit_factor, emit_solve
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
    kernels = Kernels.new()
    n, m, q = program.states, program.constants, program.held
    entries = len(program.rows) + len(program.timed)
    kernels.tape("prepare", program.prepare, [program.parameters], [m])
    kernels.tape("rates", program.rates, [1, n, m, q], [n])
    kernels.tape("linearise", program.linearise, [1, n, m, q], [n, entries])
    emit_factor(kernels.module, "factor", factorisation)
    emit_solve(kernels.module, "solve", factorisation)
    emit_backward_error(kernels.module, "residual", factorisation)
    workspace = Workspace.of(program, factorisation.places)
    emit_steps(kernels, program, workspace)
    return Forward(program, workspace, compile_kernels(kernels))


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
