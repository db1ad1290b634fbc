"""Local data sets are read as they are, whatever was read under their name before."""

import shutil

import pytest
from datasets import Dataset, Image

from contextcir.data.images import encode_image
from contextcir.data.triplets import load_triplets
from contextcir.retrieval.store.dataset_sources import open_dataset

CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: train.parquet
---
"""


def write(folder, text, images):
    """A data set of one triplet, with a card that lists its configuration."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    image = {"bytes": encode_image(images[0]), "path": None}
    row = {"id": "1", "image": image, "reference_image": image, "target_image": image, "modification_text": text}
    columns = {name: [value] for name, value in (row | {"reference_id": "a", "target_id": "b"}).items()}
    rows = Dataset.from_dict(columns)
    for column in ("image", "reference_image", "target_image"):
        rows = rows.cast_column(column, Image(decode=False))
    rows.to_parquet(folder / "train.parquet")
    (folder / "README.md").write_text(CARD)


@pytest.mark.fault("L40", "a data set that was built again, or another one of the same name, gives its own rows")
def test_a_rebuilt_folder_and_one_of_the_same_name(tmp_path, images):
    def texts(folder):
        found = load_triplets(str(folder), require_noun_phrases=False)["modification_text"][:]
        return found, open_dataset(str(folder)).facts("1")["modification_text"]

    write(tmp_path / "one" / "set", "red", images)
    assert texts(tmp_path / "one" / "set") == (["red"], "red")
    write(tmp_path / "two" / "set", "sea", images)  # as long as the other
    assert texts(tmp_path / "two" / "set") == (["sea"], "sea")
    write(tmp_path / "one" / "set", "tan", images)
    assert texts(tmp_path / "one" / "set") == (["tan"], "tan")
