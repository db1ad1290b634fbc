"""Our benchmarks as MTEB tasks: the scores of the protocol are the native ones, to the digit."""

import pytest
from transformers import AutoModel, AutoProcessor

from contextcir.benchmarks.registry import load_benchmark
from contextcir.retrieval.dense import DenseRetriever
from tests import tiny_scenes
from tests.benchmarks.test_circo import mini as circo  # noqa: F401  (fixtures)
from tests.benchmarks.test_cirr import mini as cirr  # noqa: F401
from tests.benchmarks.test_fashioniq import mini as fashioniq  # noqa: F401
from tests.benchmarks.test_genecis import mini as genecis  # noqa: F401

mteb = pytest.importorskip("mteb", reason="needs the extra `mteb`")

from contextcir.bridges.mteb import contextcir_tasks, tasks_of, wrap  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture
def scenes(tmp_path):
    return tiny_scenes.build(tmp_path / "scenes")


def evaluate(folder, tasks):
    """Task -> its scores."""
    results = mteb.evaluate(wrap(str(folder), device="cpu"), tasks, cache=None, show_progress_bar=False)
    return {result.task_name: result.scores["test"][0] for result in results.task_results}


def both(folder, name, root, split=None):
    """Percent by protocol, part and metric: the native numbers, and those of MTEB."""
    retriever = DenseRetriever.from_model(*(kind.from_pretrained(folder) for kind in (AutoModel, AutoProcessor)))
    native, found = {}, {}
    for part in load_benchmark(name, root, split):
        for metric, value in part.evaluate(part.rank(retriever)).items():
            native[part.protocol_id, part.part, metric] = value
    tasks = contextcir_tasks(root, [name], split)
    for task, scores in zip(tasks, evaluate(folder, tasks).values(), strict=True):
        for key, value in scores.items():
            if key.startswith("protocol_"):
                metric = key.removeprefix("protocol_").replace("_at_", "@")
                found[task.benchmark.protocol_id, task.benchmark.part, metric] = 100 * value
        assert scores["main_score"] == scores[task.metadata.main_score]
    return native, found


@pytest.mark.parametrize("name", ["cirr", "circo", "fashioniq", "genecis"])
def test_equal_to_the_native_numbers(saved_contextcir, name, request):
    native, found = both(saved_contextcir, name, str(request.getfixturevalue(name)))
    assert found == pytest.approx(native, abs=1e-9)


def test_equal_for_every_class_of_model(saved, scenes):
    native, found = both(saved, "scenes", str(scenes), "validation")
    assert found == pytest.approx(native, abs=1e-9)


def test_recall_is_no_share_of_the_targets(circo):  # noqa: F811
    (task,) = contextcir_tasks(str(circo), ["circo"])
    part = task.benchmark
    assert max(map(len, part.relevance.values())) > 1  # of which MTEB's own recall is the share that is found
    results = {
        id_: {other: float(other == main) for other in part.gallery.ids} for id_, main in part.main_targets.items()
    }
    assert task.task_specific_scores({}, {}, results)["protocol_recall_at_5"] == 1


def test_a_model_of_texts_is_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    config = transformers.BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    transformers.BertModel(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no images"):
        wrap(sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu"))


def test_targets_that_are_not_public(fashioniq):  # noqa: F811
    part = load_benchmark("fashioniq", str(fashioniq), "test")[0]
    with pytest.raises(ValueError, match="not public"):
        tasks_of(part)
