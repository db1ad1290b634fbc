"""Vectors whose order is known."""

import torch

DIM = 16
ROUNDING = 1e-3  # of float16


def unit(rows: int, seed: int = 0, dim: int = DIM) -> torch.Tensor:
    """Random unit vectors, `(rows, dim)`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, dim, generator=generator), dim=1)


def ladder(query: torch.Tensor, scores, seed: int = 1) -> torch.Tensor:
    """Unit vectors whose dot products with `query`, `(dim,)`, are `scores`: `(len(scores), dim)`."""
    scores = torch.tensor(scores)[:, None]
    other = unit(len(scores), seed, len(query))
    other = torch.nn.functional.normalize(other - (other @ query)[:, None] * query, dim=1)
    return scores * query + (1 - scores**2).sqrt() * other


def ids_of(found) -> list[list[str]]:
    return [[id_ for id_, _ in some] for some in found]


QUERY = unit(1)
SCORES = [0.95 - 0.012 * row for row in range(70)]  # far enough apart for float16
IDS = [f"image {row * 37 % 70:02d}" for row in range(70)]
VECTORS = ladder(QUERY[0], SCORES)
FACTS = {
    "colour": [("red", "blue", None, "Green", 7)[row % 5] for row in range(70)],
    "price": [None if row % 7 == 3 else row / 10 for row in range(70)],
    "new": [row % 2 == 0 for row in range(70)],
    "unknown": [None] * 70,
}
