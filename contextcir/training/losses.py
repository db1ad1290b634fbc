"""The two losses of ConText-CIR as pure functions of tensors (section 3.3 of the paper).

`contrastive_loss` is the paper's L_cont: every query against all targets of the global batch and, as in MagicLens,
against its own reference image. `concept_consistency_loss` is L_cc: the attention map of a noun phrase inside the
whole text (`a`) must not exceed the map of the same phrase read by itself (`b`). Both compute in float32 whatever the
autocast. Gathering over processes is the caller's business; `offset` says where its rows lie among the gathered ones.

The paper leaves open how `a` and `b` are scaled: here both are distributions over the image tokens, so that with slack
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
    offset: int = 0,
) -> Tensor:
    """Temperature-scaled cross entropy of each query over the targets of the global batch and its query-image
    negatives.

    Args:
        query_embeds (`torch.Tensor` of shape `(batch_size, dim)`):
            L2-normalised queries of this process, `f(I_q, T)`.
        target_embeds (`torch.Tensor` of shape `(global_batch_size, dim)`):
            L2-normalised targets of all processes, `f(I_t, "")`; query `i` belongs to row `offset + i`.
        reference_embeds (`torch.Tensor` of shape `(batch_size, dim)`, or `(global_batch_size, dim)` with `"all"`):
            L2-normalised reference images, `f(I_q, "")`. Unused with `"none"`.
        logit_scale (`torch.Tensor` or `float`):
            `1 / tau`.
        query_negatives (`"own"`, `"all"` or `"none"`):
            Whether a query has its own reference image (the paper), every reference image of the global batch, or
            none as a further negative.
        target_keys (`torch.Tensor` of shape `(batch_size,)`, *optional*):
            Integer keys of the queries' target images. With them, images that are a query's own target leave its
            negatives, wherever they stand.
        all_target_keys (`torch.Tensor` of shape `(global_batch_size,)`, *optional*, defaults to `target_keys`):
            Keys of the rows of `target_embeds`.
        reference_keys (`torch.Tensor`, *optional*):
            Keys of the rows of `reference_embeds`.
        offset (`int`, defaults to 0):
            Number of rows that lower ranks contributed to `target_embeds`.

    Returns:
        `torch.Tensor`: 0-dim, the mean over this process's queries.

    Raises:
        ValueError: for an unknown `query_negatives`, or an `offset` that leaves the targets.
    """
    if query_negatives not in get_args(QueryNegatives):
        raise ValueError(f"query_negatives must be one of {get_args(QueryNegatives)}, got {query_negatives!r}.")
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
        if query_negatives != "none":
            reference_embeds = _float(reference_embeds)
            if query_negatives == "own":
                negatives = logit_scale * (query_embeds * reference_embeds).sum(-1, keepdim=True)  # (batch_size, 1)
            else:
                negatives = logit_scale * query_embeds @ reference_embeds.T  # (batch_size, global_batch_size)
            if target_keys is not None and reference_keys is not None:
                same = target_keys[:, None] == (
                    reference_keys[:, None] if query_negatives == "own" else reference_keys
                )
                negatives = negatives.masked_fill(same, -torch.inf)
            scores = torch.cat([scores, negatives], dim=1)
        return torch.nn.functional.cross_entropy(scores, labels)


class ConceptConsistency(NamedTuple):
    """What [`concept_consistency_loss`] returns; all 0-dim, all but `loss` detached and for logging only.

    Attributes:
        loss: L_cc, in [0, number of noun phrases of a text]; unbounded in the contrastive form.
        num_concepts: noun phrases in the batch.
        context_entropy: mean entropy of the in-context maps, in nats (uniform maps: log of the number of image
            tokens). NaN without phrases.
        isolated_entropy: the same of the isolated maps.
        map_diversity: mean total variation distance between the in-context maps of two phrases of one text, in
            [0, 1]. Near 0 the maps ignore the text, which also makes the loss small. NaN where no
            text has two phrases.
    """

    loss: Tensor
    num_concepts: Tensor
    context_entropy: Tensor
    isolated_entropy: Tensor
    map_diversity: Tensor


def concept_divergences(
    context_attentions: Tensor, isolated_attentions: Tensor, *, slack: float = 0.0, form: ConceptForm = "excess"
) -> Tensor:
    """How far each noun phrase's map in context is from its map in isolation.

    Args:
        context_attentions (`torch.Tensor` of shape `(num_phrases, num_image_tokens)`): `a`, distributions.
        isolated_attentions (`torch.Tensor` of shape `(num_phrases, num_image_tokens)`): `b`, distributions.
        slack (`float`, defaults to 0.0): the paper's epsilon, allowed for each image token.
        form (`"excess"` or `"absolute"`): `sum ReLU(a - b - slack)` as in the paper, or
            `sum ReLU(|a - b| - slack) / 2`. The half makes both the total variation distance when the slack is 0.

    Returns:
        `torch.Tensor` of shape `(num_phrases,)`: in [0, 1].
    """
    if form not in ("excess", "absolute"):
        raise ValueError(f"form must be 'excess' or 'absolute', got {form!r}.")
    difference = _float(context_attentions) - _float(isolated_attentions)
    if form == "absolute":
        return 0.5 * torch.relu(difference.abs() - slack).sum(-1)
    return torch.relu(difference - slack).sum(-1)


def concept_confusions(
    context_attentions: Tensor, isolated_attentions: Tensor, phrase_sample: Tensor, phrase_token_mask: Tensor
) -> Tensor:
    """How hard it is to tell, by the map in context, which phrase of its text a noun phrase is.

    [`concept_divergences`] are least where all maps are one and the same whatever the text; these are not.

    Args:
        context_attentions (`torch.Tensor` of shape `(num_phrases, num_image_tokens)`): `a`, distributions.
        isolated_attentions (`torch.Tensor` of shape `(num_phrases, num_image_tokens)`): `b`, distributions.
        phrase_sample (`torch.Tensor` of shape `(num_phrases,)`): the row of the batch that each phrase belongs to.
        phrase_token_mask (`torch.Tensor` of shape `(num_phrases, length)`): the tokens of each phrase in that row.
            Phrases that share a token, one inside the other, are not told apart.

    Returns:
        `torch.Tensor` of shape `(num_phrases,)`: the cross entropy, in nats, of picking a phrase's own `b` by its
        total variation distance from `a`, over 0.1; 0 for a phrase that has nothing to be confused with.
    """
    context, isolated, tokens = _float(context_attentions), _float(isolated_attentions), phrase_token_mask.float()
    told_apart = (phrase_sample[:, None] == phrase_sample[None]) & (tokens @ tokens.T == 0)
    told_apart.fill_diagonal_(True)
    scores = -0.5 * torch.cdist(context, isolated, p=1) / CONTRASTIVE_TEMPERATURE  # (num_phrases, num_phrases)
    labels = torch.arange(len(scores), device=scores.device)
    return torch.nn.functional.cross_entropy(scores.masked_fill(~told_apart, -torch.inf), labels, reduction="none")


def concept_losses(
    context_attentions: Tensor,
    isolated_attentions: Tensor,
    phrase_sample: Tensor,
    phrase_token_mask: Tensor | None = None,
    *,
    slack: float = 0.0,
    form: ConceptForm = "excess",
) -> Tensor:
    """What each noun phrase adds to L_cc, `(num_phrases,)`: [`concept_divergences`], or with `"contrastive"` (which
    needs the token mask, and knows no slack) [`concept_confusions`]. Their arguments."""
    if form not in get_args(ConceptForm):
        raise ValueError(f"form must be one of {get_args(ConceptForm)}, got {form!r}.")
    if form == "contrastive":
        return concept_confusions(context_attentions, isolated_attentions, phrase_sample, phrase_token_mask)
    return concept_divergences(context_attentions, isolated_attentions, slack=slack, form=form)


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
    """L_cc: summed over the phrases of a text, averaged over the batch, texts without a phrase included.

    Args:
        context_attentions (`torch.Tensor` of shape `(num_phrases, num_image_tokens)`): see [`concept_divergences`].
        isolated_attentions (`torch.Tensor` of shape `(num_phrases, num_image_tokens)`): see [`concept_divergences`].
        phrase_sample (`torch.Tensor` of shape `(num_phrases,)`): the row of the batch that each phrase belongs to.
        batch_size (`int`): rows in the batch.
        phrase_token_mask (`torch.Tensor` of shape `(num_phrases, length)`, *optional*): see [`concept_confusions`].
        slack (`float`, defaults to 0.0): see [`concept_divergences`].
        form (`"excess"`, `"absolute"` or `"contrastive"`): see [`concept_losses`].

    Returns:
        [`ConceptConsistency`]: the loss, and what to log beside it.
    """
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


def _float(value: Tensor) -> Tensor:
    """Float32, or float64 where a caller computes in it."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
