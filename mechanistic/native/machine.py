"""Machine code: made of a module for this processor, and loaded."""

from typing import Any

from llvmlite import binding as llvm

from mechanistic.native.emit import Kernels
from mechanistic.native.functions import load_library

EFFORT = 1
"""Of the code generator, of 0 … 3: more takes twice as long on long functions and gains nothing there."""


def _target_machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=EFFORT, jit=True)


def object_code(kernels: Kernels) -> bytes:
    """The machine code of a module, as a relocatable object; functions of the module that nobody can call are left out.

    Raises:
        RuntimeError: the module is not sound.
    """
    module = llvm.parse_assembly(str(kernels.module))
    module.verify()
    machine = _target_machine()
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.add_sroa_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    return bytes(machine.emit_object(module))


def empty_engine() -> Any:
    """An execution engine without code."""
    load_library()
    machine = _target_machine()
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


def load(engine: Any, code: bytes) -> None:
    """Adds machine code to an engine; it may call what the engine has already."""
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()


def engine_of(code: bytes) -> Any:
    """An execution engine with machine code that calls nothing else."""
    engine = empty_engine()
    load(engine, code)
    return engine
