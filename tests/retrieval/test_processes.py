"""Two processes: each encodes or captions a share, both get the same results, and both end if one fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState

from contextcir.chat.exchange import ChatStop
from contextcir.retrieval.dense import DenseRetriever
from tests.imagescope_world import composed, world
from tests.retrieval.models import Model, Processor, make_gallery, make_queries


def search_with(retriever: DenseRetriever) -> dict:
    ranking = retriever.search(make_queries(), make_gallery(), 6, exclude_reference=True)
    return {"ranking": ranking, "embeds": retriever.encode(make_queries()[:1], make_gallery())}


def work(folder: Path) -> None:
    """The work of each process."""
    state = PartialState(cpu=True)
    assert state.num_processes == 2
    seen = search_with(DenseRetriever.from_model(Model(), Processor(), batch_size=2))
    queries, pictures, other = [composed(3, place, f"q{place}") for place in range(1, 6)], world(), world()
    ranking = pictures.scope(folder).search(queries, pictures.gallery(), 10, exclude_reference=True)
    seen |= {"ids": ranking.gallery_ids, "asked": dict(pictures.counts()), "messages": []}

    def stop(request):
        raise ChatStop("quota", "no more than that")

    other.faults = {"captioner": stop, "evaluator": stop}
    for role in ("captioner", "evaluator"):
        try:
            other.scope(folder, models={role: "new"}).search(queries, other.gallery(), 10, exclude_reference=True)
        except (ChatStop, RuntimeError) as error:
            seen["messages"].append(str(error))
    torch.save(seen, folder / f"{state.process_index}.pt")


@pytest.fixture(scope="module")
def seen(tmp_path_factory, request) -> list[dict]:
    """The results of each process."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", __name__]
    options = {"cwd": request.config.rootpath, "env": os.environ | {"CUDA_VISIBLE_DEVICES": ""}, "timeout": 280}
    result = subprocess.run([*command, str(folder)], capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stderr[-3000:]
    return [torch.load(folder / f"{process}.pt", weights_only=False) for process in range(2)]


@pytest.mark.slow
def test_dense_retrieval_equals_that_of_one_process(seen):
    """The 13 images cannot be divided equally, and a single query is less than one for each process."""
    one = search_with(DenseRetriever.from_model(Model(), Processor()))
    for process in seen:
        for name in ("query_ids", "gallery_ids", "candidate_ids"):
            assert getattr(process["ranking"], name) == getattr(one["ranking"], name)
        scores = [torch.tensor(some["ranking"].scores) for some in (process, one)]
        assert torch.allclose(*scores, atol=1e-6) and torch.allclose(process["embeds"], one["embeds"], atol=1e-6)


@pytest.mark.slow
def test_imagescope_captions_on_both_processes_and_asks_the_rest_on_one(seen):
    one, other = seen
    assert one["ids"] == other["ids"] and one["ids"][0][0] == "p4"
    assert one["asked"] == {"captioner": 20, "reasoner": 10, "verifier": 100, "evaluator": 15}
    assert other["asked"] == {"captioner": 20}


@pytest.mark.slow
def test_both_processes_end_with_the_error_of_one(seen):
    captioner, evaluator = [f"The {role} (new): no more than that" for role in ("captioner", "evaluator")]
    assert seen[0]["messages"] == [captioner, evaluator]
    # The second process fails on captions too, and gets the evaluator's error from the first.
    assert seen[1]["messages"][0] == captioner
    assert evaluator in seen[1]["messages"][1] != evaluator


if __name__ == "__main__":
    work(Path(sys.argv[1]))
