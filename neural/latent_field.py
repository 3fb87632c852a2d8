"""Learned right-hand sides of latent states."""

from typing import final

import torch
from torch import Tensor, nn

from neural.errors import refuse
from neural.networks import MLP, mlp

_DEFAULT_NETWORK = mlp()


@final
class LatentField(nn.Module):
    """`dz/dt = network(z, context) - z / decay_time`.

    With a network that starts at zero (`InitialOutput.ZERO`, the default of `mlp`) the latent state stays where it is,
    or decays to 0 with the time constant `decay_time`: exactly, while the gradient with respect to the weights is not
    zero. The decay keeps trajectories bounded whatever a bounded network learns: in the long run every component obeys
    `|z| <= decay_time * max |network|`.

    Args:
        latent: number of latent states.
        context: number of known features that the network also sees.
        network: description of the network.
        decay_time: time constant of a fixed linear decay towards 0, in the unit of time; None for no decay.
        time_scale: None for dynamics that do not depend on time itself; a number: `t / time_scale` is one more input.
        output_scale: fixed factor of the network, in latent units per unit of time.
        seed: of the private generator of the initial weights.

    Raises:
        NeuralError: lists arguments that cannot be used.
    """

    def __init__(
        self,
        latent: int,
        context: int = 0,
        network: MLP = _DEFAULT_NETWORK,
        *,
        decay_time: float | None = None,
        time_scale: float | None = None,
        output_scale: float | Tensor = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        problems = [] if latent >= 1 else [f"`latent` must be positive, got {latent}"]
        problems += [] if context >= 0 else [f"`context` must not be negative, got {context}"]
        for name, value in {"decay_time": decay_time, "time_scale": time_scale}.items():
            if value is not None and not value > 0:
                problems.append(f"`{name}` must be positive or None, got {value}")
        refuse("the latent field cannot be built:", problems)
        self.latent, self.context = latent, context
        self.decay_time, self.time_scale = decay_time, time_scale
        inputs = latent + context + (time_scale is not None)
        self.network = network.build(inputs, latent, output_scale=output_scale, seed=seed)

    def forward(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The rate of change of the latent state.

        Args:
            t: `(*batch,)` or a shape that broadcasts to it.
            z: `(*batch, latent)`.
            context: `(*batch, context)` or a shape that broadcasts to it; None when the field has none.

        Returns:
            `(*batch, latent)`.

        Raises:
            NeuralError: when the context is missing or not expected.
        """
        parts = [z]
        if (0 if context is None else context.shape[-1]) != self.context:
            got = "none" if context is None else f"{context.shape=}"
            refuse("the latent field cannot be evaluated:", [f"expected {self.context} context features, got {got}"])
        if context is not None:
            parts.append(context.expand(*z.shape[:-1], self.context))
        if self.time_scale is not None:
            parts.append((t / self.time_scale).expand(z.shape[:-1])[..., None])
        rate: Tensor = self.network(torch.cat(parts, -1) if len(parts) > 1 else z)
        return rate if self.decay_time is None else rate - z / self.decay_time
