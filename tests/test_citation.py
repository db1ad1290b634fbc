"""CITATION.cff is valid, and names the release that the changelog describes."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
# A loader that leaves dates as they are written: the schema describes texts.
TEXTS = type("Texts", (yaml.SafeLoader,), {"yaml_implicit_resolvers": {}})


def citation() -> dict:
    return yaml.load((ROOT / "CITATION.cff").read_text(encoding="utf-8"), TEXTS)


def test_it_is_valid():
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "tests/fixtures/citation/schema-1.2.0.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft7Validator(schema, format_checker=jsonschema.FormatChecker())
    found = citation() | {
        "references": [
            {key: int(value) if key == "year" else value for key, value in one.items()}
            for one in citation()["references"]
        ]
    }
    assert [error.message for error in validator.iter_errors(found)] == []
    assert list(validator.iter_errors(found | {"date-released": "28 November"}))
    assert list(validator.iter_errors({key: value for key, value in found.items() if key != "authors"}))


def test_it_names_the_last_release():
    """A version in development is not cited: the one before is."""
    headings = re.findall(r"^## (\S+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    released = [heading for heading in headings if heading[1] != "unreleased"]
    assert (citation()["version"], citation()["date-released"]) == released[0]


def test_the_licence_is_that_of_the_package():
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation()["license"] == project["license"]
