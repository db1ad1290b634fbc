"""ImageScope stage by stage: what it asks, how it ranks, and how it treats unusable answers."""

import asyncio
import json
import os
import resource
from contextlib import closing

import numpy as np
import pytest
import torch
from PIL import Image

from contextcir.chat.exchange import ChatStop, Outcome
from contextcir.data.images import ImageError
from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.dense import DenseRetriever, GalleryEmbeds
from contextcir.retrieval.imagescope import ImageScope, ReasonedRetriever
from contextcir.retrieval.imagescope.pipeline import _reorder
from tests.imagescope_world import ROLES, World, block, composed, plus, trace_of, world
from tests.tiny_triplets import png


@pytest.fixture
def pictures() -> World:
    return world()


# --- the stages ------------------------------------------------------------------------------------------------------


def test_three_stages_move_the_target_to_the_front(tmp_path):
    pictures = world(off=3)
    ranking = pictures.scope(tmp_path).search([composed(10, 5)], pictures.gallery(), 10, exclude_reference=True)
    assert ranking.gallery_ids[0][:4] == ["p15", "p18", "p17", "p19"] and len(ranking.gallery_ids[0]) == 10
    assert pictures.counts() == {"captioner": 40, "reasoner": 2, "verifier": 20, "evaluator": 3}
    record = trace_of(tmp_path)["q"]
    assert record["descriptions"] == ["18", "picture 18", "a picture 18"]
    assert record["retrieved"][:6] == ["p18", "p17", "p19", "p16", "p20", "p15"] and len(record["retrieved"]) == 20
    assert record["verified"][:3] == ["p15", "p18", "p17"]
    assert record["verified"][-1] == "p16"  # the second proposition is wrong for image 16 too
    assert record["answers"]["p15"] == ["yes", "no"] and record["answers"]["p16"] == ["no", "yes"]
    verdicts = {id_: verdict["verdict"] for id_, verdict in record["verdicts"].items()}
    assert verdicts == {"p15": "accept", "p18": "reject", "p17": "reject"}
    assert record["evaluated"] == record["verified"]
    reason = pictures.asked["reasoner"][0].prompt
    assert block("reference_caption", reason) == "picture 10" and block("instruction", reason) == "plus 5"
    shown = [[pictures.number(image) for image in request.images] for request in pictures.asked["evaluator"]]
    assert shown == [[10, 15], [10, 18], [10, 17]]  # the reference is before the candidate
    assert record["scores"] == sorted(record["scores"], reverse=True)
    # Captions serve all queries, and are not counted for one of them.
    assert record["calls"] == {
        role: {"requests": number, "prompt_tokens": 10 * number, "completion_tokens": 5 * number, "usd": 0.5 * number}
        for role, number in (("reasoner", 2), ("verifier", 20), ("evaluator", 3))
    }
    assert (record["prompt_tokens"], record["completion_tokens"], record["usd"]) == (250, 125, 12.5)


def test_accepted_images_move_to_the_front_in_their_order(tmp_path, pictures):
    pictures.texts["evaluator"] = lambda request: json.dumps(
        {"reason": "", "verdict": "reject" if pictures.number(request.images[-1]) == 15 else "accept"}
    )
    pictures.texts["verifier"] = lambda request: '{"answers": ["no", "no"]}'  # equal for all: the order stays
    ranking = pictures.scope(tmp_path).search([composed(10, 5)], pictures.gallery(), 5)
    assert ranking.gallery_ids[0] == ["p14", "p16", "p15", "p13", "p17"]


def test_the_score_is_the_mean_over_descriptions_of_both_similarities(tmp_path):
    pictures = world(range(5))
    pictures.texts["captioner"] = lambda request: json.dumps(
        {"caption": f"{300 * pictures.number(request.images[0])}"}
    )
    answer = {"steps": [], "core": "100", "detailed": "250", "comprehensive": "nothing"}
    pictures.texts["reasoner"] = lambda request: json.dumps(answer)
    first = pictures.reasoned(pictures.panel(tmp_path), tau=0.3)
    ranking = first.search([Query(id="q", modification_text="any 1")], pictures.gallery(), 5)
    expected = {}
    for number in range(5):
        cosines = [
            0.7 * np.cos(np.pi * (seen - 0.2 - number) / 1000) + 0.3 * np.cos(np.pi * (seen - 300 * number) / 1000)
            for seen in (100, 250)
        ]
        expected[f"p{number}"] = sum(cosines) / 3  # the third description is orthogonal to all images
    assert ranking.gallery_ids[0] == sorted(expected, key=expected.get, reverse=True)
    assert ranking.scores[0] == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-6)


def test_a_text_query_has_no_reference_in_any_request(tmp_path):
    pictures = world(off=2)
    ranking = pictures.scope(tmp_path).search([Query(id="q", modification_text="picture 7")], pictures.gallery(), 3)
    assert ranking.gallery_ids[0][0] == "p7"
    prompts = [request.prompt for role in ("reasoner", "verifier", "evaluator") for request in pictures.asked[role]]
    assert not any(block("reference_caption", prompt) for prompt in prompts)
    assert all(len(request.images) == 1 for request in pictures.asked["evaluator"])


def test_a_reference_outside_the_gallery_is_captioned_and_shown(tmp_path, pictures):
    gallery = Gallery([f"p{number}" for number in range(20, 40)], [png(number) for number in range(20, 40)])
    query = Query(id="q", modification_text="plus 20", reference_image=png(10), reference_id="elsewhere")
    ranking = pictures.scope(tmp_path).search([query], gallery, 3, exclude_reference=True)
    assert ranking.gallery_ids[0][0] == "p30"
    assert pictures.counts()["captioner"] == 21
    assert pictures.number(pictures.asked["evaluator"][0].images[0]) == 10


def test_candidates_pass_the_stages_separately(tmp_path):
    pictures = world(range(300), off=4)
    query = composed(10, 5, candidate_ids=("p10", "p200", "p16", "p15", "p250", "p14"))
    ranking = pictures.scope(tmp_path).search([query], pictures.gallery(), 5, exclude_reference=True)
    # CLIP's order is 16, 15, 14, 200, 250. Then 15 satisfies both propositions, 14, 200 and 250 one, and 16 none.
    assert ranking.candidate_ids == [["p15", "p14", "p200", "p250", "p16"]]
    # 16, 15 and 14 are also among the best 20 of the gallery, and the verifier gets them once.
    assert pictures.counts()["verifier"] == 22
    record = trace_of(tmp_path)["q"]
    assert record["candidates"]["retrieved"] == ["p16", "p15", "p14", "p200", "p250"]


def test_answers_about_candidates_do_not_change_the_order_of_the_gallery(tmp_path):
    pictures = world(range(60), off=3)
    query = composed(10, 45, candidate_ids=("p10", "p55", "p0"))  # the description is of 58, and 55 is the fourth
    scope = pictures.scope(tmp_path, verified=2, evaluated=1)
    ranking = scope.search([query], pictures.gallery(), 6, exclude_reference=True)
    record = trace_of(tmp_path)["q"]
    assert record["answers"]["p55"] == ["yes", "no"] and record["verdicts"]["p55"]["verdict"] == "accept"
    assert ranking.candidate_ids == [["p55", "p0"]]
    assert ranking.gallery_ids == [["p58", "p57", "p59", "p56", "p55", "p54"]]


def test_wanted_ranks_are_those_of_the_last_order(tmp_path):
    pictures = world(range(60), off=3)
    queries = [composed(10, 5, "near"), composed(10, 45, "far")]
    wanted = {"near": "p15", "far": "p5"}  # one moves to the front, the other is far below the verified candidates
    scope = pictures.scope(tmp_path)
    before = scope.first.search(queries, pictures.gallery(), 10, wanted=wanted).wanted_ranks
    after = scope.search(queries, pictures.gallery(), 10, wanted=wanted)
    assert before == {"near": 5, "far": 54} and after.wanted_ranks == {"near": 0, "far": before["far"]}
    assert len(after.gallery_ids[0]) == 10


def test_all_paraphrases_are_described_and_the_query_is_verified_once(tmp_path, pictures):
    pictures.scope(tmp_path).search([composed(10, 5, paraphrases=("also plus 7",))], pictures.gallery(), 3)
    descriptions = ["15", "picture 15", "a picture 15", "17", "picture 17", "a picture 17"]
    assert trace_of(tmp_path)["q"]["descriptions"] == descriptions
    assert pictures.counts()["reasoner"] == 3 and pictures.counts()["verifier"] == 20


def test_stages_can_be_left_out(tmp_path):
    pictures = world(off=3)
    scope = pictures.scope(tmp_path, verified=0, evaluated=0)
    assert scope.search([composed(10, 5)], pictures.gallery(), 3).gallery_ids[0] == ["p18", "p17", "p19"]
    assert pictures.counts() == {"captioner": 40, "reasoner": 1}
    verified = ImageScope(scope.panel, scope.first, verified=20, evaluated=0)
    assert verified.search([composed(10, 5)], pictures.gallery(), 3).gallery_ids[0][0] == "p15"
    assert pictures.counts() == {"captioner": 40, "reasoner": 3, "verifier": 20}


def test_re_ranking_asks_neither_for_descriptions_nor_for_captions_of_the_gallery(tmp_path):
    pictures, depths = world(), []

    class Other:
        """A retriever without embeddings and scores."""

        def search(self, queries, gallery, k, *, exclude_reference=False, wanted=None):
            depths.append(k)
            return pictures.clip().search([Query(id=q.id, modification_text="18") for q in queries], gallery, k)

    ranking = ImageScope(pictures.panel(tmp_path), Other()).search([composed(10, 5)], pictures.gallery(), 3)
    assert depths == [20] and ranking.gallery_ids[0] == ["p15", "p18", "p17"]
    assert pictures.counts() == {"captioner": 1, "reasoner": 1, "verifier": 20, "evaluator": 3}


def test_descriptions_of_an_earlier_search_are_not_used_for_re_ranking(tmp_path):
    pictures = world(range(60))
    (*_, query) = rounds("picture 7", "is it 20")
    pictures.scope(tmp_path).search([query], pictures.gallery(), 3)
    pictures.asked.clear()
    ImageScope(pictures.panel(tmp_path), pictures.clip()).search([query], pictures.gallery(), 3)
    (propose,) = pictures.asked["reasoner"]
    assert propose.schema.__name__ == "Propositions" and block("previous_description", propose.prompt) is None
    assert "descriptions" not in trace_of(tmp_path)["d/1"]


def test_a_gallery_is_embedded_again_after_the_weights_of_clip_have_changed(tmp_path):
    pictures, state, encoded = world(range(5)), [0], []
    clip = pictures.clip()

    def encode_images(images):
        encoded.append(len(images))
        return (-1) ** state[0] * pictures.clip().encode_images(images)

    changing = DenseRetriever(encode_images, clip.encode_queries, galleries=GalleryEmbeds(lambda: state[0]))
    first = ReasonedRetriever(pictures.panel(tmp_path), changing, tau=0.0)
    gallery, queries = pictures.gallery(), [Query(id="q", modification_text="picture 4")]
    orders = []
    for weights in (0, 0, 1, 0):
        state[0] = weights
        orders += first.search(queries, gallery, 5).gallery_ids
    assert orders[0] == orders[1] == orders[2][::-1] == orders[3] and orders[0][0] == "p4"
    assert encoded == [5, 5, 5]


# --- conversations ---------------------------------------------------------------------------------------------------


def rounds(*turns, name="d") -> list[Query]:
    return [
        Query(id=f"{name}/{last}", modification_text=", ".join(turns[: last + 1]), turns=turns[: last + 1])
        for last in range(len(turns))
    ]


def reasoning(pictures) -> list[tuple[list[str], str | None]]:
    """The dialogue and the previous description in each request for a description."""
    prompts = [request.prompt for request in pictures.asked["reasoner"] if request.schema.__name__ == "Reasoning"]
    return [(json.loads(block("dialogue", prompt)), block("previous_description", prompt)) for prompt in prompts]


def test_each_round_is_described_from_the_round_before(tmp_path):
    pictures = world(range(60))
    queries = rounds("picture 7", "is it 20", "is it 30")
    ranking = pictures.scope(tmp_path).search(queries, pictures.gallery(), 3)
    assert reasoning(pictures) == [
        (["picture 7"], None),
        (["picture 7", "is it 20"], "a picture 7"),
        (["picture 7", "is it 20", "is it 30"], "a picture 20"),
    ]
    assert [ids[0] for ids in ranking.gallery_ids] == ["p7", "p20", "p30"]
    propose = [request for request in pictures.asked["reasoner"] if request.schema.__name__ == "Propositions"]
    assert block("previous_description", propose[-1].prompt) == "a picture 30"


def test_rounds_of_several_conversations_may_come_in_any_order(tmp_path):
    pictures = world(range(60))
    queries = [*rounds("picture 7", "is it 20", name="a")[::-1], *rounds("picture 7", "is it 30", name="b")[::-1]]
    scope = pictures.scope(tmp_path, waiting=1, verified=0, evaluated=0)
    assert scope.search(queries, pictures.gallery(), 1).gallery_ids == [["p20"], ["p7"], ["p30"], ["p7"]]


def test_a_query_of_the_last_round_alone_is_described_round_by_round(tmp_path):
    pictures = world(range(60))
    pictures.scope(tmp_path).search(rounds("picture 7", "is it 20", "is it 30")[-1:], pictures.gallery(), 3)
    assert [len(dialogue) for dialogue, _ in reasoning(pictures)] == [1, 2, 3]


def test_a_failed_round_keeps_the_description_of_the_round_before(tmp_path):
    pictures = world(range(60))
    failed = Outcome("refused", error="no")
    pictures.faults["reasoner"] = lambda request: failed if '"is it 20"]' in request.prompt else None
    pictures.scope(tmp_path).search(rounds("picture 7", "is it 20", "is it 30"), pictures.gallery(), 3)
    records = trace_of(tmp_path)
    assert records["d/1"]["descriptions"] == records["d/0"]["descriptions"] == ["7", "picture 7", "a picture 7"]
    assert reasoning(pictures)[-1][1] == "a picture 7"


# --- unusable answers ------------------------------------------------------------------------------------------------


def test_reordering_keeps_the_places_of_images_without_points():
    ids = list("abcdef")
    points = {"a": 0, "c": 2, "d": 0, "e": 1, "f": 2}
    assert _reorder(ids, points, 6) == list("cbfead")
    assert _reorder(ids, points, 4) == list("cbadef")  # e and f are below the depth
    assert _reorder(ids, {"c": 1}, 6) == ids
    assert _reorder(ids, dict.fromkeys(ids, 1), 6) == ids


def test_a_candidate_with_a_failed_verification_or_evaluation_keeps_its_place_and_is_counted(tmp_path):
    pictures = world(off=1)
    bad = Outcome("malformed", error="not JSON")
    pictures.faults["verifier"] = lambda request: bad if pictures.number(request.images[0]) == 15 else None
    pictures.faults["evaluator"] = lambda request: bad if pictures.number(request.images[-1]) == 17 else None
    scope = pictures.scope(tmp_path)
    ranking = scope.search([composed(10, 5)], pictures.gallery(), 5)
    record = trace_of(tmp_path)["q"]
    assert record["retrieved"][:4] == ["p16", "p15", "p17", "p14"]
    assert record["answers"]["p15"] is None
    assert record["verified"][:4] == ["p17", "p15", "p14", "p18"]  # 15 is still second, 16 satisfies none and is last
    assert record["verdicts"]["p17"] is None
    assert ranking.gallery_ids[0][:3] == ["p17", "p15", "p14"]  # 15 is accepted, 17 keeps its place
    calls = scope.report()["calls"]
    assert (calls["verifier"]["malformed"], calls["verifier"]["answered"]) == (1, 19)
    assert calls["evaluator"]["malformed"] == 1


def test_a_failure_does_not_shift_the_answers_of_other_items(tmp_path):
    pictures = world(range(6))
    bad = Outcome("failed", error="time-out")
    pictures.faults["captioner"] = lambda request: bad if pictures.number(request.images[0]) == 2 else None
    pictures.faults["reasoner"] = lambda request: bad if "plus 1<" in request.prompt else None
    queries = [composed(0, 3, "a"), composed(0, 1, "b"), composed(0, 2, "c"), composed(2, 3, "d")]
    ranking = pictures.scope(tmp_path, verified=0, evaluated=0).search(queries, pictures.gallery(), 2)
    assert [ids[0] for ids in ranking.gallery_ids[::2]] == ["p3", "p2"]
    assert trace_of(tmp_path)["b"]["descriptions"] == ["plus 1"]  # its own text
    assert block("reference_caption", pictures.asked["reasoner"][3].prompt) is None  # no caption of image 2
    lines = [line for file in (tmp_path / "cache").glob("*.jsonl") for line in file.read_text().split("\n") if line]
    assert sorted(json.loads(line)["caption"] for line in lines) == [f"picture {number}" for number in (0, 1, 3, 4, 5)]


def test_an_image_without_a_caption_is_scored_with_the_mean_caption(tmp_path):
    pictures = world((0, 10, 20))
    bad = Outcome("filtered")
    pictures.faults["captioner"] = lambda request: bad if pictures.number(request.images[0]) == 10 else None
    embeds = pictures.reasoned(pictures.panel(tmp_path), tau=0.4)._embed_gallery(pictures.gallery())
    images = pictures.clip().encode_gallery(pictures.gallery())
    texts = pictures.clip().encode([Query(id=text, modification_text=text) for text in ("0", "20")], None)
    expected = 0.6 * images + 0.4 * torch.stack([texts[0], texts.mean(dim=0), texts[1]])
    assert torch.allclose(embeds, expected, atol=1e-6)


@pytest.mark.parametrize("answer", ["[]", '{"propositions": []}', "nothing"])
def test_without_propositions_the_order_stays(tmp_path, answer):
    pictures = world(off=1)
    pictures.texts["reasoner"] = lambda request: answer if request.schema.__name__ == "Propositions" else None
    ranking = pictures.scope(tmp_path, evaluated=0).search([composed(10, 5)], pictures.gallery(), 3)
    assert ranking.gallery_ids[0] == ["p16", "p15", "p17"]
    assert "verifier" not in pictures.counts()


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ('{"answers": [true, false]}', ["yes", "no"]),
        ('{"answers": "yes, no"}', None),  # a string is not a list
        ('{"answers": ["eyes", "no"]}', None),
        ('{"answers": ["yes"]}', None),
        ('{"answers": ["yes", "no", "no"]}', None),
    ],
)
def test_answers_of_another_form_are_malformed(tmp_path, text, answers):
    pictures = world(off=1)
    pictures.texts["verifier"] = lambda request: text if pictures.number(request.images[0]) == 15 else None
    scope = pictures.scope(tmp_path, evaluated=0)
    scope.search([composed(10, 5)], pictures.gallery(), 3)
    assert trace_of(tmp_path)["q"]["answers"]["p15"] == answers
    assert scope.report()["calls"]["verifier"].get("malformed", 0) == (answers is None)


# --- bad input -------------------------------------------------------------------------------------------------------

GALLERY = Gallery(["p0", "p1"], [png(0), png(1)])


@pytest.mark.parametrize(
    ("queries", "gallery", "error", "named"),
    [
        ([composed(0, 1, "a"), composed(99, 1)], GALLERY, ValueError, "'q'.*'p99'"),
        ([Query(id="q", modification_text=" ")], GALLERY, ValueError, "'q'"),
        ([Query(id="q", modification_text=" ", turns=("", " "))], GALLERY, ValueError, "'q'"),
        ([Query("q", "plus 1", reference_image=b"none", reference_id="x")], GALLERY, ImageError, "query 'q'"),
        ([Query("q", "picture 1")], Gallery(["a", "b"], [png(1), png(2)[:200]]), ImageError, "image 'b'"),
    ],
    ids=["no reference image", "nothing to find", "empty turns", "damaged reference", "damaged gallery"],
)
def test_bad_input_is_refused_before_anything_is_paid_for(tmp_path, queries, gallery, error, named):
    pictures = world(range(3))
    with pytest.raises(error, match=named):
        pictures.scope(tmp_path).search(queries, gallery, 3)
    assert not pictures.asked


def test_a_gallery_smaller_than_k_and_than_the_verified_candidates(tmp_path):
    pictures = world(range(2))
    queries = [composed(0, 1, candidate_ids=("p0", "p1"))]
    ranking = pictures.scope(tmp_path).search(queries, pictures.gallery(), 50, exclude_reference=True)
    assert ranking.gallery_ids == [["p1"]] and ranking.candidate_ids == [["p1"]]
    assert pictures.counts() == {"captioner": 2, "reasoner": 2, "verifier": 1, "evaluator": 1}


def test_an_empty_text_is_described_by_the_caption_of_the_reference(tmp_path, pictures):
    query = Query(id="q", modification_text=" ", reference_id="p10")
    ranking = pictures.scope(tmp_path).search([query], pictures.gallery(), 4, exclude_reference=True)
    assert ranking.gallery_ids[0] == ["p9", "p11", "p8", "p12"]
    assert pictures.counts() == {"captioner": 40}
    assert trace_of(tmp_path)["q"]["descriptions"] == ["picture 10"]


@pytest.mark.parametrize(
    ("options", "named"), [({"tau": 1.5}, "tau=1.5"), ({"verified": -1}, "verified=-1.*=3"), ({"waiting": 0}, "=0")]
)
def test_settings_out_of_range_are_refused(tmp_path, options, named):
    with pytest.raises(ValueError, match=named):
        world(range(3)).scope(tmp_path, **options)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_without_any_usable_answer_is_named(tmp_path, role):
    pictures = world(range(30))
    pictures.texts[role] = lambda request: "Sorry?"
    queries = [composed(number, 2, f"q{number}") for number in range(20)]
    with pytest.raises(ChatStop, match=rf"{role} \(model-{role}\).* 2\d .*malformed") as stop:
        pictures.scope(tmp_path).search(queries, pictures.gallery(), 3)
    assert stop.value.reason == "model"


def test_a_gallery_without_any_caption_is_refused(tmp_path):
    pictures = world(range(3))
    pictures.faults["captioner"] = lambda request: Outcome("refused")
    with pytest.raises(ValueError, match=r"\(model-captioner\).* 3 images"):
        pictures.scope(tmp_path).search([composed(0, 1)], pictures.gallery(), 3)


# --- size and resources ----------------------------------------------------------------------------------------------


def flat(number: int) -> Image.Image:
    return Image.new("RGB", (2, 2), (number % 256, number // 256, 0))


def test_every_query_of_a_large_benchmark_is_answered(tmp_path):
    pictures = World({number: flat(number) for number in range(30)}, plus)
    queries = [Query(id=f"q{number}", modification_text=f"picture {number % 30}") for number in range(1201)]
    ranking = pictures.scope(tmp_path, verified=0, evaluated=0).search(queries, pictures.gallery(), 1)
    assert ranking.query_ids == [f"q{number}" for number in range(1201)]
    assert ranking.gallery_ids == [[f"p{number % 30}"] for number in range(1201)]


def test_few_files_are_open_at_a_time(tmp_path):
    pictures = {number: tmp_path / f"{number}.png" for number in range(150)}
    for number, path in pictures.items():
        flat(number).save(path)
    pictures = World(pictures, plus)
    queries = [composed(number, 3, f"q{number}") for number in range(50)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, hard))
    try:
        scope = pictures.scope(tmp_path, verified=3, evaluated=1)
        ranking = scope.search(queries, pictures.gallery(), 5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [ids[0] for ids in ranking.gallery_ids] == [f"p{number + 3}" for number in range(50)]


def test_a_panel_closes_its_own_event_loop_and_no_other(tmp_path):
    pictures, loop = world(range(3)), asyncio.new_event_loop()
    given = pictures.panel(tmp_path, loop=loop)
    given.close()
    assert not loop.is_closed()
    assert given.on_main(lambda: asyncio.sleep(0, "still open")) == "still open"
    loop.close()
    with closing(pictures.panel(tmp_path)) as own:
        assert own.on_main(lambda: asyncio.sleep(0, "open")) == "open"
    assert own._loop.is_closed()
