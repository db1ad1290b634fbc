"""Closed forms of the losses."""

import math

import pytest
import torch
import torch.nn.functional as F

from contextcir.training.losses import concept_consistency_loss, concept_losses, contrastive_loss


def embeds(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def one_hot(*hot, dim=12):
    return F.one_hot(torch.tensor(hot), dim).double()


@pytest.mark.parametrize("query_negatives, terms", [("none", 5), ("own", 6), ("all", 10)])
def test_zero_scores_give_the_log_of_the_number_of_terms(query_negatives, terms):
    queries, others = one_hot(0, 1, 2, 3, 4), one_hot(5, 6, 7, 8, 9)
    loss = contrastive_loss(queries, others, others, 17.0, query_negatives=query_negatives)
    assert loss.item() == pytest.approx(math.log(terms))


def test_matches_the_equation_of_the_paper():
    query, target, reference = embeds(4, 7, seed=1), embeds(4, 7, seed=2), embeds(4, 7, seed=3)
    tau, expected = 0.3, 0.0
    for n in range(4):
        own = math.exp(float(query[n] @ reference[n]) / tau)
        expected -= math.log(
            math.exp(float(query[n] @ target[n]) / tau)
            / (own + sum(math.exp(float(query[n] @ target[i]) / tau) for i in range(4)))
        )
    assert contrastive_loss(query, target, reference, 1 / tau).item() == pytest.approx(expected / 4, rel=1e-12)


def test_a_perfect_query_has_no_loss_at_low_temperature():
    assert contrastive_loss(one_hot(0, 1), one_hot(0, 1), one_hot(2, 3), 100.0).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("query_negatives", ["own", "all", "none"])
def test_two_ranks_by_offset_equal_one_large_batch(query_negatives):
    query, target, reference = embeds(8, 5, seed=1), embeds(8, 5, seed=2), embeds(8, 5, seed=3)
    keys, reference_keys = torch.tensor([1, 2, 1, 3, 4, 1, 3, 5]), torch.tensor([9, 9, 8, 3, 1, 2, 2, 2])
    whole = contrastive_loss(
        query, target, reference, 3.0, query_negatives=query_negatives, target_keys=keys, reference_keys=reference_keys
    )
    parts = []
    for offset in (0, 4):
        rank = slice(offset, offset + 4)
        parts.append(
            contrastive_loss(
                query[rank],
                target,
                reference if query_negatives == "all" else reference[rank],
                3.0,
                query_negatives=query_negatives,
                target_keys=keys[rank],
                all_target_keys=keys,
                reference_keys=reference_keys if query_negatives == "all" else reference_keys[rank],
                offset=offset,
            )
        )
    assert parts[0] != parts[1]
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item(), rel=1e-12)


def test_other_rows_with_the_same_target_are_no_negatives():
    query, target = embeds(3, 6, seed=1), embeds(3, 6, seed=2)
    masked = contrastive_loss(query, target, None, 2.0, query_negatives="none", target_keys=torch.tensor([7, 7, 9]))
    scores = 2.0 * query @ target.T
    expected = -torch.stack(
        [
            scores[0, 0] - scores[0, [0, 2]].logsumexp(0),
            scores[1, 1] - scores[1, [1, 2]].logsumexp(0),
            scores[2, 2] - scores[2].logsumexp(0),
        ]
    ).mean()
    assert masked.item() == pytest.approx(expected.item(), rel=1e-12)
    assert masked < contrastive_loss(query, target, None, 2.0, query_negatives="none")


def test_references_that_are_the_own_target_are_no_negatives():
    query, target, reference = embeds(2, 6, seed=1), embeds(2, 6, seed=2), embeds(2, 6, seed=3)
    loss = contrastive_loss(
        query,
        target,
        reference,
        2.0,
        query_negatives="all",
        target_keys=torch.tensor([1, 2]),
        reference_keys=torch.tensor([2, 3]),
    )
    scores, negatives = 2.0 * query @ target.T, 2.0 * query @ reference.T
    expected = -torch.stack(
        [
            scores[0, 0] - torch.cat([scores[0], negatives[0]]).logsumexp(0),
            scores[1, 1] - torch.cat([scores[1], negatives[1, 1:]]).logsumexp(0),
        ]
    ).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_gradients_are_finite_with_masked_entries():
    query, scale = embeds(2, 6, seed=1).requires_grad_(), torch.tensor(2.0, requires_grad=True)
    keys = {"target_keys": torch.tensor([1, 1]), "reference_keys": torch.tensor([1, 3])}
    mined = {"negative_embeds": embeds(2, 6, seed=5), "negative_keys": torch.tensor([1, 9])}
    keys |= {"all_target_keys": keys["target_keys"], **mined}
    contrastive_loss(query, embeds(2, 6, seed=2), embeds(2, 6), scale, **keys).backward()
    for gradient in (query.grad, scale.grad):
        assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_mined_negatives_count_once_and_not_if_they_are_targets():
    queries, targets, negatives = one_hot(0, 1, 2), one_hot(3, 4, 5), one_hot(6, 7, 8, 9)
    keys = {"target_keys": torch.tensor([1, 2, 3]), "all_target_keys": torch.tensor([1, 2, 3])}
    for negative_keys, terms in (([4, 5, 6, 7], 7), ([4, 4, 5, 4], 5), ([1, 2, 3, 3], 3), ([3, 4, 3, 4], 4)):
        mined = {"negative_embeds": negatives, "negative_keys": torch.tensor(negative_keys)}
        loss = contrastive_loss(queries, targets, None, 7.0, query_negatives="none", **keys, **mined)
        assert loss.item() == pytest.approx(math.log(terms)), negative_keys


def test_mined_negatives_are_negatives_of_all_queries():
    query, target, mined = embeds(3, 6, seed=1), embeds(3, 6, seed=2), embeds(2, 6, seed=3)
    keys = torch.tensor([1, 2, 3])
    loss = contrastive_loss(
        *(query, target, None, 2.0),
        query_negatives="none",
        all_target_keys=keys,
        negative_embeds=mined,
        negative_keys=torch.tensor([8, 9]),
    )
    scores = 2.0 * query @ torch.cat([target, mined]).T
    assert loss.item() == pytest.approx(F.cross_entropy(scores, torch.arange(3)).item(), rel=1e-12)
    with pytest.raises(ValueError, match="negative_keys.*all_target_keys"):
        contrastive_loss(query, target, None, 2.0, query_negatives="none", negative_embeds=mined)


def test_two_ranks_with_mined_negatives_equal_one_large_batch():
    query, target, reference = embeds(6, 5, seed=1), embeds(6, 5, seed=2), embeds(6, 5, seed=3)
    shared = {"all_target_keys": torch.tensor([1, 2, 1, 3, 4, 5])}
    shared |= {"negative_embeds": embeds(6, 5, seed=4), "negative_keys": torch.tensor([7, 8, 3, 8, 9, 1])}
    whole = contrastive_loss(query, target, reference, 3.0, target_keys=shared["all_target_keys"], **shared)
    parts = []
    for offset in (0, 3):
        rank = slice(offset, offset + 3)
        own = {"target_keys": shared["all_target_keys"][rank], "offset": offset}
        parts.append(contrastive_loss(query[rank], target, reference[rank], 3.0, **own, **shared))
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item(), rel=1e-12)


def test_half_precision_and_autocast_are_computed_in_float32():
    query, target, reference = (embeds(6, 16, seed=seed).bfloat16() for seed in (1, 2, 3))
    maps = [torch.rand(3, 9).bfloat16() for _ in range(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = contrastive_loss(query, target, reference, torch.tensor(50.0))
        consistency = concept_consistency_loss(*maps, torch.tensor([0, 0, 1]), 2)
    assert loss.dtype == consistency.loss.dtype == torch.float32
    assert loss.item() == pytest.approx(
        contrastive_loss(query.double(), target.double(), reference.double(), 50.0).item(), rel=1e-5
    )


def test_arguments_that_do_not_fit_are_refused():
    pair, maps = embeds(2, 3), embeds(2, 3)
    for arguments, message in (
        ({"query_negatives": "others"}, "own.*all.*none.*'others'"),
        ({"query_negatives": "all"}, "'all'.*reference_embeds"),
        ({"query_negatives": "none", "offset": 1}, r"\b2\b.*\b1\b.*\b2\b"),
        ({"query_negatives": "none", "offset": -1}, r"\b2\b.*-1\b.*\b2\b"),
    ):
        with pytest.raises(ValueError, match=message):
            contrastive_loss(pair, pair, None, 1.0, **arguments)
    with pytest.raises(ValueError, match="excess.*absolute.*contrastive.*'squared'"):
        concept_losses(maps, maps, form="squared")
    with pytest.raises(ValueError, match="phrase_sample.*phrase_token_mask"):
        concept_losses(maps, maps, torch.zeros(2), form="contrastive")


@pytest.mark.parametrize("form", ["excess", "absolute"])
def test_the_loss_is_zero_for_equal_maps_and_one_for_disjoint_maps(form):
    maps = torch.rand(3, 9).softmax(-1)
    assert concept_losses(maps, maps, form=form).tolist() == [0, 0, 0]
    assert concept_losses(one_hot(0, 1), one_hot(2, 3), form=form).tolist() == [1, 1]


def test_excess_and_absolute_agree_without_slack_and_differ_with_it():
    context, isolated = torch.tensor([[0.7, 0.1, 0.2]]), torch.tensor([[0.4, 0.3, 0.3]])
    for form in ("excess", "absolute"):
        assert concept_losses(context, isolated, form=form).item() == pytest.approx(0.3)
    assert concept_losses(context, isolated, slack=0.15).item() == pytest.approx(0.15)
    assert concept_losses(context, isolated, slack=0.15, form="absolute").item() == pytest.approx(0.1)


def test_concepts_are_summed_over_a_text_and_averaged_over_the_whole_batch():
    context, isolated = one_hot(0, 1, 2), one_hot(3, 1, 4)
    result = concept_consistency_loss(context, isolated, torch.tensor([0, 0, 2]), batch_size=4)
    assert result.loss.item() == pytest.approx((1 + 0 + 1) / 4)
    assert result.num_concepts.item() == 3


def test_entropies_and_diversity_of_known_maps():
    uniform, peak = torch.full((8,), 1 / 8), F.one_hot(torch.tensor(3), 8).float()
    result = concept_consistency_loss(
        torch.stack([uniform, peak, peak]), torch.stack([peak, peak, peak]), torch.tensor([0, 0, 1]), 2
    )
    assert result.context_entropy.item() == pytest.approx(math.log(8) / 3)
    assert result.isolated_entropy.item() == 0
    assert result.map_diversity.item() == pytest.approx(7 / 8)  # one pair: the two phrases of text 0
    assert not any(value.requires_grad for value in result[1:])


def test_the_loss_without_phrases_is_zero_and_has_a_gradient():
    context = torch.zeros(0, 9, requires_grad=True)
    result = concept_consistency_loss(context, torch.zeros(0, 9), torch.zeros(0, dtype=torch.long), 5)
    result.loss.backward()
    assert result.loss.item() == 0 and result.num_concepts.item() == 0
    assert result.context_entropy.isnan() and result.map_diversity.isnan()


def test_the_contrastive_form_by_definition():
    # Two texts: one with three phrases, the second inside the first, and one with a single phrase.
    context, isolated = one_hot(0, 0, 4, 7), one_hot(0, 1, 4, 9)
    sample = torch.tensor([0, 0, 0, 1])
    tokens = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]).bool()
    found = concept_losses(context, isolated, sample, tokens, form="contrastive")
    # Phrase 0 is compared with 2, at distances 0 and 1; 1 with 2, both at 1; 2 with both, at 0, 1 and 1.
    expected = [math.log1p(math.exp(-10)), math.log(2), math.log1p(2 * math.exp(-10)), 0.0]
    assert found.tolist() == pytest.approx(expected)


def test_the_contrastive_form_is_not_smallest_where_maps_ignore_the_text():
    same = torch.full((3, 12), 1 / 12, dtype=torch.float64)
    apart, sample, tokens = one_hot(0, 4, 8), torch.zeros(3, dtype=torch.long), torch.eye(3).bool()
    for form in ("excess", "absolute"):
        assert concept_losses(same, same, sample, form=form).sum() == 0
        assert concept_losses(apart, apart, sample, form=form).sum() == 0
    assert concept_losses(apart, apart, sample, tokens, form="contrastive").sum() < 0.001
    loss = concept_consistency_loss(same, same, sample, 2, tokens, form="contrastive").loss
    assert loss.item() == pytest.approx(3 * math.log(3) / 2)


def test_the_contrastive_form_has_a_gradient_and_works_without_phrases():
    context = torch.softmax(torch.randn(3, 12, generator=torch.Generator().manual_seed(0)), -1).requires_grad_()
    isolated = torch.softmax(torch.randn(3, 12, generator=torch.Generator().manual_seed(1)), -1)
    sample, tokens = torch.zeros(3, dtype=torch.long), torch.eye(3).bool()
    concept_losses(context, isolated, sample, tokens, form="contrastive").sum().backward()
    assert torch.isfinite(context.grad).all() and (context.grad.abs().sum(-1) > 0).all()
    nothing = context.detach()[:0]
    assert concept_consistency_loss(nothing, nothing, sample[:0], 5, tokens[:0], form="contrastive").loss.item() == 0
