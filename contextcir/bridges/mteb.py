"""Composed retrieval in MTEB: our benchmarks as its tasks, and sentence-transformers models with images for them.

    import mteb
    from contextcir.bridges.mteb import contextcir_tasks, wrap

    model = wrap("user/model")
    mteb.evaluate(model, contextcir_tasks("data/scenes", ["scenes"]), cache=None)

A task reports MTEB's own scores and, as `protocol_recall_at_1` and so on, those of the benchmark's protocol, which are
the numbers of `contextcir benchmark` over 100. The two differ: MTEB's `recall_at_1` is the share of a query's targets
that are found, `protocol_recall_at_1` says whether any is; and MTEB keeps the reference image in the ranking, which
most protocols leave out.
"""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper

from contextcir.benchmarks.base import Benchmark, means
from contextcir.benchmarks.registry import load_benchmark
from contextcir.data.content import image_content
from contextcir.data.images import encode_image
from contextcir.retrieval.base import Query, Ranking

NAMES = ("scenes", "cirr", "circo", "fashioniq", "genecis")
SUBSET, SPLIT = "default", "test"  # as MTEB calls them; the split of the benchmark stands in the task's name


def wrap(model: Any, **options: Any) -> SentenceTransformerEncoderWrapper:
    """
    Wrap a sentence-transformers model for `mteb.evaluate`, which takes it for a model of texts otherwise.

    Args:
        model (`SentenceTransformer` or `str`): The model, or its name or folder.
        **options: Of `SentenceTransformer`, such as `revision` and `trust_remote_code`, if a name is given.

    Returns:
        `SentenceTransformerEncoderWrapper`: With the model's modalities in its metadata.

    Raises:
        `ValueError`: The model does not embed images.
    """
    wrapped = SentenceTransformerEncoderWrapper(model, **options)
    inputs = wrapped.model.modalities
    modalities = sorted({part for one in inputs for part in ([one] if isinstance(one, str) else one)} - {"message"})
    if "image" not in modalities:
        raise ValueError(f"{model} embeds {', '.join(modalities)}, and no images. Take a model with images.")
    wrapped.mteb_model_meta = wrapped.mteb_model_meta.model_copy(update={"modalities": modalities})
    return wrapped


def contextcir_tasks(root: str, names: Sequence[str] = NAMES, split: str | None = None) -> list["ComposedRetrieval"]:
    """
    Read benchmarks as tasks of MTEB.

    Args:
        root (`str`): Folder of a benchmark, or one that holds a folder for each.
        names (`Sequence[str]`): Benchmarks, as for [`~contextcir.benchmarks.registry.load_benchmark`].
        split (`str`, *optional*): The split; by default the first of each benchmark.

    Returns:
        `list[AbsTaskRetrieval]`: One for each part of a benchmark, such as a category of FashionIQ. Metrics that rank
        a query's candidates, such as recall in CIRR's subsets, are a task of their own.

    Raises:
        `ValueError`: As for `load_benchmark`, or the targets of the split are not public.
    """
    return [task for name in names for part in load_benchmark(name, root, split) for task in tasks_of(part)]


def tasks_of(benchmark: Benchmark) -> list["ComposedRetrieval"]:
    """Make tasks of one part of a benchmark: of its whole gallery, and of its candidates, where there are metrics."""
    if not benchmark.is_scored:
        raise ValueError(f"{benchmark.protocol_id}: the targets are not public. Take another split.")
    tasks = []
    for candidates in (False, True):
        metrics = {name: ks for name, ks in benchmark.metrics.items() if _of_candidates(benchmark, name) is candidates}
        if metrics:
            queries = [query for query in benchmark.queries if query.candidate_ids or not candidates]
            if not candidates:
                queries = [replace(query, candidate_ids=()) for query in queries]
            some = replace(benchmark, metrics=metrics).restricted_to(queries)
            # The reference may be among the first k + 1, and is left out afterwards
            facts: dict[str, Any] = {
                "benchmark": some,
                "of_candidates": candidates,
                "metadata": _metadata(some, candidates),
            }
            facts["k_values"] = sorted({*AbsTaskRetrieval.k_values, some.k + 1})
            tasks.append(type("ComposedRetrieval", (ComposedRetrieval,), facts)())
    return tasks


class ComposedRetrieval(AbsTaskRetrieval):
    """A part of a benchmark as a task of MTEB, which wants a class for each. [`tasks_of`] makes them.

    Attributes:
        benchmark ([`~contextcir.benchmarks.base.Benchmark`]): The part. All its metrics rank the gallery, or all the
            candidates.
        of_candidates (`bool`): Whether each query ranks its candidates only.
    """

    benchmark: Benchmark
    of_candidates: bool

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Make MTEB's data sets of the queries and the gallery. Images are decoded when they are read."""
        benchmark = self.benchmark
        text_and_image = {"id": Value("string"), "text": Value("string"), "image": ImageFeature()}
        queries: dict[str, list[Any]] = {"id": [query.id for query in benchmark.queries]}
        queries["text"] = [query.modification_text for query in benchmark.queries]
        if _with_images(benchmark):
            queries["image"] = [_reference(query, benchmark) for query in benchmark.queries]
        corpus: dict[str, list[Any]] = {
            "id": list(benchmark.gallery.ids),
            "image": [_encoded(image) for image in benchmark.gallery.images],
        }
        top_ranked = {query.id: list(query.ranked_candidate_ids) for query in benchmark.queries}
        self.dataset = {
            SUBSET: {
                SPLIT: {
                    "queries": _dataset(queries, text_and_image),
                    "corpus": _dataset(corpus, text_and_image),
                    "relevant_docs": {
                        query.id: dict.fromkeys(benchmark.relevance.get(query.id, ()), 1)
                        for query in benchmark.queries
                    },
                    "top_ranked": top_ranked if self.of_candidates else None,
                }
            }
        }
        self.data_loaded = True

    def task_specific_scores(self, scores: Any, qrels: Any, results: Any, **kwargs: Any) -> dict[str, float]:  # type: ignore[override]
        """Score the results by the protocol: `protocol_recall_at_1` and so on, between 0 and 1."""
        ranking = self._ranking(results)
        return {
            f"protocol_{name.replace('@', '_at_')}": value / 100
            for name, value in means(self.benchmark.scores(ranking)).items()
        }

    def _ranking(self, results: dict[str, dict[str, float]]) -> Ranking:
        """Rank by descending score, equal scores in the order of the gallery or of the candidates."""
        benchmark, ids, ranked = self.benchmark, [], []
        for query in benchmark.queries:
            own = query.ranked_candidate_ids if self.of_candidates else None
            places = benchmark.gallery.positions if own is None else {id_: place for place, id_ in enumerate(own)}
            found = results.get(query.id) or dict.fromkeys(places, 0.0)  # MTEB leaves out queries without a target
            order = sorted((id_ for id_ in found if id_ in places), key=lambda id_: (-found[id_], places[id_]))
            if benchmark.exclude_reference:
                order = [id_ for id_ in order if id_ != query.reference_id]
            ids.append(query.id)
            ranked.append(order)
        if self.of_candidates:
            return Ranking(ids, [order[:1] for order in ranked], candidate_ids=ranked)
        return Ranking(ids, [order[: benchmark.k] for order in ranked])


def _of_candidates(benchmark: Benchmark, metric: str) -> bool:
    return benchmark.candidates_only or metric.endswith("_subset")


def _with_images(benchmark: Benchmark) -> bool:
    """Whether the queries have reference images: all of them, or none."""
    given = {query.reference_image is not None or query.reference_id is not None for query in benchmark.queries}
    if len(given) > 1:
        raise ValueError(f"{benchmark.protocol_id}: some queries have no reference image, which MTEB cannot mix.")
    return given == {True}


def _reference(query: Query, benchmark: Benchmark) -> dict[str, Any]:
    gallery = benchmark.gallery
    source = query.reference_image
    return _encoded(gallery.images[gallery.positions[query.reference_id or ""]] if source is None else source)


def _encoded(source: Any) -> dict[str, Any]:
    """An image as a data set stores it. A file stays as it is."""
    if isinstance(source, str) or hasattr(source, "__fspath__"):
        return {"bytes": None, "path": str(source)}
    content = image_content(source)
    return {"bytes": content if isinstance(content, bytes) else encode_image(content, "PNG"), "path": None}


def _dataset(columns: dict[str, list[Any]], features: dict[str, Any]) -> Dataset:
    return Dataset.from_dict(columns, features=Features({name: features[name] for name in columns}))


def _metadata(benchmark: Benchmark, of_candidates: bool) -> TaskMetadata:
    """Describe the task. Its name holds the protocol's id: only numbers with the same id can be compared."""
    with_images = _with_images(benchmark)
    metric, ks = next(iter(benchmark.metrics.items()))
    parts = [*benchmark.protocol_id.split("/"), *([benchmark.part] if benchmark.part else [])]
    return TaskMetadata(
        name="ContextCIR-" + "-".join([*parts, *(["candidates"] if of_candidates else [])]),
        description=f"Composed image retrieval: {benchmark.name} with the protocol {benchmark.protocol_id}.",
        dataset={"path": f"contextcir/{benchmark.protocol_id}", "revision": importlib.metadata.version("contextcir")},
        type="Any2AnyRetrieval",
        category="it2i" if with_images else "t2i",
        modalities=["text", "image"],
        eval_splits=[SPLIT],
        eval_langs=["eng-Latn"],
        main_score=f"protocol_{metric}_at_{ks[0]}",
        prompt=None,
    )
