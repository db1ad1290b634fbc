"""List the faults that tests are marked with: what goes wrong, what is promised, and which test holds it."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def marked(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield id, promised outcome and name of each test of a file that has `@pytest.mark.fault(id, outcome)`, directly
    or by the name of a mark that several tests share."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    shared = {
        target.id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for mark in node.decorator_list:
                call = shared.get(mark.id) if isinstance(mark, ast.Name) else mark
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.fault":
                    id_, outcome = (ast.literal_eval(argument) for argument in call.args)
                    yield id_, outcome, node.name


def faults() -> str:
    """Return the table of all faults, by id."""
    rows = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        where = path.relative_to(ROOT).as_posix()
        rows += [(id_, outcome, f"[`{name}`](../{where})") for id_, outcome, name in marked(path)]
    lines = ["| | promised | test |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in sorted(rows))]
    return "\n".join(lines)
