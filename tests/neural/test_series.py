import pytest
import torch

from neural import NeuralError, Series, StepInputs

NAN = torch.nan


def tensor(rows: object) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def example() -> Series:
    times = tensor([[0.0, 1.0, 4.0], [2.0, 3.0, NAN]])
    values = tensor([[[1.0], [NAN], [3.0]], [[4.0], [5.0], [NAN]]])
    inputs = StepInputs(tensor([[0.0, 2.0], [1.0, NAN]]), tensor([[[1.0], [2.0]], [[7.0], [NAN]]]))
    return Series.from_values(times, values, tensor([[0.1], [0.2]]), inputs)


def test_inputs_are_constant_between_their_times_and_change_at_them():
    inputs = example().inputs
    times = tensor([[-1.0, 0.0, 1.9, 2.0, 9.0], [0.0, 1.0, 1.5, 2.0, 9.0]])
    assert inputs.at(times)[..., 0].tolist() == [[0.0, 1.0, 1.0, 2.0, 2.0], [0.0, 7.0, 7.0, 7.0, 7.0]]


def test_nan_means_not_observed():
    series = example()
    assert series.mask[..., 0].tolist() == [[True, False, True], [True, True, False]]
    assert series.count.tolist() == [2, 2]
    assert series.seen.tolist() == [[True, False, True], [True, True, False]]


def test_until_and_after_part_the_observations():
    series = example()
    for time in (2.0, tensor([0.5, 2.5])):
        before, after = series.until(time), series.after(time)
        assert not bool((before.mask & after.mask).any())
        assert torch.equal(before.mask | after.mask, series.mask)
    assert series.until(tensor([0.5, 2.5])).count.tolist() == [1, 1]


def test_rows_and_batch_axes():
    series = example()
    one = series.select(torch.tensor([1]))
    assert one.context.tolist() == [[0.2]]
    assert one.inputs.values[0, 0].tolist() == [7.0]
    alone = Series(series.times[0], series.values[0], series.mask[0])
    assert alone.batch_shape == ()
    assert alone.flat().batch_shape == (1,)
    deep = Series(series.times[None], series.values[None], series.mask[None], series.context[None])
    assert deep.flat().batch_shape == (2,)
    assert torch.equal(deep.flat().mask, series.mask)


def test_a_series_with_many_faults_names_them_all():
    with pytest.raises(NeuralError) as caught:
        Series(torch.zeros(2, 3), torch.zeros(2, 4, 1), torch.zeros(2, 4, 1), torch.zeros(5, 1), StepInputs(*zeros(4)))
    assert len(caught.value.problems) == 4
    times = tensor([[1.0, 0.0, NAN]])
    values = tensor([[[1.0], [torch.inf], [2.0]]])
    with pytest.raises(NeuralError) as caught:
        Series(times, values, torch.ones_like(values, dtype=torch.bool), tensor([[NAN]]))
    assert [problem.split(" ")[0] for problem in caught.value.problems] == ["`times`", "`times`", "1", "`context`"]
    assert "sort each row" in caught.value.problems[1]


def zeros(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(batch, 2), torch.zeros(batch, 2, 1)


def test_integers_are_refused_with_advice():
    with pytest.raises(NeuralError, match=r"use .double\(\)"):
        Series(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, 1), torch.ones(1, 2, 1, dtype=torch.bool))


def test_faults_of_inputs():
    with pytest.raises(NeuralError) as caught:
        StepInputs(tensor([[NAN, 1.0, 0.5]]), tensor([[[1.0], [NAN], [1.0]]]))
    assert len(caught.value.problems) == 3
    with pytest.raises(NeuralError, match="expected `times`"):
        StepInputs(torch.zeros(2), torch.zeros(2))
