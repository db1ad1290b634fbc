"""`contextcir generate` on pairs of drawn scenes, with a server on loopback that knows what they show."""

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from functools import cache
from pathlib import Path

import datasets
import httpx
import openai
import pytest
from huggingface_hub import DatasetCard
from PIL import Image as PILImage

from contextcir.benchmarks import cirr
from contextcir.chat.ledger import LedgerError
from contextcir.chat.ledger_file import rows_of
from contextcir.chat.server import ChatServer
from contextcir.cli import generate
from contextcir.cli.caption_inputs import PairArguments, choose_pairs
from contextcir.data.triplets import TRIPLET_FEATURES, load_triplets
from contextcir.phrases import extractor
from contextcir.scenes import render, sample_query
from contextcir.scenes.ground_truth import scene_to_json
from contextcir.scenes.oracle import Faults, Oracle
from contextcir.scenes.truth import Truth
from research import score_scene_captions
from tests.fake_chat_server import FakeChatServer, Reply, error
from tests.loopback_hub import LoopbackHub
from tests.whole_card import check_card

ROOT = Path(__file__).parents[2]
PAIRS = 8


@pytest.fixture(scope="module", autouse=True)
def one_parser():
    """Load the parser once for all runs of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractor, "NounPhraseExtractor", cache(extractor.NounPhraseExtractor))
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder with `pairs.json`, images in two folders, and `truth.jsonl`, the scene of each image."""
    folder, rng, truth, pairs = tmp_path_factory.mktemp("world"), random.Random(0), [], []
    for number in range(PAIRS):
        query = sample_query(rng, rng.randint(2, 4))
        names = [f"images/{'odd' if number % 2 else 'even'}/{number}{side}.jpg" for side in "ab"]
        for name, scene in zip(names, (query.reference, query.target), strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            render(scene, rng.randrange(10**6)).save(folder / name, quality=92)
            truth.append(json.dumps({"image": name, "scene": scene_to_json(scene)}) + "\n")
        pairs.append({"reference_image": names[0], "target_image": names[1]})
    (folder / "pairs.json").write_text(json.dumps(pairs))
    (folder / "truth.jsonl").write_text("".join(truth))
    return folder


@pytest.fixture
def serve(world, monkeypatch):
    """`serve(**faults)` -> a running oracle and its address, until the test ends. Pauses before retries are short."""
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)
    entered = []

    def start(**options):
        oracle = Oracle(Truth.from_folder(world), faults=Faults(**options))
        entered.append(oracle)
        return oracle, oracle.__enter__()

    yield start
    for oracle in entered:
        oracle.__exit__(None, None, None)


def flags(url, output, *others, pairs=None):
    source = ["--pairs", str(pairs)] if pairs else []
    return [*source, "--output", str(output), "--model", "oracle", "--base-url", url, "--free", *map(str, others)]


def lines(output):
    return [json.loads(line) for line in (output / "pairs.jsonl").read_text().splitlines()]


# --- results ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(world, tmp_path_factory):
    """A run without faults, over all pairs."""
    output = tmp_path_factory.mktemp("done") / "out"
    with Oracle(Truth.from_folder(world)) as url:
        assert generate.main(flags(url, output, pairs=world / "pairs.json")) == 0
    return output


def test_dataset_json_has_the_format_of_good4cir(world, done):
    entries = json.loads((done / "dataset.json").read_text())
    for entry, pair in zip(entries, json.loads((world / "pairs.json").read_text()), strict=True):
        assert (
            list(entry) == ["reference_image", "target_image", "difference_captions"] and entry.items() >= pair.items()
        )
        assert entry["difference_captions"] and all(isinstance(text, str) for text in entry["difference_captions"])


def test_captions_are_compared_with_the_truth(world, done, tmp_path, capsys):
    found = score_scene_captions.main([str(done), "--truth", str(world)])
    scores, captions = found["scores"], [caption for pair in lines(done) for caption in pair["captions"]]
    told = [caption for caption in captions if caption["dropped"] is None]
    assert len(told) == scores["all"]["captions"]
    assert scores["all"]["precision"] > 95 and scores["all"]["recall"] > 90
    for name in ("add", "remove"):
        assert scores[name]["captions"] == sum(caption["operation"] == name for caption in told)
    assert sum(scores[name]["edits"] for name in ("add", "remove", "change")) == scores["all"]["edits"]
    assert "precision" in capsys.readouterr().out
    assert json.loads((done / "truth_scores.json").read_text()) == found
    turned = tmp_path / "turned"  # references and targets change places: what was removed is now added
    turned.mkdir()
    swapped = [pair | {"reference_id": pair["target_id"], "target_id": pair["reference_id"]} for pair in lines(done)]
    swapped.append(swapped[0] | {"captions": []})
    swapped[0]["captions"] = [caption | {"dropped": "too_long"} for caption in swapped[0]["captions"]]
    (turned / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in swapped))
    found = score_scene_captions.main([str(turned), "--truth", str(world)])
    assert found["scores"]["all"]["precision"] < 50 and found["failed_pairs"] == 2
    dropped = sum(caption["dropped"] is None for caption in lines(done)[0]["captions"])
    assert found["scores"]["all"]["captions"] == len(told) - dropped > 0


def test_invented_differences_lower_precision(world, done, serve, tmp_path):
    _, url = serve(differences_wrong=0.5)
    assert generate.main(flags(url, tmp_path / "out", pairs=world / "pairs.json")) == 0
    erring, honest = (
        score_scene_captions.main([str(folder), "--truth", str(world)])["scores"]["all"]
        for folder in (tmp_path / "out", done)
    )
    assert 20 < erring["precision"] < 80 < honest["precision"]
    assert erring["recall"] < honest["recall"] and erring["edits"] == honest["edits"]


def test_triplets_can_be_trained_on(world, done):
    triplets = load_triplets(str(done / "triplets"))
    assert set(TRIPLET_FEATURES) == set(triplets.column_names)
    singles = sum(len(entry["difference_captions"]) for entry in json.loads((done / "dataset.json").read_text()))
    rows = datasets.load_dataset(str(done), split="train")
    assert rows.num_rows == len(triplets) > singles == sum(number == 1 for number in rows["num_changes"])
    row = rows.remove_columns(["reference_image", "target_image"])[0]
    assert row["operations"][0] in ("add", "remove", "modify", "replace")
    assert (row["recipe"], row["model"]) == ("good4cir", "oracle")
    assert len(row["requests"]) == 3 and row["original_caption"] is None
    assert triplets[0]["reference_image"]["bytes"] == (world / row["reference_id"]).read_bytes()
    assert sum(len(phrases) for phrases in triplets["noun_phrases"]) > len(triplets)
    assert [len(operations) for operations in rows["operations"]] == list(rows["num_changes"])
    assert max(rows["num_changes"]) <= 4


def test_the_report_adds_up(done):
    report = json.loads((done / "report.json").read_text())
    assert report["pairs"] == {"given": PAIRS, "kept": PAIRS, "failed": 0, "for_now": 0} and report["complete"]
    stages = ("reference_objects", "target_objects", "differences")
    assert report["stages"] == dict.fromkeys(stages, {"answered": PAIRS})
    captions = [caption for pair in lines(done) for caption in pair["captions"]]
    assert report["captions"]["written"] == len(captions)
    assert report["captions"]["kept"] + sum(report["captions"]["dropped"].values()) == len(captions)
    assert report["requests"]["requests"] == report["requests"]["sends"] == 3 * PAIRS
    assert report["triplets"]["total"] == sum(report["triplets"]["changes"].values())


@pytest.mark.fault("E15", "cards of built data sets have what a complete Croissant record needs")
def test_the_card_is_complete(done):
    check_card(done)


def test_the_card_gives_the_provenance(done):
    card = (done / "README.md").read_text()
    report = json.loads((done / "report.json").read_text())
    hashes = [prompt["hash"] for prompt in report["prompts"].values()]
    for text in ("arXiv 2503.17871", "oracle", *hashes, "`contextcir generate --pairs", "| pairs kept | 8 |"):
        assert text in card, text
    for figure in ("words", "noun_phrases", "operations", "cost"):
        assert f"figures/{figure}.png" in card and (done / "figures" / f"{figure}.png").stat().st_size > 1000


def test_a_second_run_sends_only_new_pairs(world, serve, tmp_path):
    pairs = json.loads((world / "pairs.json").read_text())
    few = world / "few.json"
    few.write_text(json.dumps(pairs[1:4]))
    oracle, url = serve()
    assert generate.main(flags(url, tmp_path, pairs=few)) == 0
    first = (tmp_path / "dataset.json").read_bytes(), (tmp_path / "pairs.jsonl").read_bytes()
    assert oracle.num_answered == 9
    assert generate.main(flags(url, tmp_path, pairs=few)) == 0
    assert ((tmp_path / "dataset.json").read_bytes(), (tmp_path / "pairs.jsonl").read_bytes()) == first
    assert oracle.num_answered == 9
    few.write_text(json.dumps(pairs[:4]))
    assert generate.main(flags(url, tmp_path, pairs=few)) == 0
    assert oracle.num_answered == 12
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(load_triplets(str(tmp_path / "triplets"))) == report["triplets"]["total"]


def test_online_and_batch_share_requests_and_results(world, serve, done, tmp_path):
    oracle, url = serve(expired_batches=1)
    batch = flags(url, tmp_path, "--mode", "batch", "--poll_seconds", "0.05", pairs=world / "pairs.json")
    assert generate.main(batch) == 0
    assert (tmp_path / "dataset.json").read_bytes() == (done / "dataset.json").read_bytes()
    assert lines(tmp_path) == lines(done)  # with the ids of all requests
    answered = oracle.num_answered
    assert generate.main(flags(url, tmp_path, pairs=world / "pairs.json")) == 0  # continues online
    assert oracle.num_answered == answered == 3 * PAIRS


def test_instructcir_draws_pairs_and_captions_each_image_once(world, serve, tmp_path):
    oracle, url = serve()
    drawn = ["--recipe", "instructcir", "--images", world / "images", "--num_pairs", "20", "--seed", "3"]
    assert generate.main(flags(url, tmp_path, *drawn)) == 0
    pairs = lines(tmp_path)
    assert len({(pair["reference_id"], pair["target_id"]) for pair in pairs}) == 20
    assert all(Path(pair["reference_id"]).parent == Path(pair["target_id"]).parent for pair in pairs)
    images = {pair[f"{side}_id"] for pair in pairs for side in ("reference", "target")}
    report = json.loads((tmp_path / "report.json").read_text())
    sent = {stage["stage"]: stage["sends"] for stage in report["requests"]["stages"]}
    assert sent["image_caption"] == len(images) <= 2 * PAIRS
    assert sent["reformulation"] >= 20
    rows = load_triplets(str(tmp_path / "triplets"))
    assert len(rows) == sum(pair["reason"] == "" for pair in pairs) > 15
    assert all(2 <= len(text.split()) <= 12 for text in rows["modification_text"])
    assert "arXiv 2504.00812" in (tmp_path / "README.md").read_text()


@pytest.mark.fault("P04", "generated data keep licence, tags and text of the images' data set, and name the parser")
def test_the_card_carries_on_that_of_the_images(world, serve, tmp_path):
    _, url = serve()
    shutil.copytree(world / "images", tmp_path / "photos")
    header = "license: cc-by-4.0\ntags: [blocks]\nlanguage: sv\n"
    (tmp_path / "photos" / "README.md").write_text(f"---\n{header}---\n\n# Blocks\n\nWith thanks to everybody.\n")
    drawn = ["--recipe", "instructcir", "--images", tmp_path / "photos", "--num_pairs", "3"]
    assert generate.main(flags(url, tmp_path / "out", *drawn)) == 0
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert (card.data.license, card.data.language) == ("cc-by-4.0", "sv")
    assert card.data.tags == ["blocks", "composed-image-retrieval", "synthetic", "instructcir"]
    assert "With thanks to everybody." in card.text
    assert re.search(r"- noun phrases: the parser that ships with contextcir \(weights [0-9a-f]{32}\)", card.text)
    assert len(load_triplets(str(tmp_path / "out" / "triplets"))) == 3


def test_pairs_are_drawn_within_classes(tmp_path):
    for name in ("women/dresses/1/a.png", "women/dresses/2/b.png", "women/tops/3/c.png", "men/4/d.png", "men/4/e.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (4, 4)).save(tmp_path / "photos" / name)

    def drawn(count, output="out", **options):
        args = PairArguments(images=str(tmp_path / "photos"), num_pairs=count, **options)
        pairs, origin = choose_pairs(args, str(tmp_path / output))
        return {frozenset((pair.reference_id, pair.target_id)) for pair in pairs}, origin

    of_men, of_dresses = {"men/4/d.png", "men/4/e.png"}, {"women/dresses/1/a.png", "women/dresses/2/b.png"}
    pairs, origin = drawn(2)
    assert pairs == {frozenset(of_men)}
    assert re.findall(r"\d+", origin) == ["5", "4", "3"]  # images, groups, groups of one image
    assert drawn(4, folder_depth=2)[0] == {frozenset(of_men), frozenset(of_dresses)}
    assert len(drawn(20, pairs_within="collection")[0]) == 10
    with pytest.raises(ValueError, match="photos/out.*photos"):
        drawn(2, output="photos/out")


def test_a_dry_run_prints_requests_and_sends_nothing(world, tmp_path, capsys):
    pairs, output = str(world / "pairs.json"), str(tmp_path / "out")
    assert generate.main(["--pairs", pairs, "--output", output, "--model", "gpt-4o", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "--- reference_objects: ReferenceObjects of data:image/jpeg of" in printed
    for text in ("--- target_objects", "--- differences", "<target_objects>[{", "8 pairs: about $0."):
        assert text in printed
    assert not (tmp_path / "out").exists()


# --- errors and interruptions ----------------------------------------------------------------------------------------


def test_every_pair_has_a_result_whatever_the_server_does(world, serve, tmp_path, capsys):
    faults = {"refusals": 0.1, "content_filter": 0.1, "cut": 0.1, "malformed": 0.3, "rate_429": 0.1, "rate_5xx": 0.05}
    oracle, url = serve(retry_after=0.01, objects_hallucinated=0.3, **faults)
    drawn = ["--images", world / "images", "--num_pairs", "30"]
    assert generate.main(flags(url, tmp_path, *drawn)) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["pairs"]["given"] == 30 == report["pairs"]["kept"] + sum(report["failures"].values())
    kinds = {kind for outcomes in report["stages"].values() for kind in outcomes}
    assert {"answered", "refused", "filtered", "cut", "malformed"} == kinds
    for stage, outcomes in report["stages"].items():
        for kind, count in outcomes.items():
            assert kind == "answered" or report["failures"][f"{stage}: {kind}"] == count
    assert max(oracle.answered.values()) == 1
    assert "failed=" in capsys.readouterr().err  # the progress bar


def test_an_exhausted_quota_stops_and_the_same_command_continues(world, serve, done, tmp_path, capsys):
    first, url = serve(quota=15)
    argv = ["--concurrency", "2"]
    assert generate.main(flags(url, tmp_path, *argv, pairs=world / "pairs.json")) == 3
    printed = capsys.readouterr().err
    assert "quota" in printed
    assert set(re.findall(r"failed=(\d+)", printed)) == {"0"}  # a pair that was not reached has not failed
    report = json.loads((tmp_path / "report.json").read_text())
    assert not report["complete"] and report["failures"]["not_reached"] + report["pairs"]["kept"] == PAIRS
    assert len({pair["reference_id"] for pair in lines(tmp_path)}) == PAIRS
    assert "**Not complete**" in (tmp_path / "README.md").read_text()
    assert len(load_triplets(str(tmp_path / "triplets"))) > 0
    second, url = serve()
    assert generate.main(flags(url, tmp_path, *argv, pairs=world / "pairs.json")) == 0
    assert (tmp_path / "dataset.json").read_bytes() == (done / "dataset.json").read_bytes()
    assert first.num_answered + second.num_answered == 3 * PAIRS


def test_the_budget_is_never_exceeded(world, serve, tmp_path, capsys):
    oracle, url = serve()
    argv = flags(url, tmp_path, "--usd_per_million", "1", "2", "--max_usd", "0.02", pairs=world / "pairs.json")
    argv.remove("--free")
    assert generate.main(argv) == 3
    assert "$0.02" in capsys.readouterr().err
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as ledger:
        (spent,) = ledger.execute("select total(usd + lost_usd + reserved_usd) from requests").fetchone()
    assert oracle.num_answered > 0 and 0 < spent <= 0.02


@pytest.mark.parametrize(
    ("options", "message"), [({"models": ["other"]}, "'oracle'"), ({"api_key": "right"}, "OPENAI_API_KEY")]
)
def test_a_wrong_model_or_key_stops_at_once(world, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-key-123456")
    with Oracle(Truth.from_folder(world), **options) as url:
        assert generate.main(flags(url, tmp_path, pairs=world / "pairs.json")) == 3
    error = capsys.readouterr().err
    assert message in error and "sk-wrong" not in error
    assert not (tmp_path / "dataset.json").exists() and not (tmp_path / ".results.jsonl").exists()


def test_no_pair_kept_is_an_error(world, serve, tmp_path, capsys):
    _, url = serve(refusals=1.0)
    assert generate.main(flags(url, tmp_path, pairs=world / "pairs.json")) == 1
    assert "{'reference_objects: refused': 8}" in capsys.readouterr().err
    assert json.loads((tmp_path / "dataset.json").read_text()) == []


def test_a_folder_with_other_prompts_is_refused(world, serve, done, tmp_path):
    _, url = serve()
    text = (ROOT / "contextcir/captions/prompts/good4cir/differences.txt").read_text()
    (tmp_path / "differences.txt").write_text(text.replace("version: 1", "version: 1b"))
    with pytest.raises(LedgerError, match=f"{done} .*prompts: "):
        generate.main(flags(url, done, "--prompts", tmp_path, pairs=world / "pairs.json"))


def signalled(oracle, argv, number):
    """A run that gets a signal when three of its requests are answered."""
    command = [sys.executable, "-m", "contextcir.cli.generate", *argv]
    run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while oracle.num_answered < 3:
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.02)
    run.send_signal(number)
    return run


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc")
def test_a_run_that_waits_for_a_server_is_small(world, serve, tmp_path):
    oracle, url = serve(latency=0.2)
    run = signalled(oracle, flags(url, tmp_path, pairs=world / "pairs.json"), signal.SIGSTOP)
    try:
        loaded = Path(f"/proc/{run.pid}/maps").read_text()
    finally:
        run.kill()
        run.communicate()
    assert "python" in loaded and "libarrow" not in loaded and "libtorch" not in loaded


@pytest.mark.slow
def test_an_interrupted_run_ends_within_seconds_and_is_continued(world, serve, done, tmp_path):
    oracle, url = serve(latency=0.2)
    argv = flags(url, tmp_path, "--concurrency", "2", pairs=world / "pairs.json")
    run = signalled(oracle, argv, signal.SIGINT)
    began = time.monotonic()
    _, error = run.communicate(timeout=60)
    assert run.returncode == 130 and time.monotonic() - began < 12
    assert "Interrupted" in error and "Traceback" not in error
    assert oracle.num_answered < 3 * PAIRS
    answered = oracle.num_answered
    other, url = serve()
    assert generate.main(flags(url, tmp_path, "--concurrency", "2", pairs=world / "pairs.json")) == 0
    assert answered + other.num_answered == 3 * PAIRS  # requests in flight were finished
    assert (tmp_path / "dataset.json").read_bytes() == (done / "dataset.json").read_bytes()


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ([], "--pairs.*--images"),
        (["--pairs", "a.json", "--images", "b", "--num_pairs", "1"], "--pairs.*--images"),
        (["--images", "b"], "--images.*--num_pairs"),
        (["--pairs", "a.json", "--num_pairs", "1"], "--images.*--num_pairs"),
        (["--pairs", "a.json", "--max_changes", "0"], "max_changes.*0"),
        (["--pairs", "a.json", "--usd_per_million", "1"], r"usd_per_million.*\[1.0\]"),
        (["--pairs", "no.json"], r"no\.json"),
        (["--pairs", "a.json", "--seed", "1"], "--seed"),
        (["--pairs", "a.json", "--pairs_within", "folder"], "--pairs_within"),
        (["--images", "b", "--num_pairs", "1", "--folder_depth", "0"], "folder_depth.*0"),
        (
            ["--images", "b", "--num_pairs", "1", "--recipe", "instructcir", "--max_changes", "2"],
            "instructcir.*changes",
        ),
    ],
)
def test_contradicting_arguments_are_refused(tmp_path, argv, problem):
    with pytest.raises(ValueError, match=problem):
        generate.main(["--output", str(tmp_path), "--model", "gpt-4o", *argv])


def test_a_model_without_a_price_is_refused(world, tmp_path):
    with pytest.raises(ValueError, match="'mine'"):
        generate.main(["--output", str(tmp_path), "--model", "mine", "--pairs", str(world / "pairs.json")])


# --- servers that fail -----------------------------------------------------------------------------------------------


def overloaded(body):
    return error(500, "Overloaded\x1b[2J, try \u202elater", delay=0.02)


@pytest.mark.fault("G02", "a run stops, to go on later, if a role answers nothing or its server goes down")
def test_a_server_that_fails_every_request_ends_a_run_early(world, tmp_path, capsys, monkeypatch):
    """200 pairs of different images: none of their requests would be shared."""
    monkeypatch.setattr(ChatServer.__init__, "__kwdefaults__", ChatServer.__init__.__kwdefaults__ | {"max_retries": 0})
    pairs = []
    for number in range(200):
        for side in "ab":
            PILImage.new("RGB", (4, 4), (number, 7, "ab".index(side))).save(tmp_path / f"{number}{side}.png")
        pairs.append({"reference_image": f"{number}a.png", "target_image": f"{number}b.png"})
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    with FakeChatServer(overloaded) as server:
        argv = flags(server.url, tmp_path / "out", "--concurrency", "16", pairs=tmp_path / "pairs.json")
        argv[argv.index("oracle")] = "fake"
        assert generate.main(argv) == 3
        first = len(server.bodies)
        assert 20 <= first <= 64  # and what was in flight by then: 32 pairs are begun, of two images each
        printed = capsys.readouterr().err
        assert "\x1b[2J" not in printed and "\u202e" not in printed
        assert "returned 500: Overloaded\\x1b[2J, try \\u202elater." in printed
        assert re.search(r"reference_objects: 0 answered, [2-6]\d failed", printed) and "Nothing was" in printed
        assert generate.main(argv) == 3 and first < len(server.bodies) <= first + 64  # asks again


@pytest.mark.fault("G04", "requests that failed for now are said to be, and above a share the run is incomplete")
def test_pairs_that_failed_for_now(world, serve, tmp_path, capsys):
    _, url = serve()
    pairs = world / "pairs.json"
    with FakeChatServer() as server:
        server.answer = lambda body: relay(url, body, server)
        argv = flags(server.url, tmp_path, "--concurrency", "1", pairs=pairs)
        server.down = {2, 5}
        assert generate.main(argv) == 5
        printed = capsys.readouterr()
        assert "2 pairs failed for now" in printed.err and "may bring 2 more" in printed.err
        assert "Incomplete: More than 5% failed: " in printed.err and "too busy" in printed.err
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["pairs"] == {"given": PAIRS, "kept": PAIRS - 2, "failed": 2, "for_now": 2}
        assert not report["complete"] and "More than 5%" in (tmp_path / "README.md").read_text()
        server.down = set()
        sent = len(server.bodies)
        assert generate.main([*argv, "--max_failed", "0"]) == 0
        assert len(server.bodies) - sent < 3 * 2 + 1
        assert json.loads((tmp_path / "report.json").read_text())["complete"]
        assert "failed for now" not in capsys.readouterr().err


def relay(url, body, server):
    """Ask the oracle, except for some requests."""
    if len(server.bodies) in server.down:
        return error(400, "too busy")
    answer = httpx.post(f"{url}/chat/completions", json=body)
    return Reply(answer.status_code, answer.json())


@pytest.mark.slow
@pytest.mark.fault("G05", "SIGTERM ends a run as Ctrl-C does: what is in flight is finished, exit code 75")
def test_sigterm_finishes_what_is_in_flight(world, serve, tmp_path):
    oracle, url = serve(latency=0.3)
    argv = flags(url, tmp_path, "--concurrency", "3", pairs=world / "pairs.json")
    run = signalled(oracle, argv, signal.SIGTERM)
    _, printed = run.communicate(timeout=60)
    assert run.returncode == 75 and "Interrupted" in printed and "Traceback" not in printed
    rows = rows_of(tmp_path / "ledger.sqlite", "select state from requests")
    states = Counter(row["state"] for row in rows)
    assert states["answered"] == oracle.num_answered < 3 * PAIRS and not states["sent"]


@pytest.mark.fault("M06", "no record, message or command names a password, a key or the query of an address")
def test_no_password_is_written(world, serve, tmp_path, capsys):
    _, url = serve()
    address = url.replace("http://", "http://me:pa55word@")
    assert generate.main(flags(address, tmp_path, pairs=world / "pairs.json")) == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5 and not [path for path in files if b"pa55word" in path.read_bytes()]
    printed = capsys.readouterr()
    assert "pa55word" not in printed.out + printed.err


# --- test images and publishing --------------------------------------------------------------------------------------


def test_test_images_are_left_out_and_named_in_the_card(world, serve, tmp_path, monkeypatch):
    sets = tmp_path / "sets" / "cirr"
    for folder in ("captions", "image_splits", "dev"):
        (sets / folder).mkdir(parents=True)
    for split, name in {"val": "dev-1-0-img0", "test1": "3b"}.items():
        images = {image: f"./dev/{image}.png" for image in (name, f"{name}-target")}
        (sets / "image_splits" / f"split.rc2.{split}.json").write_text(json.dumps(images))
        query = {"pairid": 1, "reference": name, "target_hard": f"{name}-target", "caption": "x"}
        query["img_set"] = {"members": list(images)}
        (sets / "captions" / f"cap.rc2.{split}.json").write_text(json.dumps([query]))
        monkeypatch.setitem(cirr.OFFICIAL, split, {"queries": 1, "images": 2})
    copy = world / "images/even/0a.jpg"
    (sets / "dev" / "dev-1-0-img0.png").write_bytes(copy.read_bytes())  # found by its content; "3b" by its name
    _, url = serve()
    argv = flags(url, tmp_path / "out", "--test_sets", tmp_path / "sets", pairs=world / "pairs.json")
    assert generate.main(argv) == 0
    left_out = {pair["reference_id"]: pair["detail"] for pair in lines(tmp_path / "out") if pair["reason"]}
    assert left_out["images/even/0a.jpg"].endswith(" cirr dev-1-0-img0")
    assert left_out["images/odd/3a.jpg"].endswith(" cirr 3b")
    assert re.search(r"cirr \(4\) .* 1 by", (tmp_path / "out/README.md").read_text())


def test_a_folder_without_test_sets_is_refused(world, tmp_path):
    argv = flags("http://127.0.0.1:9", tmp_path / "out", "--test_sets", tmp_path, pairs=world / "pairs.json")
    with pytest.raises(ValueError, match=f"{tmp_path} .*cirr, circo and fashioniq"):
        generate.main(argv)


def test_the_ledger_is_not_published(world, done, tmp_path):
    code = (
        "from contextcir.captions.writing import publish; from pathlib import Path;"
        f"[publish(Path({str(done)!r}), f'tester/{{public}}', public=public) for public in (False, True)]"
    )
    with LoopbackHub() as hub:
        environment = os.environ | hub.environment(tmp_path) | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
        for public in (False, True):
            files = hub.files("dataset", f"tester/{public}").keys()
            assert hub.private["dataset", f"tester/{public}"] is not public
            assert {"README.md", "dataset.json", "pairs.jsonl", "report.json", "triplets/train-00000.parquet"} <= files
            assert not [name for name in files if "ledger" in name]


@pytest.mark.fault("V04", "the query of the address, extra headers and an extra body go with each request")
def test_options_of_servers(world, serve, tmp_path):
    oracle, url = serve(answering_model="deployed")
    calls = []
    handle = oracle._server.handle

    async def record(call):
        calls.append(call)
        return await handle(call)

    oracle._server.handle = record
    drawn = ["--images", world / "images", "--num_pairs", "2"]
    options = ["--extra_header", "X-A=1", "X-B=b=c", "--extra_body", '{"options": {"num_ctx": 8}}']
    assert generate.main([*flags(url, tmp_path, *drawn), *options]) == 3  # another model has answered
    assert generate.main([*flags(url, tmp_path, *drawn), *options, "--accept_model", "other", "deployed"]) == 0
    assert calls[0].headers["x-a"] == "1" and calls[0].headers["x-b"] == "b=c"
    assert json.loads(calls[0].body)["options"] == {"num_ctx": 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--extra_header", "no-value"], "extra_header"),
        (["--extra_header", "a b=c"], "extra_header"),
        (["--extra_header", "a=b\nc"], "the header a|The value of the header a"),
        (["--extra_body", "{"], "extra_body is no JSON"),
        (["--extra_body", "[1]"], "JSON object"),
        (["--extra_body", '{"stream": true}'], "stream"),
        (["--batch_requests", "0", "--mode", "batch"], "batch_requests"),
    ],
)
def test_options_of_servers_that_cannot_be(world, tmp_path, options, message):
    drawn = ["--images", world / "images", "--num_pairs", "2"]
    with pytest.raises(ValueError, match=message):
        generate.main([*flags("http://127.0.0.1:9/v1", tmp_path, *drawn), *options])


@pytest.mark.fault("V11", "--batch_requests bounds the requests of a batch")
def test_batches_of_a_size(world, serve, tmp_path):
    oracle, url = serve()
    drawn = ["--images", world / "images", "--num_pairs", "3"]
    options = ["--mode", "batch", "--poll_seconds", "0.05", "--batch_requests", "2"]
    assert generate.main([*flags(url, tmp_path, *drawn), *options]) == 0
    sizes = [batch["request_counts"]["total"] for batch in oracle._batches.batches.values()]
    assert len(sizes) > 3 and max(sizes) <= 2
