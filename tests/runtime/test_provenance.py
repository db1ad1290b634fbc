"""The commit of a clone, whether it has changed, and the installed versions."""

import importlib.metadata
import platform
import subprocess

from contextcir.runtime.provenance import code_commit, versions


def git(folder, *arguments):
    names = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    return subprocess.run(["git", "-C", folder, *names, *arguments], check=True, capture_output=True, text=True).stdout


def test_the_commit_and_whether_files_have_changed(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "inside").mkdir()
    file, page = tmp_path / "inside" / "file", tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    for path in (file, page):
        path.write_text("one")
    assert code_commit(file) is None  # not tracked, like an installed package inside another clone
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "x")
    git(tmp_path, "tag", "v1")  # a tag does not replace the commit
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert code_commit(file) == commit
    (tmp_path / "untracked").write_text("two")
    assert code_commit(file) == commit
    assert code_commit(tmp_path / "untracked") is None
    page.write_text("results of a run")
    assert code_commit(file) == commit
    file.write_text("three")
    assert code_commit(page) == f"{commit}-dirty"
    assert code_commit(file) == f"{commit}-dirty"


def test_outside_a_clone_and_without_git(tmp_path, monkeypatch):
    assert code_commit(tmp_path / "file") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_commit() is None


def test_versions(monkeypatch):
    found = versions()
    assert found["python"] == platform.python_version() and found["torch"] == importlib.metadata.version("torch")
    monkeypatch.setattr("contextcir.runtime.provenance.LIBRARIES", ("numpy", "no-such-library"))
    assert list(versions()) == ["python", "numpy"]
