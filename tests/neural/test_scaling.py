import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from neural import Compression, FixedScaling, NeuralError

COMPRESSIONS = tuple(Compression)


def tensor(*rows: object) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@given(x=arrays.arrays("float64", (5, 2), elements=st.floats(-1e6, 1e6)))
def test_inverse_undoes_the_scaling(compression, x):
    scaling = FixedScaling(tensor(3.0, -1.0), tensor(0.1, 20.0), compression)
    values = torch.from_numpy(x)
    # asinh and sinh lose a few roundings relative to the largest intermediate, here 1e7.
    torch.testing.assert_close(scaling.inverse(scaling(values)), values, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_slope_at_the_shift_is_one_over_scale_and_the_log_derivative_is_exact(compression):
    scaling = FixedScaling(tensor(2.0), tensor(4.0), compression)
    x = torch.tensor([[2.0], [-7.0], [50.0]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(scaling(x).sum(), x)
    assert slope[0].item() == 0.25
    torch.testing.assert_close(scaling.log_derivative(x), slope.log(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compression_is_odd_and_increasing(compression):
    scaling = FixedScaling(tensor(0.0), tensor(1.0), compression)
    x = torch.linspace(-50, 50, 1001, dtype=torch.float64)[:, None]
    torch.testing.assert_close(scaling(x), -scaling(-x), rtol=0, atol=0)
    assert bool((scaling(x).diff(dim=0) > 0).all())


def test_from_data_standardises_what_is_observed_and_ignores_the_rest():
    values = torch.randn(40, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5 + 11
    mask = torch.rand(values.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    spoiled = torch.where(mask, values, torch.nan)
    scaling = FixedScaling.from_data(spoiled, mask)
    for channel in range(3):
        scaled = scaling(values)[..., channel][mask[..., channel]]
        # Mean and standard deviation of 170 numbers: a few roundings.
        assert abs(scaled.mean().item()) < 1e-13
        assert scaled.std(correction=0).item() == pytest.approx(1.0, abs=1e-13)
    assert scaling.to_config() == FixedScaling.from_data(spoiled).to_config()


def test_from_data_of_unseen_and_constant_channels():
    values = tensor([torch.nan, 5.0, 0.0, 1e8], [torch.nan, 5.0, 0.0, 1e8])
    scaling = FixedScaling.from_data(values)
    assert scaling.shift.tolist() == [0.0, 5.0, 0.0, 1e8]
    assert scaling.scale.tolist() == [1.0, 5.0, 1.0, 1e8]


def test_a_compression_counts_from_zero():
    scaling = FixedScaling.from_data(tensor([1.0], [-3.0], [8.0]), compression=Compression.ASINH)
    assert (scaling.shift.item(), scaling.scale.item()) == (0.0, 4.0)


def test_nothing_is_learned_and_the_weights_file_carries_the_scales():
    scaling = FixedScaling(tensor(1.0, 2.0), tensor(3.0, 4.0))
    assert list(scaling.parameters()) == []
    other = FixedScaling(tensor(0.0, 0.0), tensor(1.0, 1.0))
    other.load_state_dict(scaling.state_dict())
    assert other.to_config() == scaling.to_config()


@given(st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=4), st.sampled_from(COMPRESSIONS))
def test_json_round_trip_is_exact(scale, compression):
    scaling = FixedScaling(-tensor(*scale), tensor(*scale), compression)
    config = json.loads(json.dumps(scaling.to_config()))
    again = FixedScaling.from_config(config)
    assert torch.equal(again.scale, scaling.scale)
    assert torch.equal(again.shift, scaling.shift)
    assert again.compression is compression


def test_errors_list_every_problem():
    with pytest.raises(NeuralError) as caught:
        FixedScaling(tensor(torch.inf), tensor(0.0, 1.0), "asinh")
    assert len(caught.value.problems) == 4
    with pytest.raises(NeuralError, match=r"1 observed values are not finite, the first at \[1, 0\]"):
        FixedScaling.from_data(tensor([1.0], [torch.inf]))
    with pytest.raises(NeuralError, match=r"expected 2 channels last, got x.shape=torch.Size\(\[3\]\)"):
        FixedScaling(tensor(0.0, 0.0), tensor(1.0, 1.0))(torch.zeros(3))
    with pytest.raises(NeuralError) as caught:
        FixedScaling.from_config({"shift": "[0]", "scale": [1.0], "compression": "cube"})
    assert len(caught.value.problems) == 2
    with pytest.raises(NeuralError, match="'scale' is missing"):
        FixedScaling.from_config({"shift": [0.0], "compression": "none"})
