"""Export a model as ONNX graphs, for CPUs and GPUs without torch.

    contextcir export --model runs/demo --output runs/demo-onnx
    contextcir export --model user/model --output model-int8 --precision int8
    contextcir index photos --model model-int8 --output my-gallery

`gallery.onnx` embeds images, and `query.onnx` images with texts. Both take any number of rows, and texts of any
length. Their weights are in `weights.data`. The processor lies beside them, and `contextcir_onnx.json` says what was
exported, and how far the graphs differ from the model. In fp32, a difference above 1e-4 is refused. int8 is about a
third of the size, and faster on CPUs.

The folder stands for the model: `--model` of `index`, `search` and `serve`, and `--retriever` of `benchmark` take it.
The fp32 graphs search a gallery of the model itself, too; those in int8 need their own. Needs the extra `onnx`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser


@dataclass
class ExportArguments:
    """What to export, and to where."""

    _argument_group_name = "Export"

    model: str = HfArg(help="Folder of a run or Hub name.")
    output: str = HfArg(help="New folder, or one of an earlier export, which is replaced.")
    format: Literal["onnx"] = HfArg(default="onnx", help="Format.")
    precision: Literal["fp32", "int8"] = HfArg(default="fp32", help="fp32, or int8 by dynamic quantisation.")


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Export, and print how well the graphs agree with the model. Returns the record."""
    (args,) = CommandParser([ExportArguments], "contextcir export", __doc__).parse(argv)
    import torch

    from contextcir.bridges.onnx_encoder import WEIGHTS
    from contextcir.bridges.onnx_export import check_output, export_onnx, require_exporter
    from contextcir.cli.loading import load_model

    require_exporter()
    check_output(Path(args.output))  # before the model is loaded
    model, processor = load_model(args.model, torch.device("cpu"))
    record = export_onnx(model, processor, args.output, name=args.model, precision=args.precision)
    for graph, difference in record["difference"].items():
        size = Path(args.output, graph).stat().st_size / 1e6
        agreement = f"largest difference {difference:.1e}, lowest cosine {record['cosine'][graph]:.6f}"
        print(f"{graph:<14}{size:>9.1f} MB  {agreement}")
    print(f"{WEIGHTS:<14}{Path(args.output, WEIGHTS).stat().st_size / 1e6:>9.1f} MB  used by both, {args.precision}")
    print(f"Written: {args.output}, the processor and contextcir_onnx.json with them")
    return record


if __name__ == "__main__":
    from contextcir.cli.main import script

    script("export")
