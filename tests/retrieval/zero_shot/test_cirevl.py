"""CIReVL: one changed caption for each query, and CLIP's ranking by it."""

import pytest

from contextcir.cli import benchmark
from contextcir.cli.servers import ServerArguments
from contextcir.retrieval.base import Query
from contextcir.retrieval.zero_shot.cirevl import CirevlRetriever
from tests.benchmarks.conftest import cache  # noqa: F401 - fixtures
from tests.benchmarks.test_cirr import mini as cirr_folder  # noqa: F401
from tests.imagescope_world import World, block, composed, world


class Changing(World):
    """A world whose reasoner writes one caption."""

    def reasoner(self, request):
        if request.schema.__name__ != "ChangedCaption":
            return super().reasoner(request)
        return {"caption": f"picture {self.asked_for(request.prompt) + self.off}"}


@pytest.fixture
def pictures():
    return Changing(world(range(40)).pictures, world().target)


def test_captions_are_changed_and_searched(pictures, tmp_path):
    panel = pictures.panel(tmp_path)
    retriever = CirevlRetriever(panel, pictures.clip())
    queries = [composed(3, 5, "a"), composed(20, 7, "b"), composed(3, 6, "c")]
    ranking = retriever.search(queries, pictures.gallery(), 3, exclude_reference=True, wanted={"a": "p9"})
    assert [ids[0] for ids in ranking.gallery_ids] == ["p8", "p27", "p9"]
    assert ranking.wanted_ranks["a"] in (1, 2)
    assert pictures.counts() == {"captioner": 2, "reasoner": 3}  # images of the gallery are not captioned
    prompt = pictures.asked["reasoner"][0].prompt
    assert block("reference_caption", prompt) == "picture 3" and block("instruction", prompt) == "plus 5"
    assert retriever.report()["calls"]["reasoner"]["answered"] == 3
    panel.close()


def test_without_a_usable_answer_the_text_is_searched(pictures, tmp_path):
    pictures.texts["reasoner"] = lambda request: "{}"
    panel = pictures.panel(tmp_path)
    ranking = CirevlRetriever(panel, pictures.clip()).search([composed(3, 17)], pictures.gallery(), 1)
    assert ranking.gallery_ids == [["p17"]]
    with pytest.raises(ValueError, match="'x' has none"):
        CirevlRetriever(panel, pictures.clip()).search([Query("x", "red")], pictures.gallery(), 1)
    panel.close()


def test_from_the_command_line(cirr_folder, clip_folder, tmp_path, monkeypatch):  # noqa: F811
    pictures = Changing(world(range(60)).pictures, lambda text, reference: reference + 1)
    monkeypatch.setattr(ServerArguments, "build", lambda self, model, url: pictures.server(model))
    argv = ["--retriever", "cirevl", "--clip", clip_folder, "--benchmark", "cirr", "--data_root", str(cirr_folder)]
    argv += [
        "--trace",
        str(tmp_path / "trace"),
        "--cache",
        str(tmp_path / "cache"),
        "--chat_model",
        "m",
        "--baselines",
    ]
    record = benchmark.main([*argv, "--export_run", str(tmp_path / "run.trec")])
    result = record["results"][0]
    assert result["retriever"] == "cirevl" and result["model"]["clip"] == clip_folder
    assert result["calls"]["captioner"]["answered"] == 4 and set(result["calls"]) == {"captioner", "reasoner"}
    assert (tmp_path / "run.trec").read_text().splitlines()[0].endswith(" cirevl")
    asked = pictures.counts()
    again = benchmark.main(argv)  # all answers are kept
    assert pictures.counts() == asked and again["results"][0]["metrics"] == result["metrics"]
