import math

import pytest
import torch

from neural import Direction, NeuralError, RecurrentEncoder

DIRECTIONS = tuple(Direction)

# The same operations on the same numbers, up to the order of summation in a matrix product.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def example(subjects: int = 4, steps: int = 7, channels: int = 2, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    times = torch.rand(subjects, steps, generator=generator, dtype=torch.float64).mul(8).sort(-1).values
    values = torch.randn(subjects, steps, channels, generator=generator, dtype=torch.float64)
    mask = torch.rand(values.shape, generator=generator) < 0.7
    mask[:, 0] = True
    return times, values, mask


def encoder(direction: Direction = Direction.BACKWARD, channels: int = 2) -> RecurrentEncoder:
    return RecurrentEncoder(channels, 3, 8, direction=direction, time_scale=1.3, seed=1)


def assert_same(one, other):
    torch.testing.assert_close(one.mean, other.mean, **CLOSE)
    torch.testing.assert_close(one.log_scale, other.log_scale, **CLOSE)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("origin", [None, "outside"])
def test_steps_without_observation_change_nothing(direction, origin):
    times, values, mask = example()
    origin = origin and (-1.0 if direction is Direction.BACKWARD else 9.0)
    found = encoder(direction)(times, values, mask, origin)
    nan = torch.full_like(values[:, :2], math.nan)
    none = torch.zeros_like(mask[:, :2])
    for place in (0, 3, times.shape[1]):  # before, between and after
        longer = (
            torch.cat([times[:, :place], nan[..., 0], times[:, place:]], 1),
            torch.cat([values[:, :place], nan, values[:, place:]], 1),
            torch.cat([mask[:, :place], none, mask[:, place:]], 1),
        )
        assert_same(encoder(direction)(*longer, origin), found)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_masked_values_change_nothing_and_give_no_nan_gradient(direction):
    times, values, mask = example()
    model = encoder(direction)
    spoiled = torch.where(mask, values, math.nan).requires_grad_()
    found = model(times, spoiled, mask)
    assert_same(found, model(times, torch.where(mask, values, 1e9), mask))
    (found.mean.sum() + found.log_scale.sum()).backward()
    assert torch.equal(spoiled.grad[~mask], torch.zeros_like(spoiled.grad[~mask]))
    assert bool((spoiled.grad[mask] != 0).all())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_times_of_padding_give_no_nan_gradient(direction):
    times, values, mask = example()
    mask[:, 5:], times[:, 5:] = False, math.nan
    times.requires_grad_()
    encoder(direction)(times, values, mask, -1.0 if direction is Direction.BACKWARD else 9.0).mean.sum().backward()
    assert torch.equal(times.grad[:, 5:], torch.zeros(4, 2, dtype=torch.float64))
    assert bool((times.grad[:, :5][mask[:, :5].any(-1)] != 0).all())


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("origin", [None, 0.0])
def test_only_differences_of_times_matter(direction, origin):
    times, values, mask = example()
    origin = origin if direction is Direction.BACKWARD else origin and 9.0
    moved = None if origin is None else origin + 16.0
    # 16 is a power of two above all times: the shifted times carry a rounding of 2e-15.
    assert_same(encoder(direction)(times, values, mask, origin), encoder(direction)(times + 16.0, values, mask, moved))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_subject_alone_is_as_in_a_batch(direction):
    times, values, mask = example()
    whole = encoder(direction)(times, values, mask, torch.tensor([0.0, -1.0, 0.0, -2.0], dtype=torch.float64))
    alone = encoder(direction)(times[1], values[1], mask[1], -1.0)
    assert alone.mean.shape == (3,)
    torch.testing.assert_close(alone.mean, whole.mean[1], **CLOSE)
    deep = encoder(direction)(times[None], values[None], mask[None], -1.0)
    torch.testing.assert_close(deep.mean[0, 1], whole.mean[1], **CLOSE)


def test_backward_is_forward_on_reversed_time():
    times, values, mask = example()
    backward = encoder(Direction.BACKWARD)(times, values, mask, -0.5)
    reversed_series = (-times.flip(-1), values.flip(-2), mask.flip(-2))
    assert_same(encoder(Direction.FORWARD)(*reversed_series, 0.5), backward)


def test_between_observations_the_state_follows_a_linear_equation():
    model = encoder()
    gaps = torch.tensor([0.3, 1.1, 1.4], dtype=torch.float64)
    real, imaginary = model._turns(gaps)
    turn = torch.complex(real, imaginary)
    # exp(a λ) exp(b λ) = exp((a + b) λ), in a few roundings.
    torch.testing.assert_close(turn[0] * turn[1], turn[2], rtol=1e-14, atol=1e-14)
    assert bool((turn.abs() < 1).all())


def test_observed_values_and_gaps_matter():
    times, values, mask = example()
    found = encoder()(times, values, mask).mean
    assert bool((encoder()(times, values + 0.1, mask).mean != found).any(-1).all())
    assert bool((encoder()(times * 1.1, values, mask).mean != found).any(-1).all())
    assert bool((encoder()(times, values, mask, -1.0).mean != found).any(-1).all())


def test_per_channel_gaps_count_from_the_last_sight_of_the_channel():
    times = torch.tensor([0.0, 1.0, 3.0, 3.5], dtype=torch.float64)
    mask = torch.tensor([[True, False], [True, False], [False, True], [True, True]])
    values = torch.zeros(4, 2, dtype=torch.float64)
    model = RecurrentEncoder(2, 1, 2, direction=Direction.FORWARD)
    seen = []
    original = torch.nn.functional.linear

    def spy(features, weight, bias):
        if features.shape[-1] == 6:
            seen.append(features)
        return original(features, weight, bias)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", spy)
        model(times, values, mask)
    # Channel 0 was seen at 0, 1 and 3.5, channel 1 at 3 and 3.5; until its first sight the record's begin counts.
    expected = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 3.0], [2.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(seen[0][:, 4:].expm1(), expected, rtol=1e-14, atol=1e-14)


def test_an_empty_record_has_a_finite_posterior_and_gradient():
    times, values, mask = example()
    model = encoder()
    mask[2] = False
    times[2], values[2] = math.nan, math.nan
    found = model(times, values, mask, 0.0)
    found.mean.sum().backward()
    assert bool(found.mean.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_gradient_against_finite_differences():
    times, values, mask = example(2, 4)
    model = encoder()
    parameters = dict(model.named_parameters())

    def of(values, times, *weights):
        given = dict(zip(parameters, weights, strict=True))
        found = torch.func.functional_call(model, given, (times, values, mask, -0.5))
        return found.mean, found.log_scale

    arguments = (values.requires_grad_(), times.requires_grad_(), *parameters.values())
    # Central differences of step 1e-6 in float64 against gradcheck's default tolerances.
    assert torch.autograd.gradcheck(of, arguments, fast_mode=True)


def test_seed_decides_and_global_random_numbers_are_untouched():
    before = torch.get_rng_state()
    one, same = encoder(), encoder()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))


def test_errors_list_every_problem():
    with pytest.raises(NeuralError) as caught:
        RecurrentEncoder(0, 1, 3, direction="backward", time_scale=0.0)
    assert len(caught.value.problems) == 4
    times, values, mask = example()
    with pytest.raises(NeuralError) as caught:
        encoder(channels=3)(times, values, mask[0].double())
    assert len(caught.value.problems) == 2
