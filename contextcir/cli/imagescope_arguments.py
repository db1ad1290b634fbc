"""Options of ImageScope. The default numbers are the paper's."""

from dataclasses import dataclass
from typing import Any

from transformers.hf_argparser import HfArg

IMAGESCOPE = "imagescope"
PAPER_MODELS = {
    "captioner": "llava-hf/llava-v1.6-vicuna-7b-hf",
    "reasoner": "meta-llama/Meta-Llama-3-8B-Instruct",
    "verifier": "google/paligemma-3b-mix-224",
    "evaluator": "OpenGVLab/InternVL2-8B",
}
PAPER_CLIP = "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"
OWN_SERVER = "http://localhost:8000/v1"


def _model(role: str) -> Any:
    text = f"Model of the {role}; by default --chat_model, else the paper's {PAPER_MODELS[role]}."
    return HfArg(default=None, help=text)


def _url(role: str) -> Any:
    return HfArg(default=None, help=f"Server of the {role}; by default --base_url, else {OWN_SERVER}.")


@dataclass
class ImageScopeArguments:
    """Models and servers of ImageScope's roles, and numbers of candidates."""

    _argument_group_name = "ImageScope and CIReVL (--retriever imagescope, cirevl)"

    trace: str | None = HfArg(default=None, help="Folder of answers and of the trace. A stopped run continues there.")
    chat_model: str | None = HfArg(default=None, help="Model of all roles without a model of their own.")
    captioner: str | None = _model("captioner")
    captioner_url: str | None = _url("captioner")
    reasoner: str | None = _model("reasoner")
    reasoner_url: str | None = _url("reasoner")
    verifier: str | None = _model("verifier")
    verifier_url: str | None = _url("verifier")
    evaluator: str | None = _model("evaluator")
    evaluator_url: str | None = _url("evaluator")
    tau: float = HfArg(default=0.15, help="Weight of captions against images, in [0, 1], when CLIP retrieves.")
    verified: int = HfArg(default=20, help="Candidates of a query to verify (k).")
    evaluated: int = HfArg(default=3, help="Candidates of a query to evaluate afterwards (alpha).")
    rerank: str | None = HfArg(default=None, help="Model whose ranking to re-rank, instead of reasoning and CLIP.")
    after_each_stage: bool = HfArg(default=False, help="Measure the earlier stages as well.")
    cache: str = HfArg(default="~/.cache/contextcir/imagescope", help="Captions and embeddings, shared by all runs.")

    def server_of(self, role: str, base_url: str | None) -> tuple[str, str]:
        """Return the model and the address of a role; `base_url` is the address of roles without one."""
        model = getattr(self, role) or self.chat_model or PAPER_MODELS[role]
        return model, getattr(self, f"{role}_url") or base_url or OWN_SERVER
