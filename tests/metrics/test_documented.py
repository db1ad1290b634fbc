"""Each public metric has an example in its docstring, and the examples are correct."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

import contextcir.metrics

LEFT_OUT = ("__init__", "evaluate_metric")
FILES = sorted(path for path in Path(contextcir.metrics.__file__).parent.glob("*.py") if path.stem not in LEFT_OUT)


class FencedParser(doctest.DocTestParser):
    """Removes Markdown fences, whose end doctest would read as output."""

    def parse(self, string, name="<string>"):
        return super().parse(re.sub(r"^ *```(python)?$", "", string, flags=re.MULTILINE), name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_examples(path):
    module = importlib.import_module(f"contextcir.metrics.{path.stem}")
    found = doctest.DocTestFinder(parser=FencedParser()).find(module)
    shown = {test.name.rpartition(".")[2] for test in found if any(example.want for example in test.examples)}
    functions = {
        name
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    assert functions
    assert functions <= shown, f"{path.name}: no example in {', '.join(sorted(functions - shown))}"
    runner = doctest.DocTestRunner()
    report: list[str] = []
    for test in found:
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


def test_a_wrong_example_fails():
    text = "Example:\n\n    ```python\n    >>> 1 + 1\n    {}\n    ```"
    for result, failures in ("2", 0), ("3", 1):
        test = doctest.DocTestParser.get_doctest(FencedParser(), text.format(result), {}, "sum", None, 0)
        assert doctest.DocTestRunner().run(test, out=lambda _: None) == (failures, 1)
