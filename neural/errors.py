"""The exception of `neural`, which lists every problem it found at once."""

from collections.abc import Iterable


class NeuralError(ValueError):
    """An input that cannot be used, with all its problems, shown one a line.

    Attributes:
        problems: the sentences, in the order in which they were found.
    """

    def __init__(self, headline: str, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join([headline, *(f"  - {problem}" for problem in self.problems)]))


def refuse(headline: str, problems: Iterable[str]) -> None:
    """Raises `NeuralError` when there is any problem; returns otherwise."""
    found = tuple(problems)
    if found:
        raise NeuralError(headline, found)


def config_problems(config: object, keys: Iterable[str]) -> list[str]:
    """What is wrong with the shape of a saved description that should be a mapping with exactly these `keys`."""
    expected = set(keys)
    if not isinstance(config, dict):
        return [f"expected a dict with the keys {sorted(expected)}, got {type(config).__name__}"]
    missing, unknown = expected - set(config), set(config) - expected
    problems = [f"the key {key!r} is missing" for key in sorted(missing)]
    return problems + [f"the key {key!r} is not known; remove it" for key in sorted(unknown, key=str)]
