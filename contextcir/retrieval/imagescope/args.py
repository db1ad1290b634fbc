"""ImageScope's settings, as command lines and configuration files give them."""

from dataclasses import dataclass, field

PAPER_MODELS = {
    "captioner": "llava-hf/llava-v1.6-vicuna-7b-hf",
    "reasoner": "meta-llama/Meta-Llama-3-8B-Instruct",
    "verifier": "google/paligemma-3b-mix-224",
    "evaluator": "OpenGVLab/InternVL2-8B",
}
PAPER_CLIP = "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"


def _model(role: str):
    text = f"The {role}, as its server calls it; by default --chat_model, else the paper's {PAPER_MODELS[role]}."
    return field(default=None, metadata={"help": text})


def _url(role: str):
    return field(default=None, metadata={"help": f"Server of the {role}; by default --base_url."})


@dataclass
class ImageScopeArguments:
    """Who plays ImageScope's roles, where their answers are kept, and what it may cost. Numbers are the paper's."""

    trace: str | None = field(
        default=None, metadata={"help": "Folder for all questions and answers; a run goes on from what is in there."}
    )
    chat_model: str | None = field(default=None, metadata={"help": "One model for all roles that are not named."})
    base_url: str = field(default="http://localhost:8000/v1", metadata={"help": "Server of all roles without a URL."})
    captioner: str | None = _model("captioner")
    captioner_url: str | None = _url("captioner")
    reasoner: str | None = _model("reasoner")
    reasoner_url: str | None = _url("reasoner")
    verifier: str | None = _model("verifier")
    verifier_url: str | None = _url("verifier")
    evaluator: str | None = _model("evaluator")
    evaluator_url: str | None = _url("evaluator")
    free: bool = field(default=False, metadata={"help": "Say so where tokens cost nothing, as on one's own servers."})
    max_usd: float | None = field(default=None, metadata={"help": "What the trace may cost in all, never exceeded."})
    concurrency: int = field(default=32, metadata={"help": "Most requests on their way at a time, to each server."})
    temperature: float | None = field(default=None, metadata={"help": "Of the answers; the servers' by default."})
    tau: float = field(default=0.15, metadata={"help": "Weight of the captions where CLIP retrieves, in [0, 1]."})
    verified: int = field(default=20, metadata={"help": "Candidates of a query that are verified (k)."})
    evaluated: int = field(default=3, metadata={"help": "Candidates of a query that are evaluated then (alpha)."})
    rerank: str | None = field(
        default=None, metadata={"help": "Model whose ranking is re-ranked, in place of reasoning and CLIP."}
    )
    after_each_stage: bool = field(default=False, metadata={"help": "Whether to measure the earlier stages as well."})
    cache: str = field(
        default="~/.cache/contextcir/imagescope",
        metadata={"help": "Folder for captions and embeddings of images, by content; serves any number of runs."},
    )

    def server_of(self, role: str) -> tuple[str, str]:
        """Model and URL of a role."""
        return getattr(self, role) or self.chat_model or PAPER_MODELS[role], getattr(
            self, f"{role}_url"
        ) or self.base_url
