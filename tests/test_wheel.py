"""The wheel that is built from the source archive, installed: commands, recipes and models work without a checkout."""

import json
import os
import re
import site
import subprocess
import venv
import zipfile
from pathlib import Path

import pytest

from research import release

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
SMALL = {"num_train": 240, "num_validation": 24, "num_test": 24, "gallery_size": 200, "image_size": 48}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    _, found = release.build(ROOT, tmp_path_factory.mktemp("wheel"))
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Run a command of an environment that has the wheel, and the libraries of this one but not its checkout."""
    home, empty = tmp_path_factory.mktemp("env"), tmp_path_factory.mktemp("empty")
    venv.create(home, symlinks=True, with_pip=True)
    install = [str(home / "bin" / "pip"), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    (packages,) = home.glob("lib/python*/site-packages")
    # The `.pth` files of a folder that is added this way are not read, so that an editable install stays out.
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HOME": str(home / "cache"), "ACCELERATE_USE_CPU": "true"}
    environment.pop("PYTHONPATH", None)
    python, program = str(home / "bin" / "python"), str(home / "bin" / "contextcir")

    def run(*argv: str, **options) -> str:
        command = [python, *argv] if argv[0] in ("-c", "-m") else [program, *argv]
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, **options)
        assert done.returncode == 0, f"{argv}: {done.stderr[-2000:]}"
        return done.stdout

    run.folder, run.start = (
        empty,
        lambda *argv: subprocess.Popen(
            [program, *argv], cwd=empty, env=environment, stderr=subprocess.PIPE, text=True
        ),
    )
    return run


def test_what_is_in_it(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "contextcir/py.typed",
        "contextcir/phrases/parser/parser.pt",
        "contextcir/captions/prompts/good4cir/differences.txt",
        "contextcir/chat/prices.json",
        "contextcir/evaluation/audit_page.html",
        "contextcir/retrieval/engines/probes.txt",
        "contextcir/serving/static/index.html",
        "contextcir/serving/space/Dockerfile",
        "contextcir/serving/space/README.md",
        "contextcir/visualization/search_page.html",
        "contextcir/shipped/configs/scenes_tiny.yaml",
        "contextcir/shipped/model_cards/contextcir_template.md",
        "contextcir/shipped/model_cards/gallery_template.md",
        "contextcir/shipped/checkpoints/scenes-clip-tiny/model.safetensors",
        "datasets_scripts/cards/scenes.md",
        "modeling_contextcir/modeling_contextcir.py",
    ):
        assert name in names, name
    tops = {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert tops == {"contextcir", "modeling_contextcir", "datasets_scripts"}
    entry = next(name for name in names if name.endswith("entry_points.txt"))
    assert "contextcir = contextcir.cli.main:console" in zipfile.ZipFile(wheel).read(entry).decode()


def test_the_tour(installed):
    said = installed("tour", "--serve", "false", "--output", "tour", "--pictures", "320")
    assert said.count("right: ") == 3 and (installed.folder / "tour" / "search_3.html").is_file()


def test_from_data_to_a_measured_model(installed):
    where = installed("-c", "import contextcir; print(contextcir.__file__)")
    assert str(ROOT) not in where
    assert "benchmark" in installed("--help")
    installed("data", "scenes", "--output", "scenes", *(f"--{name}={value}" for name, value in SMALL.items()))
    installed("phrases", "scenes/triplets")
    teaching = ["--steps", "2", "--batch_size", "8"]
    installed("ground", "scenes/triplets", "--clip_name_or_path", "checkpoints/scenes-clip-tiny", *teaching)
    options = ["--data", "scenes/triplets", "--benchmark", "scenes", "--max_steps", "20", "--output_dir", "runs/tiny"]
    options += ["--per_device_train_batch_size", "8", "--per_device_eval_batch_size", "24", "--report_to", "none"]
    options += ["--eval_strategy", "no", "--save_strategy", "no", "--disable_tqdm", "true", "--use_cpu"]
    installed("-m", "contextcir.cli.train", "configs/scenes_tiny.yaml", *options)  # the recipe and its CLIP ship
    folder = installed.folder / "runs" / "tiny"
    assert "Training" in (folder / "README.md").read_text()
    record = json.loads((folder / "training.json").read_text())
    assert record["commit"] is None and record["training"]["step"] == 20
    argv = ["--retriever", "runs/tiny", "--benchmark", "scenes", "--data_root", "scenes", "--baselines"]
    assert "recall_subset" in installed("benchmark", *argv, "--output", "metrics.json")
    metrics = json.loads((installed.folder / "metrics.json").read_text())
    assert len(metrics["results"]) == 6 and metrics["clip"] == "checkpoints/scenes-clip-tiny"
    where = ["scenes", "--config", "gallery", "--split", "test"]
    installed("index", *where, "--model", "runs/tiny", "--output", "gallery", "--index", "int8")
    found = json.loads(installed("search", "gallery", "--text", "a red circle", "--json", "--html", "page.html"))
    assert len(found["results"]) == 10 and (installed.folder / "page.html").stat().st_size > 10_000
    compared = installed("compare", "metrics.json", "metrics.json", "--retriever_after", "CLIP, slerp")
    assert "recall@1" in compared


def test_captions_by_the_oracle(installed):
    installed("data", "scene-pairs", "--output", "pairs", "--num_pairs", "6")
    oracle = installed.start("oracle", "--truth", "pairs", "--port", "0")
    try:
        url = oracle.stderr.readline().split()[-1]
        server = ["--model", "oracle", "--base_url", url, "--free"]
        said = installed("generate", "--pairs", "pairs/pairs.json", "--output", "made", *server)
    finally:
        oracle.terminate()
        oracle.communicate(timeout=20)
    assert "pairs kept" in said
    assert (installed.folder / "made" / "README.md").is_file()
    assert list((installed.folder / "made" / "triplets").glob("train-*.parquet"))


def test_messages_send_nobody_to_files_that_are_not_there(wheel):
    """Texts of the wheel name no script of the checkout as a command."""
    recorded = ("parser/README.md", "scenes-clip-tiny/README.md")  # cards that tell how shipped weights were made
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith((".py", ".md", ".yaml", ".txt", ".html")) and not name.endswith(recorded):
                text = archive.read(name).decode()
                found = re.findall(
                    r"(?:python|launch) (?:train\b|benchmark|datasets_scripts/\w+)|generate_captions\.py", text
                )
                assert not found, f"{name}: {found}"
