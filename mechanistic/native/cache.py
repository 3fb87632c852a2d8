"""Machine code on disk, so that what one process compiled another loads.

A key is a digest of all that the code follows from: the contents of the program, the source files that write kernels,
the versions of LLVM, and the processor. It works without a folder, or with one that cannot be written.
"""

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import final

import llvmlite
from llvmlite import binding as llvm

from mechanistic.compile.tape import Tape
from mechanistic.folders import cache_folder

FORMAT = b"kinetwin code 1\n"
CHECKSUM = 32
LIMIT = 256 * 2**20
"""Bytes of all entries together; those used longest ago leave."""

SOURCES = ("native", "compile", "solve")
"""Packages whose files decide what kernels do."""

SETTLED = 60.0
"""Seconds since the last change of a source file: what this process has read may be older than a file changed later."""

_STARTED = time.time()


@final
@dataclass(frozen=True, slots=True)
class Store:
    """A folder of entries, each a file of this user; several processes may use it at once.

    Attributes:
        folder: made when something is written first, for this user alone.
        limit: bytes of all entries together.
    """

    folder: Path
    limit: int = LIMIT

    def read(self, key: str) -> bytes | None:
        """What was written under a key; None where there is nothing, or nothing sound."""
        path = self.folder / key
        try:
            entry = self._opened(path)
        except OSError:
            return None
        body = entry[len(FORMAT) + CHECKSUM :]
        if entry[: len(FORMAT) + CHECKSUM] != _header(key, body):
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        return body

    def write(self, key: str, body: bytes) -> None:
        """Keeps something under a key, if that is possible."""
        if len(body) + len(FORMAT) + CHECKSUM > self.limit:
            return
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_private(self.folder.lstat()):
                return
            descriptor, name = tempfile.mkstemp(dir=self.folder)
            try:
                with open(descriptor, "wb") as file:
                    file.write(_header(key, body) + body)
                os.replace(name, self.folder / key)
            except BaseException:
                with suppress(OSError):
                    os.unlink(name)
                raise
            self._trim()

    def _opened(self, path: Path) -> bytes:
        """The bytes of a file that nobody else can have written.

        Raises:
            OSError: there is none.
        """
        if not _is_private(self.folder.lstat()):
            raise PermissionError(f"{self.folder} can be written by others")
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or not _is_private(status) or status.st_size > self.limit:
                raise PermissionError(f"{path} is not an entry of this user")
            return file.read(self.limit)

    def _trim(self) -> None:
        """Removes the entries used longest ago until the others fit."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    found.append((status.st_mtime_ns, status.st_size, entry.path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit:
                break
            with suppress(OSError):
                os.unlink(path)
            total -= size


def _header(key: str, body: bytes) -> bytes:
    return FORMAT + blake2b(key.encode() + b"\n" + body, digest_size=CHECKSUM).digest()


def _is_private(status: os.stat_result) -> bool:
    """Whether something belongs to this user and nobody else may write it."""
    user = getattr(os, "geteuid", lambda: status.st_uid)()
    return status.st_uid == user and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def store() -> Store | None:
    """Where machine code is kept; None where that is switched off or the user has no folder for it."""
    if os.environ.get("KINETWIN_CODE_CACHE", "").lower() in {"off", "0", "no"}:
        return None
    try:
        return Store(cache_folder() / "code")
    except RuntimeError:
        return None


def key_of(*parts: object) -> str | None:
    """The key of what follows from `parts`, with these sources on this processor; None where the sources are not known.

    Parts are numbers, texts, tapes, tuples and dataclasses of them.

    Raises:
        TypeError: something is of another type.
    """
    surroundings = _surroundings()
    if surroundings is None:
        return None
    digest = blake2b(surroundings, digest_size=24)
    for text in _contents(parts):
        digest.update(text.encode())
    return digest.hexdigest()


def _contents(value: object) -> Iterator[str]:
    """A text that no other value has, in pieces."""
    if isinstance(value, Tape):
        rows = (f"{i.operation} {i.arguments} {i.value.hex()}" for i in value.instructions)
        yield f"tape {value.slots} {value.outputs} {len(value.instructions)} {';'.join(rows)}\n"
    elif isinstance(value, bool | int | float | str) or value is None:
        yield f"{type(value).__name__} {value!r}\n"
    elif isinstance(value, tuple):
        yield f"tuple {len(value)}\n"
        for part in value:
            yield from _contents(part)
    elif is_dataclass(value) and not isinstance(value, type):
        yield f"{type(value).__qualname__} {len(fields(value))}\n"
        for field in fields(value):
            yield f"{field.name}\n"
            yield from _contents(getattr(value, field.name))
    else:
        raise TypeError(f"compiled code cannot be kept by a value of type `{type(value).__name__}`")


@lru_cache(maxsize=1)
def _surroundings() -> bytes | None:
    """A digest of what machine code follows from besides its program; None where that is not known."""
    features = sorted(llvm.get_host_cpu_features().items())
    processor = f"{llvm.get_process_triple()} {llvm.get_host_cpu_name()} {features}"
    digest = blake2b(f"{llvmlite.__version__} {llvm.llvm_version_info} {processor}".encode(), digest_size=32)
    root = Path(__file__).parents[1]
    paths = sorted(path for package in SOURCES for path in (root / package).rglob("*.py"))
    try:
        for path in paths:
            if path.stat().st_mtime > _STARTED - SETTLED:
                return None
            text = path.read_bytes()
            digest.update(f"{path.relative_to(root)} {len(text)}\n".encode() + text)
    except OSError:
        return None
    return digest.digest() if paths else None
