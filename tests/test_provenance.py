"""The commit of a clone, whether it was changed, and what is installed."""

import platform
import subprocess

import torch

from contextcir.provenance import git_commit, versions


def git(folder, *words):
    names = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    return subprocess.run(["git", "-C", folder, *names, *words], check=True, capture_output=True, text=True).stdout


def test_the_commit_and_whether_files_were_changed(tmp_path):
    assert git_commit(tmp_path) is None  # no clone
    git(tmp_path, "init", "-q")
    (tmp_path / "inside").mkdir()
    file, page = tmp_path / "inside" / "file", tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    for path in (file, page):
        path.write_text("one")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "x")
    git(tmp_path, "tag", "v1")  # a tag does not take the commit's place
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert git_commit(tmp_path / "inside") == commit
    (tmp_path / "untracked").write_text("two")
    assert git_commit(tmp_path) == commit
    page.write_text("what a run has left")
    assert git_commit(tmp_path / "inside") == commit
    file.write_text("three")
    assert git_commit(tmp_path / "docs") == f"{commit}-dirty"
    assert git_commit(tmp_path) == f"{commit}-dirty"


def test_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(tmp_path) is None


def test_versions(monkeypatch):
    found = versions()
    assert found["python"] == platform.python_version() and found["torch"] == torch.__version__
    monkeypatch.setattr("contextcir.provenance.LIBRARIES", ("numpy", "no-such-library"))
    assert list(versions()) == ["python", "numpy"]
