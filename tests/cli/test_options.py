"""Options of a YAML file come out of a parser of flags as they were written."""

from dataclasses import dataclass, field

import pytest
from transformers import HfArgumentParser

from contextcir.cli.options import as_flags, read_yaml


@dataclass
class Options:
    rate: float = 1.0
    name: str = ""
    many: list[str] = field(default_factory=list)
    bf16: bool = False
    extra: dict | str | None = None  # JSON, as training arguments have some
    left_out: int = 7


def test_options_come_back(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("rate: -1.0e-3\nname: --odd\nmany: [a b, c]\nbf16: true\nextra: {floor: 0.5}\nleft_out: null\n")
    (options,) = HfArgumentParser(Options).parse_args_into_dataclasses(as_flags(read_yaml(path)))
    assert options == Options(-1e-3, "--odd", ["a b", "c"], True, '{"floor": 0.5}')


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: 1\na: 2", "'a' is given twice"), ("- a", "got list"), ("a: [", "expected YAML"), ("", "got NoneType")],
)
def test_what_is_no_mapping_is_named(tmp_path, content, message):
    path = tmp_path / "options.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"(?s)options.yaml: expected .*{message}|{message}"):
        read_yaml(path)
    with pytest.raises(ValueError, match="There is no file .*none.yaml"):
        read_yaml(tmp_path / "none.yaml")
