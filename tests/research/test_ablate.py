"""Grids of trainings: which runs are executed, and the content of the page."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from contextcir.cli import train
from contextcir.cli.main import COMMANDS
from research import ablate
from research.ablation.grid import read_grid
from research.ablation.page import END_OF_HEAD, HEAD, agreement, in_words

BASE = {"data": "triplets", "benchmark": "scenes", "benchmark_split": "validation", "cc_weight": 0.08}
FIRST = {
    "title": "The loss",
    "claim": "It helps.",
    "variants": {"default": {}, "cc_0": {"cc_weight": 0}},
    "paper": [{"of": "cc_0", "recall@1": -6.32}],
}
SECOND = {
    "title": "Masking",
    "claim": "It matters.",
    "variants": {"default": {}, "no_mask": {"mask_repeated_targets": False}},
    "verdict": "It does not.",
}


@pytest.fixture
def grid(tmp_path, monkeypatch):
    folder = tmp_path / "grid"
    folder.mkdir()
    for name, content in (("base", BASE), ("1_loss", FIRST), ("2_masking", SECOND)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def commands(monkeypatch):
    """Replace the commands by their output files. Returns the commands, after the function that replaces them."""
    called = []

    def execute(command, log, gpu):
        called.append(command)
        assert command[0] == "contextcir"
        options = dict(zip(command[2::2], command[3::2], strict=False))
        if command[1] == "train":
            folder = Path(options["--output_dir"])
            folder.mkdir(parents=True)
            logs = [{"loss_contrastive": 3.0 - step, "map_diversity": 0.1 * step} for step in (1, 3)]
            (folder / "training.json").write_text(json.dumps({"history": [*logs, {"eval_loss": 3.0}]}))
            if float(options["--cc_weight"]) == 0 and execute.fails:
                raise RuntimeError("cc_0 ran out of memory")
        elif command[1] == "benchmark":
            seed = int(options["--retriever"].removesuffix("/then")[-1])
            worse = "cc_0" in options["--retriever"]
            metrics = {"recall@1": 20.0 + seed - worse * (1 + seed), "recall@10": 80.0, "recall_subset@1": 40.0}
            record = {"results": [{"metrics": metrics}], "num_queries": 5, "gallery_size": 1234, "device": "cpu"}
            record |= {"commit": "0123456789", "protocol_id": execute.protocol}
            record["grounding"] = {"all": {"pointing": 50.0 - 10 * seed, "mass": 30.0, "chance": 14.0}}
            Path(options["--output"]).write_text(json.dumps(record))
        else:
            Path(command[-1]).mkdir()

    execute.fails, execute.protocol = False, "scenes-3"
    monkeypatch.setattr(ablate, "execute", execute)
    called.append(execute)  # for its settings
    return called


def run(grid, *arguments):
    ablate.main(["--grid", str(grid), "--page", "page.md", "--runs", "runs", "--results", "results", *arguments])


def trained(commands):
    return [command[command.index("--output_dir") + 1] for command in commands[1:] if command[1] == "train"]


def test_each_variant_is_run_once_and_rendered(grid, commands):
    run(grid, "--seeds", "0", "2")
    assert trained(commands) == [f"runs/{name}-{seed}" for seed in (0, 2) for name in ("default", "cc_0", "no_mask")]
    command = next(c for c in commands[1:] if "runs/no_mask-2" in c and c[1] == "train")
    assert command[-4:] == ["--seed", "2", "--output_dir", "runs/no_mask-2"]
    assert command[command.index("--mask_repeated_targets") + 1] == "false"
    page = Path("page.md").read_text()
    assert (
        "| `cc_0`: cc_weight 0 | 2 | 19.0 ± 0.0 | 80.0 ± 0.0 | 40.0 ± 0.0 "
        "| 40.0 ± 14.1 | 30.0 ± 0.0 | – | 0.30 ± 0.00 |" in page
    )
    assert "| `cc_0` less `default` | -6.32 | 2 | -2.0 (-3.0 to -1.0) | +0.0 (+0.0 to +0.0) | yes |" in page
    for part in ("6 trainings", "5 queries", "1,234", "`0123456`", "## Masking", "It matters.", "It does not."):
        assert part in page, part
    assert Path("figures/page_loss.png").stat().st_size > 1000
    assert not list(Path("runs").glob("*/"))  # models are not kept
    assert not list(Path("results").glob("*.partial"))


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [([-1, -2], "yes"), ([1, 2], "no"), ([], "–")] + [(ours, "undecided") for ours in ([-1, 2], [0, -1], [0, 1], [0])],
)
def test_a_claim_agrees_if_all_seeds_do(ours, verdict):
    assert agreement(-6.32, ours) == verdict


def test_runs_with_a_result_are_skipped_unless_their_options_change(grid, commands):
    run(grid, "--seeds", "0")
    del commands[1:]
    run(grid, "--seeds", "0")
    assert len(commands) == 1
    (grid / "2_masking.yaml").write_text(
        yaml.safe_dump(SECOND | {"variants": {"default": {}, "no_mask": {"mask_repeated_targets": True}}})
    )
    run(grid, "--seeds", "0")
    assert trained(commands) == ["runs/no_mask-0"]
    del commands[1:]
    run(grid, "--seeds", "0", "--render")
    assert len(commands) == 1


def test_variants_can_be_chosen(grid, commands):
    run(grid, "--seeds", "0", "1", "--variants", "no_mask", "default")
    assert trained(commands) == ["runs/default-0", "runs/no_mask-0", "runs/default-1", "runs/no_mask-1"]
    with pytest.raises(ValueError, match="default, cc_0, no_mask.*'mask'"):
        run(grid, "--variants", "mask")


def test_an_interrupted_run_starts_again(grid, commands):
    Path("runs/default-0").mkdir(parents=True)
    Path("runs/default-0/checkpoint-5").write_text("half")
    Path("results").mkdir()
    Path("results/default-0.partial").write_text("half")
    run(grid, "--seeds", "0", "--parts", "loss")
    assert trained(commands) == ["runs/default-0", "runs/cc_0-0"]


def test_a_failed_run_is_reported_after_the_others(grid, commands):
    commands[0].fails = True
    with pytest.raises(RuntimeError, match="cc_0 ran out of memory"):
        run(grid, "--seeds", "0")
    assert {path.stem for path in Path("results").iterdir()} == {"default-0", "no_mask-0"}


def test_results_of_two_protocols_are_not_averaged(grid, commands):
    run(grid, "--seeds", "0")
    commands[0].protocol = "scenes-4"
    with pytest.raises(ValueError, match="scenes-3 .*scenes-4"):
        run(grid, "--seeds", "0", "1")


def test_variants_like_another_of_an_earlier_part_and_with_a_second_stage(grid, commands):
    two_stages = {"model": "instructcir", "then": {"model": None, "max_steps": 7}}
    variants = {
        "cc_0": None,
        "both": {"like": "cc_0", "mask_repeated_targets": False, "benchmark": None},
        "lambda": {"like": "both", "benchmark": "scenes", **two_stages},
    }
    third = {"title": "More", "claim": "It continues.", "variants": variants}
    (grid / "3_more.yaml").write_text(yaml.safe_dump(third, sort_keys=False))
    found = read_grid(grid, ["more"])
    assert found.variants["cc_0"] == BASE | {"cc_weight": 0}
    expected = {"data": "triplets", "benchmark_split": "validation", "cc_weight": 0, "mask_repeated_targets": False}
    assert found.variants["both"] == expected
    variants["both"].pop("benchmark")
    (grid / "3_more.yaml").write_text(yaml.safe_dump(third, sort_keys=False))
    run(grid, "--seeds", "1", "--parts", "more")
    assert trained(commands) == ["runs/cc_0-1", "runs/both-1", "runs/lambda-1", "runs/lambda-1/then"]
    first, second = [command for command in commands[1:] if command[1] == "train"][-2:]
    assert "--model" in first and "--max_steps" not in first and "--model" not in second
    assert second[second.index("--model_name_or_path") + 1] == "runs/lambda-1"
    assert second[second.index("--max_steps") + 1] == "7" and second[second.index("--data") + 1] == "triplets"
    assert "runs/lambda-1/then" in commands[-1]  # the measured model
    page = Path("page.md").read_text()
    assert "| `lambda`: like both, benchmark scenes, model instructcir, then max_steps 7 |" in page
    assert in_words({"like": "cc_0", "ema_momentum": None}) == "like cc_0, no ema_momentum"


def test_data_are_prepared_once(grid, commands):
    (grid / "1_loss.yaml").write_text(
        yaml.safe_dump(FIRST | {"prepare": {"leaves": "contextcir phrases data leaves"}})
    )
    run(grid, "--seeds", "0", "--parts", "loss")
    run(grid, "--seeds", "1", "--parts", "loss")
    assert [command for command in commands[1:] if command[1] == "phrases"] == [
        ["contextcir", "phrases", "data", "leaves"]
    ]


def test_the_section_of_other_experiments_is_kept(grid, commands):
    run(grid, "--seeds", "0", "--parts", "loss")
    page = Path("page.md")
    title, rest = page.read_text().split("\n\n", 1)
    head = f"{HEAD}\n## Another\n\nIts text.\n{END_OF_HEAD}\n"
    page.write_text(f"{title}\n\n{head}\n{rest}")
    for _ in range(2):
        run(grid, "--seeds", "0", "--parts", "loss", "--render")
        assert page.read_text() == f"{title}\n\n{head}\n## The grid\n\n{rest}"


def test_missing_runs_are_named_and_parts_without_comparison_left_out(grid, commands):
    run(grid, "--seeds", "0", "--parts", "loss")
    more = {**FIRST["variants"], "cc_1": {"cc_weight": 1}}
    (grid / "1_loss.yaml").write_text(yaml.safe_dump(FIRST | {"variants": more}, sort_keys=False))
    run(grid, "--seeds", "0", "--render")
    page = Path("page.md").read_text()
    assert "Not run: `cc_1`." in page and "| `cc_1`" not in page
    assert "## Masking" not in page and not Path("figures/page_masking.png").exists()
    assert "14.0 %" in page  # by chance


def test_untrained_results_are_in_the_same_table(grid, commands):
    (grid / "1_loss.yaml").write_text(yaml.safe_dump(FIRST | {"beside": "untrained.json"}))
    metrics = {"recall@1": 3.0, "recall@10": 12.0, "recall_subset@1": 20.0}
    Path("untrained.json").write_text(json.dumps({"results": [{"retriever": "CLIP, slerp", "metrics": metrics}]}))
    run(grid, "--seeds", "0", "--parts", "loss")
    assert "| CLIP, slerp | – | 3.0 | 12.0 | 20.0 | – | – | – | – |" in Path("page.md").read_text()


def test_a_failed_command_shows_the_end_of_its_output(tmp_path, monkeypatch):
    log = tmp_path / "log"
    with pytest.raises(RuntimeError, match=rf"(?s)contextcir no-such --x .* 2.*{log}.*'no-such'"):
        ablate.execute(["contextcir", "no-such", "--x"], log, 0)
    with pytest.raises(ValueError, match="'train.py --x'"):
        ablate.execute(["train.py", "--x"], log, 0)
    environments = []
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: environments.append(options["env"]) or done)
    ablate.execute(["contextcir", "env"], log, 0)
    assert environments[0]["OMP_NUM_THREADS"] == "1" or "CUDA_VISIBLE_DEVICES" in environments[0]


def test_errors_of_grids(grid):
    with pytest.raises(ValueError, match="loss, masking.*'lost'"):
        read_grid(grid, ["lost"])
    with pytest.raises(ValueError, match="--render"):
        run(grid, "--render")
    for change, message in (
        ({"variants": {"no_mask": {}}}, "masking: 'no_mask' .*{'mask_repeated_targets': False}.* {}"),
        ({"variants": {"No Mask": {}}}, "loss: .*'No Mask'"),
        ({"paper": [{"of": "lost", "recall@1": 1}]}, "loss: .*'of': 'lost'"),
        ({"variants": {"a": {"like": "b"}}}, "loss: 'a' .*'b'"),
        ({"variants": {"a": None}}, "loss: 'a' .*'a'"),
        ({"variant": {}}, "1_loss.yaml.*'variant'"),
    ):
        (grid / "1_loss.yaml").write_text(yaml.safe_dump(FIRST | {"paper": []} | change))
        with pytest.raises(ValueError, match=message):
            read_grid(grid)
    (grid / "base.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="base.yaml.*YAML"):
        read_grid(grid)
    (grid / "base.yaml").unlink()
    with pytest.raises(ValueError, match="base.yaml"):
        read_grid(grid)
    with pytest.raises(ValueError, match="jobs .*got 0"):
        ablate.Arguments(jobs=0)


@pytest.mark.parametrize(("name", "least"), [("scenes_ablation", 20), ("scenes_instructcir", 10)])
def test_the_grids_that_ship_can_be_run(name, least):
    grid = read_grid(ablate.ROOT / "configs" / name)
    runs = ablate.planned(grid, [0])
    assert len({run.digest for run in runs}) == len(runs)  # no experiment has two names
    assert len(runs) > least and grid.base["benchmark_split"] == "validation"
    for run in runs:
        for _, _, *words in ablate.train_commands(run, Path("out")):
            *_, args = train.parse_arguments([*words, "--use_cpu", "true"])
            assert args.train_only == run.options.get("then", {}).get("train_only") or "then" not in words[-1]
        *_, args = train.parse_arguments([*ablate.train_commands(run, Path("out"))[0][2:], "--use_cpu", "true"])
        for name in set(run.options) & {"cc_weight", "cc_form", "query_negatives", "freeze_text"}:
            assert getattr(args, name) == run.options[name], run.name
    for part in grid.parts:
        for command in part.prepare.values():
            program, name, *_ = shlex.split(command)
            assert program == "contextcir" and name in COMMANDS


def test_both_grids_have_the_same_budget():
    one, other = (read_grid(ablate.ROOT / "configs" / name) for name in ("scenes_ablation", "scenes_instructcir"))
    assert one.base == other.base
    shared = one.variants.keys() & other.variants.keys()
    assert {"default", "combiner"} <= shared
    assert all(one.variants[name] == other.variants[name] for name in shared)
