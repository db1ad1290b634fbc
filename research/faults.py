"""List the faults that tests are marked with: what goes wrong, what is promised, and which test holds it."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def marked(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield id, promised outcome and name of each test of a file that has `@pytest.mark.fault(id, outcome)`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault":
                id_, outcome = (ast.literal_eval(argument) for argument in decorator.args)
                yield id_, outcome, node.name


def faults() -> str:
    """Return the table of all faults, by id."""
    rows = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        where = path.relative_to(ROOT).as_posix()
        rows += [(id_, outcome, f"[`{name}`](../{where})") for id_, outcome, name in marked(path)]
    lines = ["| | promised | test |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in sorted(rows))]
    return "\n".join(lines)
