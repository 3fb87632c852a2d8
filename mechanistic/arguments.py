"""Arguments of a simulation, by name or as tensors, brought to the shape, dtype and device of a system."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mechanistic.errors import nearest


def filled(
    given: Tensor | Mapping[str, Any] | None, default: Tensor, names: Sequence[str], kind: str, problems: list[str]
) -> Tensor:
    """`default` with the named columns replaced, or a full tensor checked for its width, `(*batch, name)`.

    What does not fit (an unknown name, a shape) is added to the problems, and `default` stands in its place.
    """
    if given is None:
        return default
    if not isinstance(given, Mapping):
        values = converted(given, default)
        if values.shape[-1:] != default.shape[-1:]:
            expected = f"`(*batch, {len(names)})`: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
            problems.append(f"{kind}s have the shape {tuple(values.shape)}, expected {expected}")
            return default
        return values
    problems += [f"`{name}` is not a {kind}{nearest(name, names)}" for name in given if name not in names]
    columns = {name: converted(value, default) for name, value in given.items() if name in names}
    try:
        batch = broadcast(default.shape[:-1], *(value.shape for value in columns.values()))
    except ValueError:
        shapes = ", ".join(f"`{name}` {tuple(value.shape)}" for name, value in columns.items())
        problems.append(f"the batches of the {kind}s do not fit each other: {shapes}")
        return default
    wide = default.expand(*batch, len(names))
    return (
        torch.stack([columns[n].expand(batch) if n in columns else wide[..., i] for i, n in enumerate(names)], dim=-1)
        if names
        else wide
    )


def converted(value: Any, like: Tensor) -> Tensor:
    """`value` as a tensor of the dtype and on the device of `like`; a tensor keeps its graph."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def broadcast(*shapes: torch.Size) -> torch.Size:
    """The shape that all broadcast to; the function of PyTorch imports symbolic shapes first, which takes 40 ms.

    Raises:
        ValueError: there is none.
    """
    return torch.Size(np.broadcast_shapes(*shapes))


def common_batch(problems: list[str], **shapes: torch.Size) -> torch.Size:
    """The batch that all batches broadcast to; one that does not fit is added to the problems."""
    try:
        return broadcast(*shapes.values())
    except ValueError:
        problems.append("batches do not fit each other: " + ", ".join(f"`{k}` {tuple(v)}" for k, v in shapes.items()))
        return torch.Size()
