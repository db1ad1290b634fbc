"""What is published: named files, without local paths, secrets refused, private unless said otherwise."""

import json
import os

import pytest
import torch
from datasets import Features, Value
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import save_file

from contextcir.data.hub import COMMIT, in_parts, publish_folder, upload_dataset
from contextcir.data.parquet import write_parquet
from contextcir.data.portable import portable_path
from contextcir.data.secret_scan import find_secrets
from tests.loopback_hub import LoopbackHub

# Put together here, so that no scanner takes this file for a leak
HF, SK, AWS = "hf_" + "aB3" * 12, "sk-" + "proj-9aZ" * 5, "AKIA" + "ABCD1234EFGH5678"


@pytest.fixture
def hub(monkeypatch):
    """A Hub that the client of this process speaks to."""
    with LoopbackHub() as loopback, loopback.in_this_process(monkeypatch):
        yield loopback


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "my run"
    (folder / "checkpoint-3").mkdir(parents=True)
    (folder / "figures").mkdir()
    for name, content in {
        "README.md": "# Model\n",
        "training.json": "{}",
        "model.safetensors": "\2\0\0\0\0\0\0\0{}",
        "figures/retrieval_grid.png": "\0",
        ".env": f"HF_TOKEN={HF}",
        "notes.txt": "notes",
        "training_args.bin": "\0",
        "checkpoint-3/optimizer.pt": "\0",
    }.items():
        (folder / name).write_text(content)
    return folder


FILES = ("README.md", "training.json", "*.safetensors", "figures/*.png")


@pytest.mark.fault("P02", "a push uploads the files that it names, and nothing else")
def test_only_named_files_are_published(hub, folder):
    publish_folder(folder, "tester/model", files=FILES)
    published = hub.files("model", "tester/model")
    assert sorted(published) == ["README.md", "figures/retrieval_grid.png", "model.safetensors", "training.json"]
    assert not hub.unknown_requests


@pytest.mark.fault("P01", "models and data sets are private unless they are asked to be public")
@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_private_unless_public(hub, folder, kind):
    publish_folder(folder, "tester/mine", files=FILES, kind=kind)
    publish_folder(folder, "tester/ours", files=FILES, kind=kind, public=True)
    assert (hub.private[kind, "tester/mine"], hub.private[kind, "tester/ours"]) == (True, False)


SECRETS = {
    "Hugging Face": f"the token is {HF}",
    "API key": f"export KEY={SK}",
    "AWS": f"id: {AWS}",
    "private key": "-----BEGIN RSA PRIVATE" + " KEY-----",
    "password in a URL": "see https://me:" + "secret1@example.org/v1",
    "token, secret": "my_api_key = '" + "0aZ9" * 5 + "'",
    "secret or password": '{"db-password": "' + "correct4horse" + '"}',
    "as an option": "contextcir train --hub_token " + "0aZ9" * 5,
}


@pytest.mark.fault("P02", "a key or token in a published file stops the push, and the file is named")
@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_are_refused_before_anything_is_uploaded(hub, folder, kind):
    (folder / "training.json").write_text(f"{{\n{SECRETS[kind]}\n}}")
    with pytest.raises(ValueError, match=f"training.json, line 2.*{kind}") as refused:
        publish_folder(folder, "tester/model", files=FILES)
    assert not hub.repos
    assert not any(secret in str(refused.value) for secret in (HF, SK, AWS, "secret1", "0aZ9", "horse"))


@pytest.mark.fault("P02", "texts in a Parquet file are looked through, and the row is named")
@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_in_parquet(hub, folder, kind):
    rows = [{"text": "a red mug", "notes": [{"by": "me", "says": []}]}] * 2
    rows.append({"text": "", "notes": [{"by": "", "says": [SECRETS[kind]]}]})
    features = Features({"text": Value("string"), "notes": [{"by": Value("string"), "says": [Value("string")]}]})
    write_parquet(rows, features, folder, "train")
    with pytest.raises(ValueError, match=f"train-.*parquet, row 3, .*{kind}"):
        publish_folder(folder, "tester/data", files=["*.parquet"], kind="dataset")
    assert not hub.repos


@pytest.mark.parametrize(
    "line",
    [
        '"bos_token": "<|startoftext|>", "tokenizer_class": "CLIPTokenizer", "hub_token": null',
        "self.eos_token_id = config.text_config.eos_token_id",
        "num_tokens: 123456789012345, `tok_per_sec`, task-specific-things-2-of-all",
        "https://localhost:8000/v1 http://example.org/a:b@c",
        "- commit `5f911ebf4a90842e82e9a8f4ba4e1bfa0ffa5d6b`",
        "the secret is out",
    ],
)
def test_other_text_is_no_secret(line):
    assert list(find_secrets([line])) == []


@pytest.mark.fault("P02", "records and cards are published without the paths of this machine")
def test_local_paths_are_replaced(hub, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cached = "/home/me/.cache/huggingface/hub/models--openai--clip-vit-base-patch32/snapshots/3d74acf9"
    paths = {
        str(tmp_path / "data" / "my triplets"): "data/my triplets",
        "/home/other/clips/my clip": "my clip",
        str(folder / "figures" / "a.png"): "figures/a.png",
        cached: "openai/clip-vit-base-patch32",
        "C:\\models\\clip": "clip",
        "/v1/chat/completions": "/v1/chat/completions",
        "user/name": "user/name",
        "a / b": "a / b",
    }
    record = {"command": f"contextcir train --data {tmp_path}/other,x", "nested": [{"names": list(paths)}]}
    (folder / "training.json").write_text(json.dumps(record))
    text = f"trained on `{tmp_path}/data/my triplets`, from `{cached}`, see https://example.org/home/x.\n"
    (folder / "README.md").write_text(text)
    before = (folder / "training.json").read_bytes()
    publish_folder(folder, "tester/model", files=FILES)
    published = hub.files("model", "tester/model")
    found = json.loads(published["training.json"])
    assert found["nested"][0]["names"] == list(paths.values())
    assert found["command"] == "contextcir train --data other,x"
    assert published["README.md"].decode() == (
        "trained on `data/my triplets`, from `openai/clip-vit-base-patch32`, see https://example.org/home/x.\n"
    )
    assert (folder / "training.json").read_bytes() == before


def test_the_published_folder_has_a_name(tmp_path):
    assert portable_path(str(tmp_path / "runs"), tmp_path / "runs") == "runs"


@pytest.mark.fault("P05", "the snippet of a published card names the commit of the code that it runs")
def test_the_card_names_its_commit(hub, folder):
    (folder / "README.md").write_text(f'revision="{COMMIT}"\n')
    commit = publish_folder(folder, "tester/model", files=FILES)
    assert len(commit) == 40 and hub.commits["model", "tester/model"] == 2
    assert hub.files("model", "tester/model")["README.md"].decode() == f'revision="{commit}"\n'


def test_shards_of_an_earlier_build_are_removed(hub, folder):
    for number in range(2):
        write_parquet([{"id": number}], Features({"id": Value("int64")}), folder, "x", file=f"train-{number}.parquet")
    upload_dataset(folder, "tester/data")
    (folder / "train-1.parquet").unlink()
    upload_dataset(folder, "tester/data")
    assert sorted(hub.files("dataset", "tester/data")) == ["README.md", "train-0.parquet"]


@pytest.mark.fault("E11", "an upload that broke off goes on with the same command, and uploads only what is missing")
def test_a_large_upload_goes_on(hub, tmp_path, monkeypatch):
    """The card and what is replaced come last, so that a reader meanwhile finds the old state whole."""
    monkeypatch.setattr("contextcir.data.hub.PART_FILES", 3)
    publish_folder(write_shards(tmp_path / "old", [0], "old"), "tester/data", kind="dataset", files=ALL)
    before = dict(hub.files("dataset", "tester/data"))
    folder = write_shards(tmp_path / "new", range(8), "new")
    hub.commits_left, hub.uploaded = 2, []
    with pytest.raises(HfHubHTTPError):
        publish_folder(folder, "tester/data", kind="dataset", files=ALL)
    meanwhile = hub.files("dataset", "tester/data")
    assert {name: meanwhile[name] for name in before} == before  # nothing of it has been replaced
    assert sorted(set(meanwhile) - set(before)) == [f"shards/{number}.safetensors" for number in range(1, 7)]
    hub.commits_left, sent = None, len(hub.uploaded)
    publish_folder(folder, "tester/data", kind="dataset", files=ALL)
    assert sent + len(hub.uploaded[sent:]) == 8 == len(set(hub.uploaded))  # each shard once
    found = hub.files("dataset", "tester/data")
    assert found == {name: (folder / name).read_bytes() for name in found} and len(found) == 9
    commits = hub.commits["dataset", "tester/data"]
    publish_folder(folder, "tester/data", kind="dataset", files=ALL)
    assert hub.commits["dataset", "tester/data"] == commits and len(hub.uploaded) == 8


def test_small_and_replaced_files_come_last(tmp_path, monkeypatch):
    """A manifest is never there before the shards that it names."""
    monkeypatch.setattr("contextcir.data.hub.PART_FILES", 2)
    names = ["manifest.json", "a.safetensors", "b.parquet", "c.safetensors", "README.md", "old.safetensors"]
    contents = {name: tmp_path / name for name in names}
    for path in contents.values():
        path.write_bytes(b"12345")
    last = ["manifest.json", "README.md", "old.safetensors"]
    expected = [["a.safetensors", "b.parquet"], ["c.safetensors"], last]
    assert in_parts(contents, {"old.safetensors"}) == expected
    monkeypatch.setattr("contextcir.data.hub.PART_BYTES", 9)  # one file each
    assert in_parts(contents, {"old.safetensors"}) == [["a.safetensors"], ["b.parquet"], ["c.safetensors"], last]


def test_a_small_upload_is_one_commit(hub, folder):
    publish_folder(folder, "tester/model", files=FILES)
    assert hub.commits["model", "tester/model"] == 1


ALL = ("README.md", "shards/*")


def write_shards(folder, numbers, text):
    (folder / "shards").mkdir(parents=True)
    (folder / "README.md").write_text(f"# {text}\n")
    for number in numbers:
        save_file({"a": torch.full((3,), number)}, folder / "shards" / f"{number}.safetensors", {"by": text})
    return folder


@pytest.mark.fault("E12", "texts in the header of a safetensors file are looked through before it is published")
@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_in_safetensors(hub, tmp_path, kind):
    header = json.dumps({"facts": {"note": ["a red mug", SECRETS[kind]]}})
    save_file({"a": torch.zeros(2)}, tmp_path / "shard.safetensors", {"header": header})
    with pytest.raises(ValueError, match=f"shard.safetensors, .*{kind}"):
        publish_folder(tmp_path, "tester/data", files=["*.safetensors"], kind="dataset")
    assert not hub.repos


def test_damaged_parquet_is_named(hub, folder):
    (folder / "train-0.parquet").write_bytes(b"PAR1\0")
    with pytest.raises(ValueError, match="train-0.parquet is damaged"):
        upload_dataset(folder, "tester/data")
    assert not hub.repos


def test_nothing_to_publish(hub, folder):
    with pytest.raises(ValueError, match="my run has none of x.json"):
        publish_folder(folder, "tester/model", files=("x.json",))
    os.symlink("/etc/hostname", folder / "x.json")  # nor files of other folders
    with pytest.raises(ValueError, match="none of x.json"):
        publish_folder(folder, "tester/model", files=("x.json",))
