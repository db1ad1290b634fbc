"""The table of faults lists each test that pytest would run for it."""

import subprocess
import sys

import pytest

from research.faults import ROOT, faults, marked


def test_marks_are_found_directly_and_by_name(tmp_path):
    (tmp_path / "test_x.py").write_text(
        'import pytest\nM = pytest.mark.fault("B", "b")\n'
        '@pytest.mark.fault("A", "a")\ndef test_a(): ...\n'
        '@M\n@pytest.mark.fault("C", "c")\ndef test_b(): ...\n'
        "@pytest.mark.slow\ndef test_c(): ...\n"
    )
    assert sorted(marked(tmp_path / "test_x.py")) == [("A", "a", "test_a"), ("B", "b", "test_b"), ("C", "c", "test_b")]


@pytest.mark.slow
def test_the_tests_are_those_that_pytest_collects():
    path = "tests/training/test_saving.py"
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-m", "fault", "--collect-only", "-q", path]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    collected = {line.split("::")[1].split("[")[0] for line in out.splitlines() if "::" in line}
    assert collected == {name for _, _, name in marked(ROOT / path)} and len(collected) > 2
    assert all(f"| {id_} " in faults() for id_ in ("S01", "S02", "J01", "J04", "L40"))
