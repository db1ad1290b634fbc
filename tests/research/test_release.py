"""What a release consists of: two archives with the same in them, their faults, sums and licences."""

import json
import os
import re
import shutil
import subprocess
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from research import release

ROOT = Path(__file__).parents[2]
CHECKOUT = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a checkout")


@pytest.mark.slow
@CHECKOUT
def test_both_archives_hold_the_same_each_time(tmp_path):
    source = release.export(tmp_path / "source")
    archive, wheel = release.build(source, tmp_path / "dist")
    assert release.faults(archive, wheel, source) == []
    release._hatch(source, "wheel", tmp_path / "direct")  # without the source archive
    (direct,) = (tmp_path / "direct").iterdir()
    assert release.contents(direct) == release.contents(wheel)
    assert direct.read_bytes() == wheel.read_bytes()
    tests = {name for name in release.contents(archive) if name.startswith("tests/")}
    assert "tests/research/test_release.py" in tests and "tests/fixtures/README.md" in tests


@pytest.fixture
def built(tmp_path):
    """A folder, an archive and a wheel as small as can be without a fault; a function writes the wheel again."""
    source = tmp_path / "source"
    (source / "contextcir").mkdir(parents=True)
    (source / "contextcir/__init__.py").write_text('__version__ = "1.0"\n')
    (source / "README.md").write_text("# A page\n")
    shutil.copy(ROOT / "LICENSE", source)
    metadata = "Metadata-Version: 2.4\nName: contextcir\nVersion: 1.0\nLicense-Expression: Apache-2.0\n"
    metadata += "Description-Content-Type: text/markdown\n\n# A page\n"
    (source / "PKG-INFO").write_text(metadata)
    archive, wheel = tmp_path / "contextcir-1.0.tar.gz", tmp_path / "contextcir-1.0-py3-none-any.whl"
    with tarfile.open(archive, "w:gz") as file:
        file.add(source, "contextcir-1.0")

    def write(replaced: tuple[str, str] = ("", ""), **others: str) -> list[str]:
        with zipfile.ZipFile(wheel, "w") as file:
            file.write(source / "LICENSE", "contextcir-1.0.dist-info/licenses/LICENSE")
            file.writestr("contextcir-1.0.dist-info/METADATA", metadata.replace(*replaced))
            for name in release.TOPS:
                file.writestr(f"{name}/__init__.py", "")
            for name, text in others.items():
                file.writestr(name, text)
        return release.faults(archive, wheel, source)

    return write


@pytest.mark.parametrize(
    "written, said",
    [
        ({}, []),
        ({"contextcir/runs/a.json": ""}, ["contextcir/runs/a.json does not belong"]),
        ({"contextcir/__pycache__/a.pyc": ""}, ["a.pyc does not belong"]),
        ({"contextcir/a.py": f"open('/{'root'}/a/b')"}, ["contextcir/a.py names"]),
        ({"contextcir/a.py": "os.environ['HOME'] + '/home/user/.cache'"}, []),  # of a container that is built
        ({"other/a.py": ""}, ["holds"]),
        ({"replaced": ("Version: 1.0", "Version: 1.1")}, ["version is '1.1', expected '1.0'"]),
        ({"replaced": ("# A page", "# Another")}, ["description is '# Another'"]),
        ({"replaced": ("Apache-2.0", "MIT")}, ["licence is 'MIT'"]),
        ({"replaced": ("Version: 1.0", "Version: one")}, ["version"]),
    ],
)
def test_faults_are_named(built, written, said):
    found = built(**written)
    assert len(found) == len(said) and all(part in one for part, one in zip(said, found, strict=True)), found


def test_an_archive_that_grew_too_large(built, monkeypatch):
    monkeypatch.setitem(release.MEGABYTES, ".whl", 0.001)
    assert [re.search(r"more than 0.001", one) is not None for one in built()] == [True]


def test_links_of_the_readme_lead_to_the_repository():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    text = release.absolute(readme, "https://example.org/cir", "1.0")
    assert readme.count("](docs/") > 10 and not release.LINK.search(text)
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        prefix = "https://example.org/cir/raw/v1.0/"
        assert picture.startswith(prefix) and (ROOT / picture.removeprefix(prefix)).is_file()


@CHECKOUT
def test_the_page_of_the_repository_is_in_the_metadata(tmp_path):
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    source = release.export(tmp_path / "source", "https://example.org/cir")
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["urls"]["Homepage"] == "https://example.org/cir"
    assert "](https://example.org/cir/blob/v" in (source / "README.md").read_text(encoding="utf-8")


def test_a_version_in_development_is_not_released(tmp_path):
    def unsettled(version, heading, citation):
        (tmp_path / "contextcir").mkdir(exist_ok=True)
        (tmp_path / "contextcir/__init__.py").write_text(f'__version__ = "{version}"\n')
        (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {heading}\n\n## 0.1.0\n")
        (tmp_path / "CITATION.cff").write_text(f"title: a\n{citation}\n")
        return release.unsettled(tmp_path)

    cited = "version: 0.2.0\ndate-released: 2026-11-28"
    assert unsettled("0.2.0", "0.2.0 (2026-11-28)", cited) == []
    for version, heading, citation, said in [
        ("0.2.0.dev0", "0.2.0.dev0 (2026-11-28)", cited.replace("0.2.0", "0.2.0.dev0"), "in development"),
        ("0.2.0", "0.2.0 (unreleased)", cited, "unreleased"),
        ("0.2.0", "0.2.0 (2026-11-27)", cited, "2026-11-27"),
        ("0.2.1", "0.2.1 (2026-11-28)", cited, "version: 0.2.1"),
    ]:
        (found,) = unsettled(version, heading, citation)
        assert said in found


def test_sums_are_those_of_the_files(tmp_path):
    for name in ("a.whl", "b.md"):
        (tmp_path / name).write_text(name)
    release.sums(tmp_path)
    release.sums(tmp_path)  # not of itself
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    if shutil.which(command[0]):
        assert (
            subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.count("OK") == 2
        )
    assert len((tmp_path / "SHA256SUMS").read_text().splitlines()) == 2


@pytest.mark.slow
def test_the_bill_names_what_is_installed(tmp_path):
    pytest.importorskip("cyclonedx_py")
    venv.create(tmp_path / "environment", symlinks=True)
    (packages,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    for name, licence in (("one", "License-Expression: MIT\n"), ("two", "")):
        (packages / f"{name}-1.0.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{licence}"
        (packages / f"{name}-1.0.dist-info" / "METADATA").write_text(metadata)
    found = release.bill_of_materials(str(tmp_path / "environment/bin/python"), "1.0", tmp_path)
    assert {one["name"]: release.licences_of(one) for one in found} == {"one": ["MIT"], "two": []}
    bill = json.loads((tmp_path / "sbom.cdx.json").read_text())
    assert bill["metadata"]["component"]["version"] == "1.0" and str(tmp_path) not in json.dumps(bill)
    table = (tmp_path / "licences.md").read_text().splitlines()
    assert table[2:] == ["| one | 1.0 | MIT |", "| two | 1.0 | **none said** |"]


def test_nothing_is_built_of_an_unsettled_version(monkeypatch, tmp_path):
    monkeypatch.setattr(release, "unsettled", lambda folder: ["version 9 is in development"])
    with pytest.raises(SystemExit, match="Not ready for a release:\nversion 9"):
        release.main(["--output", str(tmp_path / "dist")])
    assert not os.path.exists(tmp_path / "dist")
