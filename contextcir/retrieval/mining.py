"""Mine hard negatives: for each triplet, images of a gallery that a model takes for the target, and that are not it.

Negatives are taken from the ranking of the model itself, within bounds on their rank and on their score relative to
the target's ("positive-aware" mining, NV-Retriever, arXiv 2407.15831). What may be a right answer is left out: see
`GUARDS`. Mining, training on what was mined and mining again with the new model is the loop of ReCALL (CVPR 2026,
arXiv 2602.01639), which also lets a multimodal model write new texts for the mined images; that is left out here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import torch
from tqdm.auto import tqdm

from contextcir.data.content import image_digest
from contextcir.data.triplet_images import TripletImages
from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.dense import DenseRetriever, normalize
from contextcir.retrieval.engines.base import VectorIndex
from contextcir.retrieval.engines.exact import ExactIndex
from contextcir.retrieval.index import gather, similarity
from contextcir.retrieval.store.changes import read_shards
from contextcir.retrieval.store.gallery import StoredGallery

BLOCK = 256  # queries whose results are looked at together
GUARDS = {  # reason -> what is left out
    "reference": "is the query's own reference image",
    "target": "has the content or the id of the target",
    "other_target": "is the target of another triplet with this reference image and text",
    "near_duplicate": "is nearly the same as one of these targets, by the model's embeddings",
    "above_target": "scores too far above the target, and may be as right an answer",
    "below_target": "scores too far below the target, and teaches little",
}


@dataclass(frozen=True)
class Bounds:
    """
    Which images become negatives.

    Args:
        number (`int`): Most negatives of a triplet; the best-ranked ones are taken.
        first_rank (`int`): Rank in the search from which images are looked at, 1 for the best.
        last_rank (`int`): Rank up to which they are.
        max_above (`float`): Most by which a score may exceed the target's, as cosine.
        max_below (`float`): Most by which it may fall short of it.
        near_duplicate (`float`): Cosine from which an image counts as the same as a target.
        reference (`bool`): Whether the reference image may be a negative. Training has it as one anyway, unless
            `query_negatives` is `none`.

    Raises:
        ValueError: A number is out of range.
    """

    number: int = 8
    first_rank: int = 1
    last_rank: int = 100
    max_above: float = 0.0
    max_below: float = 2.0
    near_duplicate: float = 0.98
    reference: bool = False

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"Got {self.number} negatives for each triplet, expected at least 1.")
        if not 1 <= self.first_rank <= self.last_rank:
            raise ValueError(
                f"Got ranks {self.first_rank} to {self.last_rank}, expected at least 1, and the smaller one first."
            )
        for name in ("max_above", "max_below", "near_duplicate"):
            if not 0 <= getattr(self, name) <= 2:
                raise ValueError(f"Got {name}={getattr(self, name)}, expected a difference of cosines, from 0 to 2.")


@dataclass
class Mined:
    """
    What was found.

    Attributes:
        negative_ids (`list[list[str]]`): For each triplet, ids of its negatives, the best-ranked first.
        places (`dict[str, int]`): Id of each negative -> its place in the gallery.
        left_out (`dict[str, int]`): Reason of `GUARDS` -> images that were left out for it.
        ranks (`list[int]`): The rank of each negative.
        margins (`list[float]`): The target's score above that of each negative.
    """

    negative_ids: list[list[str]] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GUARDS, 0))
    ranks: list[int] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return the counts, as JSON."""
        found = Counter(map(len, self.negative_ids))
        total = max(1, len(self.ranks))
        return {
            "triplets": len(self.negative_ids),
            "negatives": len(self.ranks),
            "images": len(self.places),
            "triplets_without": found[0],
            "mean_rank": sum(self.ranks) / total,
            "mean_margin": sum(self.margins) / total,
            "above_target": sum(margin < 0 for margin in self.margins),
            "left_out": self.left_out,
        }


def mine(
    triplets: datasets.Dataset,
    retriever: DenseRetriever,
    gallery: Gallery | None = None,
    bounds: Bounds | None = None,
) -> tuple[Mined, Gallery]:
    """
    Mine the negatives of triplets.

    Args:
        triplets (`datasets.Dataset`): As from [`~contextcir.data.triplets.load_triplets`].
        retriever ([`~contextcir.retrieval.dense.DenseRetriever`]): The model.
        gallery ([`Gallery`], *optional*): Where negatives come from, such as a stored gallery, which is searched with
            its index; by default the images of the triplets. An image with the content of one of these has the same id
            as a negative.
        bounds ([`Bounds`], *optional*): Which images become negatives.

    Returns:
        `tuple[Mined, Gallery]`: The negatives, and the gallery that they are in.

    Raises:
        `ImageError`: An image cannot be read.
        `ValueError`: A gallery image has the id of a triplet's image, and another content.
        `StoreError`: The gallery is stored, and was embedded by another model.
    """
    miner = _Miner(triplets, retriever, gallery, bounds or Bounds())
    asked: dict[tuple[str, str], list[int]] = {}  # reference and text -> triplets
    for row, key in enumerate(zip(triplets["reference_id"], triplets["modification_text"], strict=True)):
        asked.setdefault(key, []).append(row)
    keys, groups = list(asked), list(asked.values())
    for start in tqdm(range(0, len(keys), BLOCK), "Mining", unit="block"):
        miner.add(keys[start : start + BLOCK], groups[start : start + BLOCK])
    return miner.mined, miner.gallery


class _Miner:
    """Images, embeddings and contents of triplets and of a gallery, and what has been mined so far."""

    def __init__(self, triplets: datasets.Dataset, retriever: DenseRetriever, gallery: Gallery | None, bounds: Bounds):
        images = TripletImages(triplets)
        self.retriever, self.bounds, self.own = retriever, bounds, Gallery(images.ids, images)
        self.gallery = self.own if gallery is None else gallery
        self.rows = retriever.gallery_embeds(self.gallery)
        self.index: VectorIndex = (
            self.gallery.index if isinstance(self.gallery, StoredGallery) else ExactIndex(self.gallery.ids, self.rows)
        )
        self.contents = dict(zip(self.own.ids, _contents(self.own), strict=True))
        self.gallery_contents = list(self.contents.values()) if gallery is None else _contents(gallery)
        self.names = _names(self.gallery, self.gallery_contents, self.contents)
        self.target_ids = list(triplets["target_id"])
        self.targets, self.target_places = self._embed_targets()
        self.mined = Mined(negative_ids=[[] for _ in self.target_ids])

    def _embed_targets(self) -> tuple[torch.Tensor, dict[str, int]]:
        """Return the embeddings of all targets, `(num_targets, dim)`, and the row of each id. Those that the gallery
        has, by content, are not embedded again."""
        ids = list(dict.fromkeys(self.target_ids))
        stored = {content: place for place, content in enumerate(self.gallery_contents)}
        found = [id_ for id_ in ids if self.contents[id_] in stored]
        others = [id_ for id_ in ids if self.contents[id_] not in stored]
        embeds = [gather(self.rows, torch.tensor([stored[self.contents[id_]] for id_ in found], dtype=torch.long))]
        if others:
            missing = Gallery(others, [self.own.images[self.own.positions[id_]] for id_ in others])
            embeds.append(self.retriever.encode_gallery(missing).cpu())
        return normalize(torch.cat([some.cpu() for some in embeds])), {
            id_: row for row, id_ in enumerate([*found, *others])
        }

    def add(self, keys: Sequence[tuple[str, str]], groups: Sequence[Sequence[int]]) -> None:
        """Mine for queries, given by reference id and text, each of one or more triplets."""
        queries = [Query(str(place), text, reference_id=id_) for place, (id_, text) in enumerate(keys)]
        embeds = self.retriever.encode(queries, self.own).cpu()
        found = self.index.search(embeds, self.bounds.last_rank)
        for (reference_id, _), rows, embed, hits in zip(keys, groups, embeds, found, strict=True):
            # An index that others write to may have images that this gallery does not know.
            ranked = [(id_, score) for id_, score in hits if id_ in self.gallery.positions]
            self._add_query(reference_id, rows, embed, ranked)

    def _add_query(
        self, reference_id: str, rows: Sequence[int], query: torch.Tensor, hits: Sequence[tuple[str, float]]
    ) -> None:
        targets = list(dict.fromkeys(self.target_ids[row] for row in rows))
        embeds = self.targets[[self.target_places[id_] for id_ in targets]]  # (num_targets, dim)
        scores = dict(zip(targets, similarity(query[None], embeds)[0].tolist(), strict=True))
        places = [self.gallery.positions[id_] for id_, _ in hits]
        alike = (normalize(gather(self.rows, torch.tensor(places, dtype=torch.long))).cpu() @ embeds.T).amax(dim=1)
        candidates = list(enumerate(zip(places, (score for _, score in hits), alike.tolist(), strict=True), start=1))
        for row in rows:
            target, chosen = self.target_ids[row], self.mined.negative_ids[row]
            for rank, (place, score, likeness) in candidates[self.bounds.first_rank - 1 :]:
                if len(chosen) == self.bounds.number:
                    break
                margin, name = scores[target] - score, self.names[place]
                if name in chosen:
                    continue
                if reason := self._guard(place, reference_id, target, targets, likeness, margin):
                    self.mined.left_out[reason] += 1
                    continue
                chosen.append(name)
                self.mined.places.setdefault(name, place)
                self.mined.ranks.append(rank)
                self.mined.margins.append(margin)

    def _guard(
        self, place: int, reference_id: str, target: str, targets: Sequence[str], likeness: float, margin: float
    ) -> str | None:
        """Return why an image is no negative, or `None`."""
        name, content = self.names[place], self.gallery_contents[place]

        def shows(id_: str) -> bool:
            return name == id_ or content == self.contents[id_]

        if shows(target):
            return "target"
        if any(map(shows, targets)):
            return "other_target"
        if shows(reference_id):
            return None if self.bounds.reference else "reference"
        if likeness >= self.bounds.near_duplicate:
            return "near_duplicate"
        if -margin > self.bounds.max_above:
            return "above_target"
        return "below_target" if margin > self.bounds.max_below else None


def _contents(gallery: Gallery) -> list[bytes]:
    """Return the digest of each image: those that a stored gallery has, or those of the images."""
    if isinstance(gallery, StoredGallery):
        shards = read_shards(gallery.folder, gallery.manifest)
        known = {
            id_: row.numpy().tobytes() for shard in shards for id_, row in zip(shard.ids, shard.content, strict=True)
        }
        return [known[id_] for id_ in gallery.ids]
    return [image_digest(gallery.images[place]) for place in range(len(gallery))]


def _names(gallery: Gallery, gallery_contents: Sequence[bytes], contents: Mapping[str, bytes]) -> list[str]:
    """Return the id of each gallery image as a negative: that of the triplets' image with the same content, if there
    is one."""
    by_content = {content: id_ for id_, content in contents.items()}
    names = []
    for id_, content in zip(gallery.ids, gallery_contents, strict=True):
        name = id_ if contents.get(id_) == content else by_content.get(content, id_)
        if name == id_ and contents.get(id_, content) != content:
            raise ValueError(
                f"The gallery and the triplets both have an image {id_!r}, with different contents. Index the images"
                " under other ids, or take those of the triplets: leave out the gallery."
            )
        names.append(name)
    return names
