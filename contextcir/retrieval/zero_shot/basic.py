"""BASIC: image and text as a logical AND (Psomas et al., "Instance-Level Composed Image Retrieval", NeurIPS 2025,
section 4 and appendix D).

1. *Centring*: subtract the mean image feature from images, and the mean feature of the object corpus from texts.
2. *Projection*: keep of image features the directions in which objects vary and styles do not. These are the first
   eigenvectors, with positive eigenvalues, of (1 - alpha) C+ - alpha C-, the covariances of the features of two text
   corpora: C+ names objects ("building", "dog"), C- styles and settings ("cartoon", "in a cloudy day").
3. *Contextualisation*: a text is the mean of "dog during sunset" and "during sunset dog" over objects of the corpus.
4. *Fusion*: each similarity s becomes (s - s_min) / |s_min|, where s_min < 0 is the smallest one seen between images,
   or between object texts and images. The score is s_v s_t - lambda (s_v + s_t)^2, as in Harris' corner detector: an
   image must fit both halves.

k = 250, alpha = 0.2 and lambda = 0.1 are the paper's. It takes objects at random and does not say how many; here they
are `CONTEXTS` at even steps. Left out is query expansion, which the paper calls optional. Mean and s_min are to come
from images outside of the benchmark (the paper: LAION, and synthetic images). Without any, those of the gallery are
taken: the method is then transductive, and is called so.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from contextcir.retrieval.base import Gallery, Query, Ranking, check_searchable
from contextcir.retrieval.dense import GalleryEmbeds
from contextcir.retrieval.identity import Identity
from contextcir.retrieval.index import similarity
from contextcir.retrieval.ranking import rank
from contextcir.retrieval.towers import Towers
from contextcir.retrieval.zero_shot.compose import compose

COMPONENTS, ALPHA, HARRIS = 250, 0.2, 0.1
CONTEXTS = 100
AT_A_TIME = 64  # queries whose texts in context are embedded together
ROWS = 2048  # of a block of similarities between images


@dataclass(frozen=True)
class Statistics:
    """
    What BASIC knows of images and texts before it sees a query.

    Args:
        image_mean (`torch.Tensor` of shape `(dim,)`): Mean of image features.
        text_mean (`torch.Tensor` of shape `(dim,)`): Mean of the features of the object corpus.
        projection (`torch.Tensor` of shape `(dim, components)`): Orthonormal directions to keep.
        image_min, text_min (`float`): Smallest similarity of two images, and of a text and an image; negative.
    """

    image_mean: torch.Tensor
    text_mean: torch.Tensor
    projection: torch.Tensor
    image_min: float
    text_min: float

    @classmethod
    def of(cls, images: torch.Tensor, objects: torch.Tensor, styles: torch.Tensor | None = None) -> "Statistics":
        """
        Compute them from features.

        Args:
            images (`torch.Tensor` of shape `(num_images, dim)`): Features of images.
            objects (`torch.Tensor` of shape `(num_objects, dim)`): Features of the object corpus.
            styles (`torch.Tensor` of shape `(num_styles, dim)`, *optional*): Features of the style corpus.

        Raises:
            `ValueError`: There are too few images or objects, or all are the same.
        """
        if len(images) < 2 or len(objects) < 2:
            raise ValueError(f"Got {len(images)} images and {len(objects)} objects, expected at least two of each.")
        image_mean, text_mean = images.mean(dim=0), objects.mean(dim=0)
        projection = contrastive_directions(objects, styles)
        centred = images - image_mean
        smallest = min(_smallest(centred @ projection)), (centred @ (objects - text_mean).T).min().item()
        if not max(smallest) < 0:
            raise ValueError(
                f"The smallest similarities are {smallest[0]:.3g} (images) and {smallest[1]:.3g} (texts), expected"
                " negative numbers: the images or the objects are all alike. Give more of them."
            )
        return cls(image_mean, text_mean, projection, *smallest)


def contrastive_directions(
    objects: torch.Tensor, styles: torch.Tensor | None = None, *, alpha: float = ALPHA, components: int = COMPONENTS
) -> torch.Tensor:
    """
    Find the directions in which objects vary and styles do not.

    Args:
        objects (`torch.Tensor` of shape `(num_objects, dim)`): Features of the object corpus.
        styles (`torch.Tensor` of shape `(num_styles, dim)`, *optional*): Features of the style corpus.
        alpha (`float`): Weight of the styles, in [0, 1].
        components (`int`): Most directions.

    Returns:
        `torch.Tensor` of shape `(dim, at most components)`: Orthonormal, the strongest first, positive eigenvalues
        only.
    """
    covariance = _covariance(objects)
    if styles is not None and len(styles):
        covariance = (1 - alpha) * covariance - alpha * _covariance(styles)
    values, vectors = torch.linalg.eigh(covariance)  # ascending
    # Some eigenvalues are zero but for rounding.
    noise = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    useful = min(components, int((values > noise).sum()))
    return vectors.flip(1)[:, :useful].float()


class BasicRetriever:
    """
    Rank by BASIC.

    Args:
        towers ([`~contextcir.retrieval.towers.Towers`]): Embeds images and texts.
        objects (`Sequence[str]`): The object corpus: terms such as "building" or "dog".
        styles (`Sequence[str]`): The style corpus: terms such as "cartoon" or "at night".
        images ([`~contextcir.retrieval.base.Gallery`], *optional*): Images outside of the benchmark, for the mean and
            the smallest similarities; by default those of the gallery that is searched (transductive).
        **options: `batch_size`, `num_workers` and `keep`, as for [`~contextcir.retrieval.dense.DenseRetriever`].
    """

    def __init__(
        self,
        towers: Towers,
        objects: Sequence[str],
        styles: Sequence[str] = (),
        images: Gallery | None = None,
        **options: Any,
    ):
        self.images = images
        self._dense, self._texts = (compose(towers, how, **options) for how in ("image", "text"))
        self._objects, self._styles = list(objects), list(styles)
        self._galleries = GalleryEmbeds(towers.galleries.state)
        step = max(1, len(self._objects) // CONTEXTS)
        self._contexts = self._objects[::step][:CONTEXTS]

    @property
    def identity(self) -> Identity:
        """[`~contextcir.retrieval.identity.Identity`]: Who embeds."""
        return self._dense.identity

    def search(
        self,
        queries: Sequence[Query],
        gallery: Gallery,
        k: int,
        *,
        exclude_reference: bool = False,
        wanted: Mapping[str, str] | None = None,
    ) -> Ranking:
        """Rank the gallery, and each query's candidates, for each query. Arguments, results and errors as for
        [`~contextcir.retrieval.base.Retriever.search`], with scores. All queries need reference images."""
        check_searchable(queries, gallery)
        if not queries:
            return Ranking([], [], scores=[], candidate_ids=[], wanted_ranks=None if wanted is None else {})
        statistics = self.statistics(gallery)
        halves = [
            linear(self._dense.encode(queries, gallery).cpu(), statistics, of_text=False),
            linear(self._contextual(queries, gallery), statistics, of_text=True),
        ]
        rows = self._galleries.get(gallery, self._with_ones)
        weights = torch.stack(halves, dim=1)
        return rank(queries, gallery, weights, rows, k, exclude_reference, wanted=wanted, score=harris)

    def statistics(self, gallery: Gallery) -> Statistics:
        """The [`Statistics`] for a search of this gallery."""
        images = self.images or gallery
        objects, *styles = (self._encode(terms, gallery) for terms in (self._objects, self._styles) if terms)
        return Statistics.of(self._rows(images), objects, *styles)

    def _rows(self, gallery: Gallery) -> torch.Tensor:
        return torch.as_tensor(self._dense.gallery_embeds(gallery)[: len(gallery)]).float().cpu()

    def _with_ones(self, gallery: Gallery) -> torch.Tensor:
        """Features with a column of ones, `(gallery_size, dim + 1)`, so that [`linear`] can add a constant."""
        rows = self._rows(gallery)
        return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)

    def _encode(self, texts: Iterable[str], gallery: Gallery) -> torch.Tensor:
        return self._texts.encode([Query(str(place), text) for place, text in enumerate(texts)], gallery).cpu()

    def _contextual(self, queries: Sequence[Query], gallery: Gallery) -> torch.Tensor:
        """The mean feature of the texts of each query in all contexts, `(num_queries, dim)`."""
        found = []
        for start in range(0, len(queries), AT_A_TIME):
            wordings = [
                [
                    words
                    for text in (query.modification_text, *query.paraphrases)
                    for term in self._contexts
                    for words in (f"{term} {text}", f"{text} {term}")
                ]
                for query in queries[start : start + AT_A_TIME]
            ]
            embeds = self._encode([words for some in wordings for words in some], gallery)
            found += [some.mean(dim=0) for some in embeds.split([*map(len, wordings)])]
        return torch.stack(found)


def linear(features: torch.Tensor, statistics: Statistics, *, of_text: bool) -> torch.Tensor:
    """
    Turn query features into weights: centring, projection and normalisation of the similarity to an image are linear
    in the image's feature, so that the gallery stays as it is.

    Args:
        features (`torch.Tensor` of shape `(num_queries, dim)`): Of reference images, or of texts.
        statistics ([`Statistics`]): Of images and texts.
        of_text (`bool`): Whether they are those of texts, which are not projected.

    Returns:
        `torch.Tensor` of shape `(num_queries, dim + 1)`: Weights of an image's feature, and of 1. The dot product is
        the normalised similarity.
    """
    if of_text:
        weights, smallest = features - statistics.text_mean, statistics.text_min
    else:
        weights = (features - statistics.image_mean) @ statistics.projection @ statistics.projection.T
        smallest = statistics.image_min
    constant = -(weights @ statistics.image_mean)[:, None] - smallest
    return torch.cat([weights, constant], dim=1) / abs(smallest)


def harris(queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """Fuse both similarities. Arguments and result as for [`~contextcir.retrieval.index.similarity`], with the halves
    of the queries as parts."""
    image, text = (similarity(half, gallery) for half in queries.unbind(1))
    return image * text - HARRIS * (image + text) ** 2


def _covariance(features: torch.Tensor) -> torch.Tensor:
    centred = (features - features.mean(dim=0)).double()
    return centred.T @ centred / len(features)


def _smallest(features: torch.Tensor) -> Iterable[float]:
    """The smallest similarity of each block of images with all."""
    return (block.matmul(features.T).min().item() for block in features.split(ROWS))
