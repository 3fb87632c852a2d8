"""What tests of simulations share."""

from collections.abc import Iterator

import pytest

import mechanistic as mech
from mechanistic import prepared
from mechanistic.solve.engine import AbstractEngine


@pytest.fixture(scope="module", params=[mech.Native(fall_back=True), mech.Torch()], ids=["native", "torch"])
def both_engines(request: pytest.FixtureRequest) -> Iterator[AbstractEngine]:
    """Runs a module with compiled code where there is some, and once more with PyTorch alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "DEFAULT", request.param)
        yield request.param
