"""Cards of derived data sets carry on what their source says."""

import pytest
from huggingface_hub import DatasetCard

from contextcir.data.card_fields import lacking, size_category
from contextcir.data.source_card import inherited, read_card, write_derived_card


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "hats"
    folder.mkdir()
    header = "license: cc-by-4.0\nlicense_link: https://example.org\ntags: fashion\nsize_categories: [n<1K]\n"
    (folder / "README.md").write_text(
        f"---\n{header}configs: [{{config_name: a, data_files: b}}]\n---\n\n# Hats\n\nBy us.\n"
    )
    return folder


@pytest.mark.fault(
    "P04", "a derived data set keeps licence, tags and text of its source, not what describes its files"
)
def test_what_is_inherited(source):
    header, text = inherited(str(source), tags=["synthetic", "fashion"])
    assert header == {
        "license": "cc-by-4.0",
        "license_link": "https://example.org",
        "tags": ["fashion", "synthetic"],
    }
    assert text.startswith("## Source: hats\n") and text.endswith("# Hats\n\nBy us.\n")


def test_sources_without_a_card(tmp_path):
    assert inherited(str(tmp_path)) == ({"tags": [], "license": "other"}, "")
    assert inherited(None, tags=["a"]) == ({"tags": ["a"], "license": "other"}, "")
    assert read_card("user/no-such-data-set") is None  # there is no network here
    assert inherited("user/other")[0]["source_datasets"] == ["user/other"]


def test_a_derived_card_can_be_derived_from(source, tmp_path):
    for name, before in (("one", source), ("two", tmp_path / "one")):
        (tmp_path / name).mkdir()
        write_derived_card(tmp_path / name, name, f"Step {name}.", source=str(before), rows=1000)
    card = DatasetCard.load(tmp_path / "two" / "README.md")
    assert card.data.pretty_name == "two" and card.data.size_categories == ["1K<n<10K"]
    assert card.data.license == "cc-by-4.0" and card.data.get("configs") is None
    places = [card.text.index(part) for part in ("Step two.", "Step one.", "By us.")]
    assert places == sorted(places)


def test_sizes():
    sizes = {0: "n<1K", 999: "n<1K", 1000: "1K<n<10K", 99_999: "10K<n<100K", 2 * 10**9: "n>1B"}
    assert {rows: size_category(rows) for rows in sizes} == sizes


def test_what_a_card_lacks(source):
    card = DatasetCard.load(source / "README.md")
    assert lacking(card) == ["language", "pretty_name", "task_categories", "description", "citation"]
