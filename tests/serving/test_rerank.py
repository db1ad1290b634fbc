"""Re-rank over HTTP by ImageScope, with an oracle in all four roles."""

import json
import random

import pytest

from contextcir.cli.imagescope_arguments import ImageScopeArguments
from contextcir.cli.serve_rerank import check, reranker
from contextcir.cli.servers import ServerArguments
from contextcir.retrieval.base import Gallery
from contextcir.scenes import mistakes, render, sample_query
from contextcir.scenes.oracle import Oracle
from contextcir.scenes.truth import Truth

pytest.importorskip("openai", reason="chat servers need the extra 'captions'")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, retriever):
    """A gallery of one query: reference, target and mistakes; and the truth about it."""
    folder, truth, rng = tmp_path_factory.mktemp("scenes"), Truth(), random.Random(3)
    (folder / "pictures").mkdir()

    def add(name: str, scene) -> str:
        render(scene, rng.getrandbits(48), 96).save(folder / "pictures" / f"{name}.png")
        truth.add((folder / "pictures" / f"{name}.png").read_bytes(), scene, name=f"{name}.png")
        return f"{name}.png"

    query = sample_query(rng, 2)
    truth.add_query(query.text, query.target, query.reference)
    add("reference", query.reference), add("target", query.target)
    wrong = [scene for found in mistakes(rng, query, query.edits).values() for scene in found]
    names = [add(f"wrong {number}", scene) for number, scene in enumerate(wrong)]
    return Gallery.build(folder / "pictures", retriever, folder / "stored", quiet=True), truth, query.text, names


@pytest.fixture
def arguments(tmp_path):
    """Options of ImageScope and of the server at an address."""

    def make(url: str, **more):
        scope = ImageScopeArguments(
            trace=str(tmp_path / "trace"), cache=str(tmp_path / "cache"), chat_model="oracle", **more
        )
        return scope, ServerArguments(base_url=url, free=True)

    return make


def test_the_target_comes_first_with_reasons(scenes, arguments, start, tmp_path):
    gallery, truth, text, wrong = scenes
    with Oracle(truth) as url:
        judge = reranker(*arguments(url))
        client = start(gallery, rerank=judge)
        form = {"text": text, "reference": "reference.png", "ids": json.dumps([*wrong, "target.png"])}
        answer = client.post("/rerank", data=form)
        assert answer.status_code == 200, answer.text
        first, *others = answer.json()["results"]
        assert first["id"] == "target.png" and {one["id"] for one in others} == set(wrong)
        assert first["verdict"] == "accept" and first["reason"]
        assert first["answers"] and all(one["got"] == one["expected"] for one in first["answers"])
        assert any(one["got"] != one["expected"] for other in others for one in other["answers"])
        upload = {"upload": ("a.png", (gallery.sources.image("reference.png")).read_bytes())}
        form.pop("reference")
        again = client.post("/rerank", data=form, files=upload)
        assert [one["id"] for one in again.json()["results"]][0] == "target.png"
        assert judge.close(5)
    written = b"".join(path.read_bytes() for path in (tmp_path / "trace").rglob("*") if path.is_file())
    assert text.encode() not in written  # what users type is not kept


def test_without_chat_servers():
    assert reranker(ImageScopeArguments(), ServerArguments()) is None


@pytest.mark.parametrize("option", [{"tau": 0.3}, {"rerank": "a model"}, {"after_each_stage": True}])
def test_options_without_effect(option):
    with pytest.raises(ValueError, match=f"--{next(iter(option))} has no effect"):
        check(ImageScopeArguments(trace="x", **option), ServerArguments())


def test_answers_that_are_paid_for_need_a_folder():
    with pytest.raises(ValueError, match="--trace"):
        check(ImageScopeArguments(), ServerArguments(base_url="http://127.0.0.1:1/v1"))
    check(ImageScopeArguments(), ServerArguments())
