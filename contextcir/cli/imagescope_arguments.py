"""Options of ImageScope. Numbers are the paper's."""

from dataclasses import dataclass

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


def _model(role: str):
    text = f"Model of the {role}; by default --chat_model, else the paper's {PAPER_MODELS[role]}."
    return HfArg(default=None, help=text)


def _url(role: str):
    return HfArg(default=None, help=f"Server of the {role}; by default --base_url, else {OWN_SERVER}.")


@dataclass
class ImageScopeArguments:
    """Models of ImageScope's roles, and how far down they look."""

    _argument_group_name = "ImageScope (--retriever imagescope)"

    trace: str | None = HfArg(
        default=None, help="Folder for all questions and answers. A run goes on from what is in there."
    )
    chat_model: str | None = HfArg(default=None, help="Model of all roles that are not named.")
    captioner: str | None = _model("captioner")
    captioner_url: str | None = _url("captioner")
    reasoner: str | None = _model("reasoner")
    reasoner_url: str | None = _url("reasoner")
    verifier: str | None = _model("verifier")
    verifier_url: str | None = _url("verifier")
    evaluator: str | None = _model("evaluator")
    evaluator_url: str | None = _url("evaluator")
    tau: float = HfArg(default=0.15, help="Weight of the captions where CLIP retrieves, in [0, 1].")
    verified: int = HfArg(default=20, help="Candidates of a query that are verified (k).")
    evaluated: int = HfArg(default=3, help="Candidates of a query that are then evaluated (alpha).")
    rerank: str | None = HfArg(default=None, help="Model whose ranking is re-ranked, in place of reasoning and CLIP.")
    after_each_stage: bool = HfArg(default=False, help="Measure the earlier stages as well.")
    cache: str = HfArg(
        default="~/.cache/contextcir/imagescope",
        help="Folder for captions and embeddings of images, by content. Serves any number of runs.",
    )

    def server_of(self, role: str, base_url: str | None) -> tuple[str, str]:
        """Model and address of a role, where `base_url` is the address of roles without one."""
        model = getattr(self, role) or self.chat_model or PAPER_MODELS[role]
        return model, getattr(self, f"{role}_url") or base_url or OWN_SERVER
