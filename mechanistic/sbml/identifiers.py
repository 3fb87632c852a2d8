"""Ids of a file for names of a model."""

import re
from collections.abc import Iterable
from typing import final

from mechanistic.sbml.mathematics import FUNCTION_PREFIX

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = {"time", "avogadro", "delay", "rateof", "pi", "exponentiale", "true", "false", "infinity", "notanumber"}


@final
class Identifiers:
    """Ids for names: the name itself where SBML allows it."""

    def __init__(self, names: Iterable[str]) -> None:
        self._taken = {name for name in names if _allowed(name)}
        self._used: set[str] = set()

    def give(self, name: str) -> str:
        """A new id that is `name` or resembles it."""
        if _allowed(name) and name not in self._used:
            identity = name
        else:
            plain = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "x"
            plain = plain if _IDENTIFIER.fullmatch(plain) else f"_{plain}"
            identity, count = (plain if _allowed(plain) else f"{plain}_"), 2
            while identity in self._taken or identity in self._used:
                identity, count = f"{plain}_{count}", count + 1
        self._used.add(identity)
        return identity


def _allowed(name: str) -> bool:
    return bool(_IDENTIFIER.fullmatch(name)) and name.lower() not in _RESERVED and not name.startswith(FUNCTION_PREFIX)
