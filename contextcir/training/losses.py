"""The two losses of ConText-CIR as pure functions of tensors (section 3.3 of the paper).

`contrastive_loss` is the paper's L_cont: each query against all targets of the global batch and, as in MagicLens, its
own reference image. `concept_consistency_loss` is L_cc: the attention map of a noun phrase inside the whole text (`a`)
must not exceed the map of the isolated phrase (`b`). Both compute in float32 whatever the autocast. The caller gathers
over processes; `offset` is the place of its rows among the gathered ones.

The paper leaves open how `a` and `b` are scaled. Here both are distributions over the image tokens, so that with slack
0 the sum of ReLU(a - b) is their total variation distance, in [0, 1] at any resolution.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

QueryNegatives = Literal["own", "all", "none"]
ConceptForm = Literal["excess", "absolute", "contrastive"]
CONTRASTIVE_TEMPERATURE = 0.1  # of total variation distances, which are in [0, 1]


def contrastive_loss(
    query_embeds: Tensor,
    target_embeds: Tensor,
    reference_embeds: Tensor | None,
    logit_scale: Tensor | float,
    *,
    query_negatives: QueryNegatives = "own",
    target_keys: Tensor | None = None,
    all_target_keys: Tensor | None = None,
    reference_keys: Tensor | None = None,
    negative_embeds: Tensor | None = None,
    negative_keys: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """
    Compute the temperature-scaled cross entropy of each query over the targets of the global batch, its query-image
    negatives, and mined negatives.

    Args:
        query_embeds (`torch.Tensor` of shape `(batch_size, dim)`): L2-normalised queries of this process, `f(I_q, T)`.
        target_embeds (`torch.Tensor` of shape `(global_batch_size, dim)`): L2-normalised targets of all processes,
            `f(I_t, "")`; query `i` belongs to row `offset + i`.
        reference_embeds (`torch.Tensor` of shape `(batch_size, dim)`, or `(global_batch_size, dim)` with `"all"`):
            L2-normalised reference images, `f(I_q, "")`. Unused with `"none"`.
        logit_scale (`torch.Tensor` or `float`): `1 / tau`.
        query_negatives (`"own"`, `"all"` or `"none"`): Further negatives of a query: its own reference image (the
            paper), every reference image of the global batch, or none.
        target_keys (`torch.Tensor` of shape `(batch_size,)`, *optional*): Integer keys of the queries' target images.
            With them, other rows that show a query's own target are not among its negatives.
        all_target_keys (`torch.Tensor` of shape `(global_batch_size,)`, *optional*): Keys of the rows of
            `target_embeds`; by default `target_keys`.
        reference_keys (`torch.Tensor`, *optional*): Keys of the rows of `reference_embeds`.
        negative_embeds (`torch.Tensor` of shape `(num_negatives, dim)`, *optional*): L2-normalised mined negatives of
            all processes. As in DPR (Karpukhin et al., 2020), those of one query are negatives of all.
        negative_keys (`torch.Tensor` of shape `(num_negatives,)`, *optional*): Keys of their images. An image counts
            once, and not if it is a target of the batch: that is a negative of the other queries anyway. So is
            `all_target_keys` needed with them, whatever `target_keys` is.
        offset (`int`, defaults to 0): Number of rows of `target_embeds` from lower ranks.

    Returns:
        `torch.Tensor`: 0-dim, the mean over this process's queries.

    Raises:
        ValueError: `query_negatives` is unknown or lacks `reference_embeds`, or `offset` exceeds the targets.
    """
    if query_negatives not in get_args(QueryNegatives):
        raise ValueError(f"query_negatives must be one of {get_args(QueryNegatives)}, got {query_negatives!r}.")
    if query_negatives != "none" and reference_embeds is None:
        raise ValueError(f"query_negatives={query_negatives!r} needs reference_embeds, got None.")
    batch_size = query_embeds.shape[0]
    if not 0 <= offset <= target_embeds.shape[0] - batch_size:
        raise ValueError(f"{batch_size} queries at offset {offset} do not fit into {target_embeds.shape[0]} targets.")

    with torch.autocast(query_embeds.device.type, enabled=False):
        query_embeds, target_embeds = _float(query_embeds), _float(target_embeds)
        labels = torch.arange(offset, offset + batch_size, device=query_embeds.device)
        # Scaled before masking: the gradient of the scale is a sum over scores, and 0 * inf is NaN.
        scores = logit_scale * query_embeds @ target_embeds.T  # (batch_size, global_batch_size)
        if target_keys is not None:
            repeated = target_keys[:, None] == (target_keys if all_target_keys is None else all_target_keys)[None]
            repeated[torch.arange(batch_size, device=repeated.device), labels] = False
            scores = scores.masked_fill(repeated, -torch.inf)
        if reference_embeds is not None and query_negatives != "none":
            references, own = _float(reference_embeds), query_negatives == "own"
            if own:
                negatives = logit_scale * (query_embeds * references).sum(-1, keepdim=True)  # (batch_size, 1)
            else:
                negatives = logit_scale * query_embeds @ references.T  # (batch_size, global_batch_size)
            if target_keys is not None and reference_keys is not None:
                same = target_keys[:, None] == (reference_keys[:, None] if own else reference_keys)
                negatives = negatives.masked_fill(same, -torch.inf)
            scores = torch.cat([scores, negatives], dim=1)
        if negative_embeds is not None:
            if negative_keys is None or all_target_keys is None:
                raise ValueError("negative_embeds need negative_keys and all_target_keys.")
            negatives = logit_scale * query_embeds @ _float(negative_embeds).T  # (batch_size, num_negatives)
            uncounted = _repeated(negative_keys) | torch.isin(negative_keys, all_target_keys)
            scores = torch.cat([scores, negatives.masked_fill(uncounted, -torch.inf)], dim=1)
        return torch.nn.functional.cross_entropy(scores, labels)


def concept_losses(
    context_attentions: Tensor,
    isolated_attentions: Tensor,
    phrase_sample: Tensor | None = None,
    phrase_token_mask: Tensor | None = None,
    *,
    slack: float = 0.0,
    form: ConceptForm = "excess",
) -> Tensor:
    """
    Compute the part of each noun phrase in L_cc.

    Args:
        context_attentions (`torch.Tensor` of shape `(num_phrases, num_image_tokens)`): `a`, distributions.
        isolated_attentions (`torch.Tensor` of shape `(num_phrases, num_image_tokens)`): `b`, distributions.
        phrase_sample (`torch.Tensor` of shape `(num_phrases,)`): Row of the batch of each phrase. Used by
            `"contrastive"` only, as `phrase_token_mask`.
        phrase_token_mask (`torch.Tensor` of shape `(num_phrases, length)`): Tokens of each phrase in that row. Phrases
            that share a token, one inside the other, are not compared.
        slack (`float`, defaults to 0.0): The paper's epsilon, allowed for each image token. Unused by `"contrastive"`.
        form (`"excess"`, `"absolute"` or `"contrastive"`): `sum ReLU(a - b - slack)` as in the paper;
            `sum ReLU(|a - b| - slack) / 2`, where the half makes both the total variation distance if the slack is 0;
            or the cross entropy, in nats, of choosing a phrase's own `b` among those of its text, by their total
            variation distance from its `a`, over 0.1. The first two are smallest where all maps are the same whatever
            the text; the last is not.

    Returns:
        `torch.Tensor` of shape `(num_phrases,)`: In [0, 1]; with `"contrastive"` 0 for a phrase without others.

    Raises:
        ValueError: `form` is unknown, or `"contrastive"` lacks its tensors.
    """
    context, isolated = _float(context_attentions), _float(isolated_attentions)
    if form == "excess":
        return torch.relu(context - isolated - slack).sum(-1)
    if form == "absolute":
        return 0.5 * torch.relu((context - isolated).abs() - slack).sum(-1)
    if form != "contrastive" or phrase_sample is None or phrase_token_mask is None:
        forms = f"{get_args(ConceptForm)}, the last with phrase_sample and phrase_token_mask"
        raise ValueError(f"form must be one of {forms}, got {form!r}.")
    tokens = phrase_token_mask.float()
    compared = (phrase_sample[:, None] == phrase_sample[None]) & (tokens @ tokens.T == 0)
    compared.fill_diagonal_(True)
    scores = -0.5 * torch.cdist(context, isolated, p=1) / CONTRASTIVE_TEMPERATURE  # (num_phrases, num_phrases)
    labels = torch.arange(len(scores), device=scores.device)
    return torch.nn.functional.cross_entropy(scores.masked_fill(~compared, -torch.inf), labels, reduction="none")


class ConceptConsistency(NamedTuple):
    """
    Result of [`concept_consistency_loss`]. All are 0-dim; all but `loss` are detached and for logging only.

    Attributes:
        loss: L_cc, in [0, number of noun phrases of a text]; unbounded in the contrastive form.
        num_concepts: Number of noun phrases in the batch.
        context_entropy: Mean entropy of the in-context maps, in nats (uniform maps: log of the number of image
            tokens). NaN without phrases.
        isolated_entropy: The same of the isolated maps.
        map_diversity: Mean total variation distance between the in-context maps of two phrases of one text, in [0, 1].
            Near 0 the maps ignore the text, which also makes the loss small. NaN if no text has two phrases.
    """

    loss: Tensor
    num_concepts: Tensor
    context_entropy: Tensor
    isolated_entropy: Tensor
    map_diversity: Tensor


def concept_consistency_loss(
    context_attentions: Tensor,
    isolated_attentions: Tensor,
    phrase_sample: Tensor,
    batch_size: int,
    phrase_token_mask: Tensor | None = None,
    *,
    slack: float = 0.0,
    form: ConceptForm = "excess",
) -> ConceptConsistency:
    """Compute L_cc, summed over the phrases of a text and averaged over the `batch_size` texts, those without a phrase
    included. Other arguments as for [`concept_losses`]."""
    phrases = (context_attentions, isolated_attentions, phrase_sample, phrase_token_mask)
    loss = concept_losses(*phrases, slack=slack, form=form).sum() / batch_size
    with torch.no_grad():
        context, isolated = _float(context_attentions), _float(isolated_attentions)
        same_text = phrase_sample[:, None] == phrase_sample[None]
        first, second = same_text.triu(diagonal=1).nonzero(as_tuple=True)
        return ConceptConsistency(
            loss=loss,
            num_concepts=torch.tensor(len(context), device=loss.device),
            context_entropy=torch.special.entr(context).sum(-1).mean(),
            isolated_entropy=torch.special.entr(isolated).sum(-1).mean(),
            map_diversity=0.5 * (context[first] - context[second]).abs().sum(-1).mean(),
        )


def grounding_loss(context_attentions: Tensor, phrase_maps: Tensor, batch_size: int) -> Tensor:
    """
    Compute the divergence of the maps of noun phrases from given ones, `KL(given || map)` in nats, weighted by how far
    the given ones are trusted, summed over the phrases of a text and averaged over texts. Not of the paper: its loss
    takes the place of the given map from the model itself.

    Args:
        context_attentions (`torch.Tensor` of shape `(num_phrases, num_patches)`): Maps in context, each a distribution
            over the patches of the reference image.
        phrase_maps (`torch.Tensor` of shape `(num_phrases, num_patches)`): Where the phrases are in these images. A
            map sums to how far it is trusted, in [0, 1]: 0 where nothing is known.
        batch_size (`int`): Number of texts, those without a phrase included.

    Returns:
        `torch.Tensor`: 0-dim.

    Raises:
        ValueError: The maps have another number of patches than the model.
    """
    if not len(phrase_maps):
        return context_attentions.sum()  # zero, as a part of the graph
    if context_attentions.shape != phrase_maps.shape:
        raise ValueError(
            f"The maps of noun phrases are {tuple(phrase_maps.shape)} (phrases, patches), those of the model"
            f" {tuple(context_attentions.shape)}. Make them with this model's CLIP: `contextcir ground`."
        )
    context, given = _float(context_attentions), _float(phrase_maps)
    trust = given.sum(dim=-1, keepdim=True)
    # A patch that gets no attention at all still has a gradient.
    divergence = torch.xlogy(given, given / trust.clamp(min=1e-12)) - given * (context + 1e-6).log()
    return divergence.sum() / batch_size


def _repeated(keys: Tensor) -> Tensor:
    """Return which keys `(num_keys,)` an earlier one equals."""
    ordered, order = keys.sort(stable=True)
    repeated = torch.zeros_like(keys, dtype=torch.bool)
    repeated[order[1:]] = ordered[1:] == ordered[:-1]
    return repeated


def _float(value: Tensor) -> Tensor:
    """Convert to float32, unless the caller computes in float64."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
