"""Ids of a file for names of a model."""

import re
from collections.abc import Collection, Iterable
from typing import final

from mechanistic.sbml.mathematics import FUNCTION_PREFIX

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = {"time", "avogadro", "delay", "rateof", "pi", "exponentiale", "true", "false", "infinity", "notanumber"}


@final
class Identifiers:
    """Ids for names: the name itself where it is allowed.

    Attributes:
        used: the ids that were given.

    Args:
        names: those that ids will be wanted for; no other name gets one of them as its id.
        reserved: words that are no ids, besides those of SBML.
    """

    def __init__(self, names: Iterable[str], reserved: Collection[str] = ()) -> None:
        self._reserved = frozenset(reserved)
        self._taken = {name for name in names if self._allowed(name)}
        self.used: set[str] = set()

    def give(self, name: str) -> str:
        """A new id that is `name` or resembles it."""
        if self._allowed(name) and name not in self.used:
            identity = name
        else:
            plain = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "x"
            plain = plain if _IDENTIFIER.fullmatch(plain) else f"_{plain}"
            identity, count = (plain if self._allowed(plain) else f"{plain}_"), 2
            while identity in self._taken or identity in self.used:
                identity, count = f"{plain}_{count}", count + 1
        self.used.add(identity)
        return identity

    def _allowed(self, name: str) -> bool:
        word = name.lower() in _RESERVED or name in self._reserved
        return bool(_IDENTIFIER.fullmatch(name)) and not word and not name.startswith(FUNCTION_PREFIX)
