"""Machine code on disk: what is read is what was written, or nothing."""

import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanistic import RateField, Rodas5P, Schedule, Tsit5, library, simulate
from mechanistic.native import Native, build, cache
from mechanistic.native.cache import FORMAT, Store, key_of
from mechanistic.native.program import Program

HEADER = len(FORMAT) + 32


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of machine code, empty; sources count as unchanged, and nothing is in memory."""
    monkeypatch.setenv("KINETWIN_CACHE", str(tmp_path))
    monkeypatch.delenv("KINETWIN_CODE_CACHE", raising=False)
    monkeypatch.setattr(cache, "_surroundings", lambda: b"here")
    build._library.cache_clear()
    yield tmp_path / "code"
    build._library.cache_clear()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what is compiled from now on."""
    sizes: list[int] = []

    def spy(kernels: build.Kernels) -> bytes:
        code = original(kernels)
        sizes.append(len(code))
        return code

    original = build.object_code
    monkeypatch.setattr(build, "object_code", spy)
    return sizes


def program() -> Program:
    return Program.of(RateField(library.two_compartment_oral()))


def addresses() -> list[int]:
    """Of some kernels, as a process finds them that has none in memory."""
    build._library.cache_clear()
    forward = build.build_forward(program())
    assert forward is not None
    return [forward.address(name) for name in ("prepare", "tsit5_run")]


def test_what_is_on_disk_is_not_compiled(kept: Path, compiled: list[int]):
    assert all(addresses())
    groups = len(compiled)
    assert groups == len(list(kept.iterdir())) > 0
    assert all(addresses())
    assert len(compiled) == groups


def test_only_what_a_method_needs_is_compiled(kept: Path, compiled: list[int]):
    forward = build.build_forward(program())
    assert forward is not None
    assert not compiled
    forward.address("tsit5_run")
    forward.address("tsit5_take")
    assert len(compiled) == 2
    forward.address("rodas5p_run")
    assert len(compiled) == 4


@pytest.mark.parametrize("method", [Tsit5(), Rodas5P()])
def test_loaded_code_gives_the_same_bits_forward_and_backward(method: Tsit5 | Rodas5P, kept: Path, compiled: list[int]):
    def solved() -> tuple[torch.Tensor, torch.Tensor]:
        build._library.cache_clear()
        field = RateField(library.two_compartment_oral())
        parameters = field.nominal().clone().requires_grad_()
        doses = Schedule.repeat("gut", amount=100.0, every=12.0, count=2)
        solution = simulate(field, [5.0, 30.0], parameters, doses, solver=method, engine=Native(threads=1))
        states = solution.states
        states.square().sum().backward()
        assert parameters.grad is not None
        return states.detach(), parameters.grad

    first, count = solved(), len(compiled)
    second = solved()
    assert len(compiled) == count > 0
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data[:HEADER],
        lambda data: b"",
        lambda data: data[:5],
        lambda data: data + b"\0",
        lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        lambda data: b"x" + data[1:],
    ],
    ids=["truncated", "header", "empty", "short", "longer", "one bit", "other format"],
)
def test_what_is_spoilt_is_compiled_again(spoil: Callable[[bytes], bytes], kept: Path, compiled: list[int]):
    addresses()
    count = len(compiled)
    for path in kept.iterdir():
        path.write_bytes(spoil(path.read_bytes()))
    assert all(addresses())
    assert len(compiled) == 2 * count
    assert all(addresses())
    assert len(compiled) == 2 * count


def test_an_entry_under_another_key_is_not_taken(tmp_path: Path):
    store = Store(tmp_path / "code")
    store.write("a", b"one")
    os.rename(tmp_path / "code" / "a", tmp_path / "code" / "b")
    assert store.read("b") is None


@given(st.dictionaries(st.sampled_from("abcdef"), st.binary(max_size=300), min_size=1))
@settings(max_examples=30)
def test_what_is_read_is_what_was_written(tmp_path_factory: pytest.TempPathFactory, entries: dict[str, bytes]):
    store = Store(tmp_path_factory.mktemp("store") / "code")
    for key, body in entries.items():
        store.write(key, body)
    assert {key: store.read(key) for key in "abcdef"} == {key: entries.get(key) for key in "abcdef"}


def test_the_entries_used_longest_ago_leave(tmp_path: Path):
    store = Store(tmp_path / "code", limit=4 * (HEADER + 1000))
    for i, key in enumerate("abcd"):
        store.write(key, bytes(1000))
        os.utime(store.folder / key, (i, i))
    assert store.read("a") is not None  # used now, so that `b` is the oldest
    store.write("e", bytes(1000))
    assert {path.name for path in store.folder.iterdir()} == set("acde")
    store.write("f", bytes(5000))
    assert {path.name for path in store.folder.iterdir()} == set("acde")
    assert sum(path.stat().st_size for path in store.folder.iterdir()) <= store.limit


def test_nobody_else_can_put_entries_there(tmp_path: Path):
    store = Store(tmp_path / "code")
    store.write("a", b"one")
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    (store.folder / "a").chmod(0o666)
    assert store.read("a") is None
    (store.folder / "a").chmod(0o600)
    assert store.read("a") == b"one"
    (store.folder / "c").symlink_to(store.folder / "a")
    assert store.read("c") is None
    store.folder.chmod(0o777)
    assert store.read("a") is None
    store.write("b", b"two")
    assert not (store.folder / "b").exists()


def test_an_entry_of_another_user_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Store(tmp_path / "code")
    store.write("a", b"one")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert store.read("a") is None


def test_without_a_folder_it_works_all_the_same(
    kept: Path, compiled: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "file").write_text("in the way")
    for name, value in (("KINETWIN_CACHE", str(tmp_path / "file")), ("KINETWIN_CODE_CACHE", "off")):
        monkeypatch.setenv(name, value)
        before = len(compiled)
        assert all(addresses())
        assert all(addresses())
        assert len(compiled) == before + 4
    assert not kept.exists()


def test_nothing_is_kept_while_sources_may_be_newer_than_what_was_read(monkeypatch: pytest.MonkeyPatch):
    surroundings = cache._surroundings.__wrapped__
    monkeypatch.setattr(cache, "SETTLED", 1e12)
    assert surroundings() is None
    monkeypatch.setattr(cache, "SETTLED", -1e12)
    first = surroundings()
    assert first is not None
    monkeypatch.setattr(cache.llvmlite, "__version__", "another")
    assert surroundings() != first


def test_without_known_sources_nothing_is_kept(kept: Path, compiled: list[int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "_surroundings", lambda: None)
    assert key_of("a") is None
    assert all(addresses())
    assert compiled
    assert not kept.exists()


def test_keys_differ_where_contents_do(kept: Path):
    one = program()
    changed = one.rates.instructions[0]
    other = replace(one.rates, instructions=(replace(changed, value=0.5), *one.rates.instructions[1:]))
    programs = [
        one,
        replace(one, rates=other),
        replace(one, held=one.held + 1),
        replace(one, timed=(0,)),
        Program.of(RateField(library.robertson())),
    ]
    keys = [key_of(label, each) for each in programs for label in ("tsit5", "rodas5p")]
    assert len(set(keys)) == len(keys)
    assert key_of("tsit5", program()) == keys[0]
    parts = [(1,), (1.0,), (True,), ("1",), (None,), ((1,),), (), (0.0,), (-0.0,), ("a", "b"), ("ab",), (("a",), "b")]
    assert len({key_of(*each) for each in parts}) == len(parts)
    with pytest.raises(TypeError, match="object"):
        key_of(object())


def test_every_process_finds_the_same_key():
    """Sets of symbols have another order in every process; conditions and events must not show it."""
    script = """
        from sympy import Piecewise
        from mechanistic import KineticModel, Parameter, RateField, State, symbol, time
        from mechanistic.native import cache
        from mechanistic.native.conditions import Conditions
        from mechanistic.native.program import Program
        cache._surroundings = lambda: b"here"
        a, b, c, x, y = (symbol(name) for name in "abcxy")
        rate = Piecewise((a * time + b * x * y, (time <= c) | (x * y > a + b)), (b * y - c * x, True))
        states = (State("x", 1.0), State("y", 2.0))
        model = KineticModel("switched", states, tuple(Parameter(n, 1.0) for n in "abc"), rates={"x": rate, "y": -y})
        field = RateField(model)
        print(cache.key_of(Program.of(field), Conditions.of(field)))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    keys = {
        subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1", "2", "3")
    }
    assert len(keys) == 1


def _write_and_read(folder: Path, number: int) -> bool:
    store = Store(folder, limit=40 * (HEADER + 5000))
    fine = True
    for i in range(60):
        key = f"{(7 * i + number) % 50}"
        store.write(key, key.encode() * 2000)
        found = store.read(f"{(11 * i) % 50}")
        fine &= found is None or found == f"{(11 * i) % 50}".encode() * 2000
    return fine


def test_many_threads_read_whole_entries_or_none(tmp_path: Path):
    with ThreadPoolExecutor(4) as workers:
        assert all(workers.map(_write_and_read, [tmp_path / "code"] * 4, range(4)))
    sizes = [path.stat().st_size for path in (tmp_path / "code").iterdir()]
    assert sum(sizes) <= 40 * (HEADER + 5000)


def test_processes_that_start_at_once_share_what_they_compile(kept: Path, compiled: list[int]):
    script = """
        from mechanistic import RateField, library
        from mechanistic.native import build, cache
        from mechanistic.native.program import Program
        cache._surroundings = lambda: b"here"
        forward = build.build_forward(Program.of(RateField(library.two_compartment_oral())))
        assert all(forward.address(name) for name in ("prepare", "tsit5_run"))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert all(addresses())
    assert not compiled
