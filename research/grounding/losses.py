"""Losses on attention maps that are tried on scenes: the true masks, and what may stand in for them.

All are functions of tensors. None of them is part of the library: what wins becomes an option of it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def mask_loss(maps: Tensor, coverage: Tensor, batch_size: int) -> Tensor:
    """
    Compute the divergence of maps from true masks, in nats, summed over the phrases of a text: the upper bound of what
    grounding may bring.

    Args:
        maps (`torch.Tensor` of shape `(num_phrases, num_patches)`): Distributions.
        coverage (`torch.Tensor` of shape `(num_phrases, num_patches)`): The part of each patch that is covered.
            Phrases that cover nothing do not count.
        batch_size (`int`): Number of texts, over which the mean is taken.
    """
    named = coverage.sum(1) > 0
    true = coverage[named] / coverage[named].sum(1, keepdim=True)
    return F.kl_div((maps[named] + 1e-6).log(), true, reduction="sum") / batch_size


def phrase_contrast(
    scores: Tensor, sample: Tensor, reference_index: Tensor, target_index: Tensor, family: Tensor
) -> Tensor:
    """
    Compute the cross entropy, in nats, of finding the triplet of a noun phrase by the patches of its two images. What
    a text names is in its reference or in its target image (contrastive phrase grounding, Gupta et al., ECCV 2020).

    Args:
        scores (`torch.Tensor` of shape `(num_phrases, num_images, num_patches)`): What becomes attention.
        sample (`torch.Tensor` of shape `(num_phrases,)`): The triplet of each phrase.
        reference_index (`torch.Tensor` of shape `(batch_size,)`): The reference image of each triplet.
        target_index (`torch.Tensor` of shape `(batch_size,)`): Its target image.
        family (`torch.Tensor` of shape `(batch_size,)`): Triplets of one family show almost the same, and are no
            negatives of each other.
    """
    whole = scores.logsumexp(-1)  # (num_phrases, num_images)
    pairs = torch.logaddexp(whole[:, reference_index], whole[:, target_index])  # (num_phrases, batch_size)
    related = family[sample][:, None] == family[None]
    related[torch.arange(len(sample)), sample] = False
    return F.cross_entropy(pairs.masked_fill(related, -torch.inf), sample)
