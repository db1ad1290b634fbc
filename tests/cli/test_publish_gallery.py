"""`contextcir publish gallery` and `space`, and what is published in `search` and `serve`, against a loopback Hub."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard
from PIL import Image

from contextcir.cli import publish
from contextcir.cli.main import main
from contextcir.cli.publish_space import serve_command
from contextcir.cli.serve import ServeArguments
from contextcir.data.card_fields import lacking
from contextcir.retrieval.base import Gallery
from contextcir.retrieval.identity import Identity
from contextcir.retrieval.store.changes import faults
from contextcir.retrieval.store.layout import Manifest, Shard, StoreError, file_digest, read_header
from tests.loopback_hub import LoopbackHub

ON_HUB = Identity("tester/model", "0" * 40)


@pytest.fixture
def hub(monkeypatch):
    with LoopbackHub() as loopback, loopback.in_this_process(monkeypatch):
        yield loopback


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three colours with facts, a photograph that says where it was taken, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("red", "green", "blue"):
        Image.new("RGB", (40, 30), name).save(folder / f"{name}.jpg")
    exif = Image.Exif()
    exif[0x010E] = "my own garden"  # ImageDescription
    Image.new("RGB", (1500, 30), "white").save(folder / "wide.jpg", exif=exif)
    (folder / "bad.jpg").write_bytes(b"x")
    (folder / "metadata.csv").write_text("file_name,price\nred.jpg,1\ngreen.jpg,2\n")
    return folder


@pytest.fixture(scope="module")
def local(photos, run, tmp_path_factory):
    """A gallery of a model of this machine, in shards of two images."""
    folder = tmp_path_factory.mktemp("galleries") / "colours"
    options = ["--output", str(folder), "--shard_size", "2"]
    assert main(["index", str(photos), "--model", str(run), *options]) == 4
    return folder


@pytest.fixture
def gallery(local, monkeypatch):
    """The same, whose model is found on the Hub."""
    monkeypatch.setattr("contextcir.cli.publish_gallery.encoder_on_hub", lambda *_: ON_HUB)
    return local


def test_what_is_published(hub, gallery, photos, tmp_path):
    commit = publish.main(["gallery", str(gallery), "tester/colours", "--license", "cc0-1.0"])
    assert hub.private["dataset", "tester/colours"]
    files = hub.files("dataset", "tester/colours")
    shards = {f"shards/{number:05d}.safetensors" for number in range(3)}
    assert set(files) == {"README.md", "manifest.json", *shards}
    assert not any(str(photos.parent).encode() in content for content in files.values())
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    manifest = Manifest.read(tmp_path)
    assert manifest.encoder == ON_HUB and "bad.jpg" in manifest.bad
    for facts in manifest.shards:
        assert file_digest(tmp_path / "shards" / facts["file"]) == facts["sha256"]
    opened = Gallery.open(tmp_path)
    before = Gallery.open(gallery)
    assert opened.ids == before.ids and opened.facts == before.facts
    assert (opened.rows[:] == before.rows[:]).all() and opened.path_of("red.jpg") is None
    card = files["README.md"].decode()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "cc0-1.0" and header["size_categories"] == ["n<1K"] and header["viewer"] is False
    assert "4 images" in card and f"search hf://tester/colours@{commit[:3]}" in card and "tester/model" in card
    assert not {"description", "license", "tags"} & set(lacking(DatasetCard(card)))


@pytest.mark.fault("E13", "reasons of bad images in a published gallery name no path of the machine that made it")
def test_reasons_of_bad_images(hub, gallery, photos, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(gallery, mine)
    manifest, reason = Manifest.read(mine), f"no such file in {photos}/sub. Was it moved?"
    shards = [dict(facts) for facts in manifest.shards]
    for facts in shards:
        path = mine / "shards" / facts["file"]
        fingerprint = read_header(path)["fingerprint"]
        shard = Shard.read(path)
        replace(shard, bad={id_: reason for id_ in shard.bad}).write(path, fingerprint)
        facts["sha256"] = file_digest(path)
    replace(manifest, bad={"bad.jpg": reason}, shards=tuple(shards)).write(mine)
    publish.main(["gallery", str(mine), "tester/colours"])
    files = hub.files("dataset", "tester/colours")
    assert json.loads(files["manifest.json"])["bad"] == {"bad.jpg": "no such file in sub. Was it moved?"}
    (tmp_path / "shards").mkdir()
    for name, content in files.items():
        assert str(photos).encode() not in content, name
        (tmp_path / name).write_bytes(content)
    assert list(faults(tmp_path, None)) == []  # digests are those of what was published


def test_images_are_published_on_request_without_exif(hub, gallery, photos, tmp_path):
    publish.main(["gallery", str(gallery), "tester/colours", "--with_images"])
    files = hub.files("dataset", "tester/colours")
    images = files["images/train-00000.parquet"]
    (tmp_path / "images.parquet").write_bytes(images)
    rows = {row["id"]: row["image"]["bytes"] for row in pq.read_table(tmp_path / "images.parquet").to_pylist()}
    assert set(rows) == {"red.jpg", "green.jpg", "blue.jpg", "wide.jpg"}
    assert b"garden" in (photos / "wide.jpg").read_bytes() and b"garden" not in rows["wide.jpg"]
    assert Image.open(io.BytesIO(rows["wide.jpg"])).size == (1024, 20)
    manifest = json.loads(files["manifest.json"])
    assert [(one["kind"], one["name"], one["config"]) for one in manifest["sources"]] == [
        ("dataset", "tester/colours", "images")
    ]
    header = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert header["configs"][0]["config_name"] == "images" and "viewer" not in header


@pytest.mark.fault("E11", "a gallery whose upload broke off is completed by the same command, each shard sent once")
def test_broken_off_in_the_middle(hub, gallery, monkeypatch):
    monkeypatch.setattr("contextcir.data.hub.PART_FILES", 1)
    hub.commits_left = 2
    with pytest.raises(OSError, match="broken off|403"):
        publish.main(["gallery", str(gallery), "tester/colours"])
    assert "manifest.json" not in hub.files("dataset", "tester/colours")  # there is no gallery yet
    hub.commits_left, sent = None, list(hub.uploaded)
    publish.main(["gallery", str(gallery), "tester/colours"])
    assert len(sent) >= 2 and len(hub.uploaded) == len(set(hub.uploaded)) == 3


def test_the_model_has_to_be_on_the_hub(hub, local, run, capsys):
    assert main(["publish", "gallery", str(local), "tester/colours"]) == 1
    assert f"publish model {run}" in capsys.readouterr().err
    assert main(["publish", "gallery", str(local), "tester/colours", "--model", str(run)]) == 1  # a folder is no name
    assert "on this machine only" in capsys.readouterr().err
    assert not hub.repos


def test_facts_with_secrets_are_refused(hub, gallery, monkeypatch):
    monkeypatch.setattr("contextcir.data.secret_scan._COMPILED", {"a number": re.compile("green")})
    with pytest.raises(ValueError, match="seems to hold a number"):
        publish.main(["gallery", str(gallery), "tester/colours"])
    assert not hub.repos


def test_a_space(hub, gallery, capsys):
    publish.main(["gallery", str(gallery), "tester/colours"])
    assert main(["publish", "space", str(gallery), "tester/page"]) == 1
    assert "publish gallery" in capsys.readouterr().err
    publish.main(["space", "hf://tester/colours", "tester/page", "--model", "tester/model"])
    assert hub.private["space", "tester/page"] and hub.sdks["tester/page"] == "docker"
    files = {name: content.decode() for name, content in hub.files("space", "tester/page").items()}
    assert set(files) == {"Dockerfile", "README.md"}
    header = yaml.safe_load(files["README.md"].split("---")[1])
    assert (header["sdk"], header["app_port"], header["datasets"]) == ("docker", 7860, ["tester/colours"])
    lines = files["Dockerfile"].splitlines()
    from contextcir import __version__

    assert any(f'"contextcir[serve]=={__version__}"' in line for line in lines)
    assert "USER user" in lines and any("--uid 1000" in line for line in lines) and "EXPOSE 7860" in lines
    assert "HF_HOME=/home/user/" in files["Dockerfile"]
    commit = hub.revision(("dataset", "tester/colours"))
    assert command_of(files["Dockerfile"]) == serve_command("tester/colours", commit, "tester/model")


def test_words(hub, capsys):
    assert main(["publish"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {kind} " in text for kind in publish.KINDS)
    assert main(["publish", "galery", "a", "b/c"]) == 2
    assert "Did you mean gallery?" in capsys.readouterr().err
    assert main(["search", "hf://tester/absent", "--text", "x"]) == 1
    with pytest.raises(StoreError, match="hf://tester/absent cannot be read"):
        Gallery.open("hf://tester/absent")


def command_of(dockerfile):
    """The command of a Dockerfile, as Docker reads it."""
    return json.loads(dockerfile.splitlines()[-1].removeprefix("CMD "))


def test_who_is_let_in():
    space = ServeArguments("g", public=True, anonymous=True)
    assert (space.host, space.token) == ("0.0.0.0", None)
    assert ServeArguments("g", public=True, host="127.0.0.1").host == "127.0.0.1"  # behind a proxy of this machine
    for wrong in ({"anonymous": True}, {"anonymous": True, "public": True, "token": "long-enough"}):
        with pytest.raises(ValueError, match="--anonymous"):
            ServeArguments("g", **wrong)


@pytest.mark.slow
def test_from_this_machine_to_a_space(local, run, photos, tmp_path):
    """Publish the model, the gallery and a Space, search the gallery by its name, and run the command of the Space."""
    with LoopbackHub() as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
        environment |= {"HF_DATASETS_CACHE": str(tmp_path / "datasets"), "PYTHONPATH": os.getcwd()}

        def command(*argv, code=0):
            argv = [sys.executable, "-m", "contextcir.cli.main", *argv]
            done = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == code, done.stderr[-3000:]
            return done.stdout + done.stderr

        push = "from transformers import AutoModel, AutoProcessor; import modeling_contextcir, sys\n"
        push += "for kind in (AutoModel, AutoProcessor): kind.from_pretrained(sys.argv[1]).push_to_hub('tester/model')"
        subprocess.run([sys.executable, "-c", push, str(run)], env=environment, cwd=tmp_path, check=True)
        command("publish", "gallery", str(local), "tester/colours", "--model", "hf://tester/model", "--with_images")
        manifest = json.loads(hub.files("dataset", "tester/colours")["manifest.json"])
        assert manifest["encoder"]["model"] == "tester/model"
        assert manifest["encoder"]["revision"] == hub.revision(("model", "tester/model"))
        found = json.loads(first_object(command("search", "hf://tester/colours", "--image", "red.jpg", "--json")))
        prices = {hit["id"]: hit["facts"]["price"] for hit in found["results"]}
        assert prices == {"green.jpg": 2, "blue.jpg": None, "wide.jpg": None}
        assert "no fault" in command("gallery", "verify", "hf://tester/colours", "--embeddings_only")
        assert "on the Hub" in command("gallery", "remove", "hf://tester/colours", "--ids", "red.jpg", code=1)
        command("publish", "space", "hf://tester/colours", "tester/page")
        argv = command_of(hub.files("space", "tester/page")["Dockerfile"].decode())
        argv[argv.index("--host") + 1], argv[argv.index("--port") + 1] = "127.0.0.1", "0"
        with serving([sys.executable, "-m", "contextcir.cli.main", *argv[1:]], environment, tmp_path) as url:
            import httpx

            headers = {"Host": "tester-page.hf.space"}
            page = httpx.get(url, headers=headers)
            assert page.status_code == 200 and "X-Frame-Options" not in page.headers
            assert "frame-ancestors https://huggingface.co" in page.headers["Content-Security-Policy"]
            assert httpx.get(f"{url}info", headers=headers).json()["name"] == "tester/colours"
            sent = {"Origin": "https://tester-page.hf.space", "Host": "internal", "X-Forwarded-Host": headers["Host"]}
            results = httpx.post(f"{url}search", data={"text": "make it blue"}, headers=sent).json()["results"]
            assert {one["id"] for one in results} == {"red.jpg", "green.jpg", "blue.jpg", "wide.jpg"}
            other = httpx.post(f"{url}search", data={"text": "x"}, headers=sent | {"Origin": "https://evil.example"})
            assert other.status_code == 403
            picture = httpx.get(f"{url}images/red.jpg", params={"size": 128}, headers=headers)
            assert picture.status_code == 200 and picture.content[:2] == b"\xff\xd8"


def first_object(text):
    return text[text.index("{") : text.rindex("}") + 1]


@contextmanager
def serving(command, environment, folder):
    """Run a server until the end of the block. Yields its address."""
    process = subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for line in process.stdout:
            if found := re.match(r"http://[^/]+:(\d+)/", line):
                break
        else:
            pytest.fail(process.stderr.read()[-3000:])
        yield f"http://127.0.0.1:{found[1]}/"
    finally:
        process.kill()
        process.communicate()
