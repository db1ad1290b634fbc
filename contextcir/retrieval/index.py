"""Exact search: score all gallery rows for each query, block by block, and keep a running top k.

Memory is bounded by the block sizes, and the gallery may be a file on disk. Of equal scores the lower gallery index is
first (`torch.topk` leaves their order undefined).
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch

QUERY_BLOCK_SIZE = 1024
PIECE = 16_384  # gallery rows of a matrix product
CONVERTED = 1024  # of one whose rows are converted to float32. From some MB on, memory is mapped anew: 4 times slower.
SCORES = 2**24  # that are ranked at a time, 64 MB


class Sliced(Protocol):
    """Rows that are read a slice at a time, such as those of a stored gallery: `(gallery_size, dim)`."""

    shape: tuple[int, int]
    ndim: int

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> torch.Tensor: ...

    def gather(self, places: torch.Tensor, /) -> torch.Tensor: ...


Rows = torch.Tensor | np.ndarray | Sliced
Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # as `similarity`


def similarity(queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """
    Compute the scores of gallery rows for queries.

    Args:
        queries (`torch.Tensor` of shape `(num_queries, dim)`, or `(num_queries, parts, dim)`):
            With parts, the score is the product of their dot products; negative similarities are clamped to 0.
        gallery (`torch.Tensor` of shape `(size, dim)`, or `(num_queries, size, dim)`): One for all, or for each query.

    Returns:
        `torch.Tensor` of shape `(num_queries, size)`
    """
    if queries.ndim == 2:
        return queries @ gallery.T if gallery.ndim == 2 else (gallery @ queries[:, :, None])[:, :, 0]
    return torch.stack([similarity(part, gallery).relu() for part in queries.unbind(1)]).prod(dim=0)


@torch.no_grad()
def search(
    query_embeds: torch.Tensor,
    gallery_embeds: Rows,
    k: int,
    *,
    exclude: torch.Tensor | None = None,
    allowed: torch.Tensor | None = None,
    block_size: int | None = None,
    score: Score = similarity,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Find the `k` gallery rows with the highest dot product for each query, in float32, exactly.

    Args:
        query_embeds (`torch.Tensor` of shape `(num_queries, dim)`, or `(num_queries, parts, dim)`):
            Queries, or parts of them whose scores are multiplied ([`similarity`]). The search runs on their device.
        gallery_embeds (`torch.Tensor` or `np.ndarray` of shape `(gallery_size, dim)`):
            The gallery, on any device, of any float type, or a `np.memmap`, or anything [`Sliced`].
        k (`int`): Number of rows to return for each query.
        exclude (`torch.Tensor` of shape `(num_queries,)`, *optional*):
            One gallery index to leave out for each query, or -1.
        allowed (`torch.Tensor` of shape `(gallery_size,)`, *optional*): bool, the rows that may be found.
        block_size (`int`, *optional*): Gallery rows ranked at a time; by default as many as give 64 MB of scores.
        score (`Callable`, *optional*): Another function of queries and gallery rows than [`similarity`].

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Scores (float32) and gallery indices (int64), both of shape
        `(num_queries, min(k, gallery_size))`, by descending score and, for equal scores, ascending index. A place that
        no row is left for (the gallery holds `k` rows and one is excluded) has score `-inf` and index -1.

    Raises:
        `ValueError`: Shapes do not fit, `exclude` is out of range, or an embedding is not finite (its row is named).
    """
    if k < 1:
        raise ValueError(f"Got k={k}, expected at least 1.")
    query_embeds, exclude, block_size = _prepare(query_embeds, gallery_embeds, exclude, block_size)
    if allowed is not None and allowed.shape != (len(gallery_embeds),):
        raise ValueError(f"Got allowed of shape {tuple(allowed.shape)}, expected ({len(gallery_embeds)},).")
    shape = len(query_embeds), min(k, len(gallery_embeds))
    scores = torch.full(shape, -torch.inf, device=query_embeds.device)
    indices = torch.full(shape, -1, device=query_embeds.device)
    for start, rows, block in _score_blocks(query_embeds, gallery_embeds, exclude, block_size, score):
        if allowed is not None:
            block.masked_fill_(~allowed[start : start + block.shape[1]].to(block.device), -torch.inf)
        values, places = _top(block, k)
        # Earlier blocks come first and have lower indices, so a stable sort keeps the order of equal scores.
        merged = torch.cat([scores[rows], values], dim=1)  # (queries, at most 2k)
        merged, order = merged.sort(dim=1, descending=True, stable=True)
        places = torch.cat([indices[rows], places + start], dim=1).gather(1, order)
        scores[rows], indices[rows] = merged[:, : shape[1]], places[:, : shape[1]]
    return scores, indices.masked_fill(scores == -torch.inf, -1)


@torch.no_grad()
def ranks(
    query_embeds: torch.Tensor,
    gallery_embeds: Rows,
    wanted: torch.Tensor,
    *,
    exclude: torch.Tensor | None = None,
    block_size: int | None = None,
    score: Score = similarity,
) -> torch.Tensor:
    """
    Find the rank of one gallery row for each query, without ranking the others. `wanted` of shape `(num_queries,)` has
    the gallery indices; other arguments as for [`search`].

    Returns:
        `torch.Tensor` of shape `(num_queries,)`: Number of rows above it (int64), in the order of [`search`].

    Raises:
        `ValueError`: As for [`search`], or `wanted` is out of range or excluded.
    """
    query_embeds, exclude, block_size = _prepare(query_embeds, gallery_embeds, exclude, block_size)
    _check_rows("wanted", wanted, 0, len(query_embeds), len(gallery_embeds))
    wanted = wanted.to(query_embeds.device)
    if (exclude == wanted).any():
        raise ValueError(f"Query {(exclude == wanted).nonzero()[0].item()}: the wanted row is excluded.")
    found = torch.empty(len(wanted), device=query_embeds.device)
    above = torch.zeros_like(wanted)
    # Both passes use the same blocks: matrix products of other shapes may differ in the last bit.
    for start, rows, block in _score_blocks(query_embeds, gallery_embeds, exclude, block_size, score):
        inside, places = _inside(wanted[rows] - start, block)
        found[rows][inside] = block[inside, places]
    for start, rows, block in _score_blocks(query_embeds, gallery_embeds, exclude, block_size, score):
        best = found[rows, None]
        earlier = torch.arange(block.shape[1], device=block.device) < (wanted[rows] - start)[:, None]
        above[rows] += ((block > best) | ((block == best) & earlier)).sum(dim=1)
    return above


def gather(gallery_embeds: Rows, places: torch.Tensor) -> torch.Tensor:
    """Return the rows at some places: `(*places.shape, dim)`, float32."""
    if isinstance(gallery_embeds, torch.Tensor):
        return gallery_embeds[places.to(gallery_embeds.device)].float()
    if isinstance(gallery_embeds, np.ndarray):
        return torch.from_numpy(gallery_embeds[places.numpy()]).float()
    return gallery_embeds.gather(places)


def nonfinite_row(embeds: torch.Tensor) -> int | None:
    """Return the first row of `embeds` (at least two dimensions) with NaN or infinity; `None` if there is none."""
    if torch.isfinite(embeds.sum()):  # one cheap pass; the sum of finite values may overflow, so look again
        return None
    rows = (~torch.isfinite(embeds.flatten(1)).all(dim=1)).nonzero()
    return int(rows[0].item()) if len(rows) else None


def _prepare(
    query_embeds: torch.Tensor, gallery_embeds: Rows, exclude: torch.Tensor | None, block_size: int | None
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Check the arguments. Return the queries in float32, the excluded indices (-1 for none) on their device, and the
    block size."""
    fitting = query_embeds.ndim in (2, 3) and gallery_embeds.ndim == 2
    if not fitting or query_embeds.shape[-1] != gallery_embeds.shape[1]:
        raise ValueError(
            f"Got queries of shape {tuple(query_embeds.shape)} and a gallery of shape {tuple(gallery_embeds.shape)},"
            " expected (num_queries, dim) and (gallery_size, dim)."
        )
    if not len(gallery_embeds):
        raise ValueError("The gallery is empty: expected at least one row.")
    if block_size is None:
        block_size = max(PIECE, SCORES // max(1, min(len(query_embeds), QUERY_BLOCK_SIZE)))
    if block_size < 1:
        raise ValueError(f"Got block_size={block_size}, expected at least 1.")
    exclude = torch.full(query_embeds.shape[:1], -1) if exclude is None else exclude
    _check_rows("exclude", exclude, -1, len(query_embeds), len(gallery_embeds))
    query_embeds = query_embeds.float()
    _check_finite(query_embeds, "query_embeds")
    return query_embeds, exclude.to(query_embeds.device), block_size


def _check_rows(name: str, rows: torch.Tensor, lowest: int, num_queries: int, gallery_size: int) -> None:
    fitting = rows.shape == (num_queries,)
    if not fitting or (num_queries and not (lowest <= rows.min() and rows.max() < gallery_size)):
        got = f"values from {rows.min()} to {rows.max()}" if fitting else f"shape {tuple(rows.shape)}"
        raise ValueError(
            f"Got {name} with {got}, expected shape ({num_queries},) and values from {lowest} to {gallery_size - 1}."
        )


def _score_blocks(
    query_embeds: torch.Tensor, gallery_embeds: Rows, exclude: torch.Tensor, block_size: int, score: Score
) -> Iterator[tuple[int, slice, torch.Tensor]]:
    """Yield the first gallery index of a block, rows of the queries, and their scores `(queries, block)`, which are
    `-inf` for excluded rows."""
    size = len(gallery_embeds)
    length = PIECE if getattr(gallery_embeds, "dtype", None) == torch.float32 else CONVERTED
    for start in range(0, size, block_size):
        stop = min(start + block_size, size)
        for first in range(0, len(query_embeds), QUERY_BLOCK_SIZE):
            rows = slice(first, first + QUERY_BLOCK_SIZE)
            queries = query_embeds[rows]
            scores = torch.empty(len(queries), stop - start, device=queries.device)
            for at in range(start, stop, length):
                piece = _piece(gallery_embeds, slice(at, min(at + length, stop)), queries.device)
                scores[:, at - start : at - start + len(piece)] = found = score(queries, piece)
                # A bad row shows in its scores, which are fewer than its values. With parts, a clamp may hide it.
                if queries.ndim == 3 or not torch.isfinite(found.sum()):
                    _check_finite(piece, "gallery_embeds", at)
            inside, places = _inside(exclude[rows] - start, scores)
            scores[inside, places] = -torch.inf
            yield start, rows, scores


def _piece(gallery_embeds: Rows, rows: slice, device: torch.device) -> torch.Tensor:
    piece = gallery_embeds[rows]
    if not isinstance(piece, torch.Tensor):
        piece = torch.from_numpy(np.array(piece))  # a copy: torch warns of a memmap that is not writable
    return piece.to(device, torch.float32)  # (rows, dim)


def _inside(places: torch.Tensor, block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one place for each row, select those inside a block of scores: their rows, and the places."""
    inside = ((places >= 0) & (places < block.shape[1])).nonzero().squeeze(1)
    return inside, places[inside]


def _top(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Select the top `min(k, block)` of a block, by descending score and ascending index."""
    k = min(k, scores.shape[1])
    # One more than needed shows whether equal scores cross the k-th place.
    values, places = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    tied = (values[:, k - 1] == values[:, -1]).nonzero().squeeze(1) if values.shape[1] > k else torch.empty(0)
    values, places = values[:, :k], places[:, :k]
    if len(tied):  # rare, such as duplicates in the gallery: sort all scores of these rows
        ordered, order = scores[tied].sort(dim=1, descending=True, stable=True)
        values[tied], places[tied] = ordered[:, :k], order[:, :k]
    places, order = places.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, order)


def _check_finite(embeds: torch.Tensor, name: str, start: int = 0) -> None:
    if (row := nonfinite_row(embeds)) is not None:
        raise ValueError(
            f"{name}[{start + row}] holds NaN or infinity. Check the model's weights and the precision it ran in."
        )
