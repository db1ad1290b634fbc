"""Exact search: every query against every gallery row, in blocks, keeping a running top k.

Memory is bounded by the blocks and not by the gallery, which may lie on disk. Of equal scores the lower gallery index
comes first (`torch.topk` by itself leaves their order open).
"""

import numpy as np
import torch

QUERY_BLOCK_SIZE = 1024


@torch.no_grad()
def search(
    query_embeds: torch.Tensor,
    gallery_embeds: torch.Tensor | np.ndarray,
    k: int,
    *,
    exclude: torch.Tensor | None = None,
    block_size: int = 16_384,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Find the `k` gallery rows with the highest dot product for each query, in float32, exactly.

    Args:
        query_embeds (`torch.Tensor` of shape `(num_queries, dim)`, or `(num_queries, parts, dim)`):
            The queries, or parts of them whose scores are multiplied ([`similarity`]); their device does the work.
        gallery_embeds (`torch.Tensor` or `np.ndarray` of shape `(gallery_size, dim)`):
            The gallery, on any device, of any float type, or a `np.memmap`.
        k (`int`): How many to return.
        exclude (`torch.Tensor` of shape `(num_queries,)`, *optional*):
            One gallery index to leave out for each query, -1 for none.
        block_size (`int`, *optional*, defaults to 16,384):
            Gallery rows scored at a time. With 1,024 queries at a time, a block of scores takes 64 MB.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Scores (float32) and gallery indices (int64), both of shape
        `(num_queries, min(k, gallery_size))`, by falling score and, where scores are equal, rising index. A place that
        nothing is left for (the gallery holds `k` rows and one is excluded) has score `-inf` and index -1.

    Raises:
        `ValueError`: Shapes do not fit, `exclude` is out of range, or an embedding is not finite (its row is named).
    """
    num_queries, gallery_size = len(query_embeds), len(gallery_embeds)
    _check(query_embeds, gallery_embeds, k, exclude, block_size)
    device = query_embeds.device
    query_embeds = query_embeds.float()
    _check_finite(query_embeds, "query_embeds", 0)
    exclude = torch.full((num_queries,), -1) if exclude is None else exclude
    exclude = exclude.to(device)

    scores = torch.empty(num_queries, 0, device=device)
    indices = torch.empty(num_queries, 0, dtype=torch.long, device=device)
    for start in range(0, gallery_size, block_size):
        block = _as_tensor(gallery_embeds[start : start + block_size]).to(device, torch.float32)  # (block, dim)
        _check_finite(block, "gallery_embeds", start)
        found = [
            _search_block(queries, block, k, left_out - start)
            for queries, left_out in zip(
                query_embeds.split(QUERY_BLOCK_SIZE), exclude.split(QUERY_BLOCK_SIZE), strict=True
            )
        ]
        # What was found before stands first and has the lower indices, so a stable sort keeps the tie rule.
        scores = torch.cat([scores, torch.cat([values for values, _ in found])], dim=1)  # (num_queries, at most 2k)
        indices = torch.cat([indices, torch.cat([places for _, places in found]) + start], dim=1)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        scores, indices = scores[:, :k], indices.gather(1, order[:, :k])
    return scores, indices.masked_fill(scores == -torch.inf, -1)


@torch.no_grad()
def ranks(
    query_embeds: torch.Tensor,
    gallery_embeds: torch.Tensor | np.ndarray,
    wanted: torch.Tensor,
    *,
    exclude: torch.Tensor | None = None,
    block_size: int = 16_384,
) -> torch.Tensor:
    """
    Find where one gallery row stands in each query's ranking, without ranking the others.

    Args:
        query_embeds (`torch.Tensor`): As for [`search`].
        gallery_embeds (`torch.Tensor` or `np.ndarray`): As for [`search`].
        wanted (`torch.Tensor` of shape `(num_queries,)`): Index of the row.
        exclude (`torch.Tensor` of shape `(num_queries,)`, *optional*): As for [`search`].
        block_size (`int`, *optional*, defaults to 16,384): Gallery rows scored at a time.

    Returns:
        `torch.Tensor` of shape `(num_queries,)`: How many rows stand above it (int64), by the rule of [`search`].

    Raises:
        `ValueError`: as [`search`], or `wanted` is out of range or excluded.
    """
    _check(query_embeds, gallery_embeds, 1, exclude, block_size)
    if wanted.shape != query_embeds.shape[:1] or not ((0 <= wanted) & (wanted < len(gallery_embeds))).all():
        raise ValueError(f"Got wanted rows outside 0 to {len(gallery_embeds) - 1}, or not one for each query.")
    if exclude is not None and (exclude == wanted).any():
        raise ValueError(f"Query {(exclude == wanted).nonzero()[0].item()}: the row that is wanted is excluded.")
    device, query_embeds = query_embeds.device, query_embeds.float()
    _check_finite(query_embeds, "query_embeds", 0)
    wanted = wanted.to(device)
    exclude = torch.full_like(wanted, -1) if exclude is None else exclude.to(device)
    above = torch.zeros_like(wanted)
    # Twice over the gallery, in the same blocks: products of other shapes may differ in the last bit.
    found = torch.empty(len(wanted), device=device)
    for counting in (False, True):
        for start in range(0, len(gallery_embeds), block_size):
            block = _as_tensor(gallery_embeds[start : start + block_size]).to(device, torch.float32)
            _check_finite(block, "gallery_embeds", start)
            for rows in torch.arange(len(wanted), device=device).split(QUERY_BLOCK_SIZE):
                scores = similarity(query_embeds[rows], block)  # (queries, block)
                place = wanted[rows] - start
                if not counting:
                    inside = ((place >= 0) & (place < len(block))).nonzero().squeeze(1)
                    found[rows[inside]] = scores[inside, place[inside]]
                    continue
                left_out = exclude[rows] - start
                inside = ((left_out >= 0) & (left_out < len(block))).nonzero().squeeze(1)
                scores[inside, left_out[inside]] = -torch.inf
                best = found[rows, None]
                earlier = torch.arange(len(block), device=device) < place[:, None]
                above[rows] += ((scores > best) | ((scores == best) & earlier)).sum(dim=1)
    return above


def similarity(queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """
    Scores of queries and gallery rows.

    Args:
        queries (`torch.Tensor` of shape `(num_queries, dim)`, or `(num_queries, parts, dim)`):
            With parts, the score is the product of the dot products, negative ones counted as 0: two wrongs make no
            right.
        gallery (`torch.Tensor` of shape `(..., size, dim)`): `(size, dim)` for all, or `(num_queries, size, dim)`.

    Returns:
        `torch.Tensor` of shape `(num_queries, size)`
    """
    if queries.ndim == 2:
        return queries @ gallery.T if gallery.ndim == 2 else (gallery @ queries[:, :, None])[:, :, 0]
    return torch.stack([similarity(part, gallery).relu() for part in queries.unbind(1)]).prod(dim=0)


def _search_block(queries: torch.Tensor, block: torch.Tensor, k: int, exclude: torch.Tensor):
    """The top `min(k, block)` of one block, by falling score and rising index: two `(queries, k)` tensors."""
    scores = similarity(queries, block)  # (queries, block)
    inside = ((exclude >= 0) & (exclude < len(block))).nonzero().squeeze(1)
    scores[inside, exclude[inside]] = -torch.inf
    k = min(k, len(block))
    # One more than asked for shows whether equal scores straddle the k-th place.
    values, places = scores.topk(min(k + 1, len(block)), dim=1)
    tied = (values[:, k - 1] == values[:, -1]).nonzero().squeeze(1) if values.shape[1] > k else []
    values, places = values[:, :k], places[:, :k]
    if len(tied):  # rare: duplicates in the gallery. Sort those rows as a whole.
        ordered, order = scores[tied].sort(dim=1, descending=True, stable=True)
        values[tied], places[tied] = ordered[:, :k], order[:, :k]
    places, order = places.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, order)


def _as_tensor(rows: torch.Tensor | np.ndarray) -> torch.Tensor:
    # A memmap opened for reading is not writable, which torch.from_numpy warns of: copy the block.
    return rows if isinstance(rows, torch.Tensor) else torch.from_numpy(np.array(rows))


def _check(query_embeds, gallery_embeds, k: int, exclude, block_size: int) -> None:
    fitting = query_embeds.ndim in (2, 3) and gallery_embeds.ndim == 2
    if not fitting or query_embeds.shape[-1] != gallery_embeds.shape[1]:
        raise ValueError(
            f"Got queries of shape {tuple(query_embeds.shape)} and a gallery of shape {tuple(gallery_embeds.shape)},"
            " expected (num_queries, dim) and (gallery_size, dim)."
        )
    if not len(gallery_embeds):
        raise ValueError("The gallery is empty.")
    if k < 1 or block_size < 1:
        raise ValueError(f"Got k={k} and block_size={block_size}, expected both to be at least 1.")
    if exclude is not None:
        if exclude.shape != query_embeds.shape[:1]:
            raise ValueError(f"Got exclude of shape {tuple(exclude.shape)}, expected ({len(query_embeds)},).")
        if len(exclude) and not (-1 <= exclude.min() and exclude.max() < len(gallery_embeds)):
            raise ValueError(f"Got exclude outside -1 (none) to {len(gallery_embeds) - 1} (the last gallery row).")


def _check_finite(embeds: torch.Tensor, name: str, start: int) -> None:
    if not torch.isfinite(embeds.sum()):  # one cheap pass; a sum may overflow, so look again
        rows = (~torch.isfinite(embeds.flatten(1)).all(dim=1)).nonzero().squeeze(1)
        if len(rows):
            raise ValueError(
                f"{name}[{start + rows[0].item()}] holds NaN or infinity ({len(rows)} such rows in this block)."
                " Check the model's weights and the precision it ran in."
            )
