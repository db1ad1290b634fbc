"""Splits of texts into passes, against all possible splits."""

import itertools

import pytest
import torch

from modeling_contextcir import text_passes


@pytest.mark.parametrize("lengths", [[1], [7, 7, 7], [0, 12, 2, 9, 40, 41, 0], list(range(2, 78)), [0, 0]], ids=str)
@pytest.mark.parametrize("cost", [0, 5, 64, 10**6])
def test_texts_are_split_into_passes_at_the_least_cost(monkeypatch, lengths, cost):
    def price(ends):
        """Cost of passes up to these lengths."""
        texts = [sum(low < length <= high for length in lengths) for low, high in zip([0, *ends], ends, strict=False)]
        return sum(number * end + cost for number, end in zip(texts, ends, strict=True))

    monkeypatch.setitem(text_passes.PASS_COST, "cpu", cost)
    passes = text_passes.split_into_passes(torch.tensor(lengths))
    together = torch.cat([index for index, _ in passes]).tolist() if passes else []
    assert sorted(together) == [i for i, length in enumerate(lengths) if length]
    assert all(max(lengths[i] for i in index) == longest for index, longest in passes)
    distinct = sorted({*lengths} - {0})
    if len(distinct) <= 5 and distinct:
        inner = [ends for n in range(5) for ends in itertools.combinations(distinct[:-1], n)]
        assert price([longest for _, longest in passes]) == min(price([*ends, distinct[-1]]) for ends in inner)


def test_results_of_passes_are_put_together(monkeypatch):
    monkeypatch.setitem(text_passes.PASS_COST, "cpu", 0)
    lengths, seen = torch.tensor([3, 0, 1, 3]), []

    def function(index, longest):
        seen.append(index.tolist())
        return (1.0 + index)[:, None, None].expand(-1, longest, 2)

    whole = text_passes.run_in_passes(function, lengths, 4)
    assert seen == [[2], [0, 3]]
    assert whole[..., 0].tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [3, 0, 0, 0], [4, 4, 4, 0]]
    assert torch.equal(whole[..., 0], whole[..., 1])
