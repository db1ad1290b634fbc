"""CIReVL: caption the reference image, let a language model apply the change to the caption, and search with CLIP's
embedding of the new caption (Karthik et al., "Vision-by-Language for Training-Free Compositional Image Retrieval",
ICLR 2024).

It is the first stage of ImageScope with one description and no captions of the gallery, so that captioner, reasoner,
ledger and caches are those of ImageScope. The paper's captioner is BLIP-2, its reasoner GPT-3.5. The prompts are our
own: that of the captioner is ImageScope's, that of the reasoner is `cirevl.txt`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from contextcir.chat.exchange import ChatRequest
from contextcir.chat.prompts import read_prompt
from contextcir.retrieval.base import Gallery, Query, Ranking
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.imagescope.panel import Panel
from contextcir.retrieval.imagescope.reason import ReasonedRetriever
from contextcir.retrieval.imagescope.roles import Text
from contextcir.retrieval.imagescope.trace import QueryRecord

PROMPT = read_prompt(Path(__file__).with_suffix(".txt"))
ROLES = ("captioner", "reasoner")


class ChangedCaption(BaseModel):
    """The caption of the image that somebody asks for."""  # part of the prompt, as the description of the schema

    caption: Text


class CirevlRetriever(ReasonedRetriever):
    """
    Rank by the changed caption. A query without a usable answer is searched by its text.

    Args:
        panel ([`~contextcir.retrieval.imagescope.panel.Panel`]): Captioner and reasoner.
        clip ([`~contextcir.retrieval.dense.DenseRetriever`]): Embeds images, and texts without a reference, such as
            the baseline `CLIP, text only`.
    """

    def __init__(self, panel: Panel, clip: DenseRetriever):
        super().__init__(panel, clip, tau=0.0)

    def search(
        self,
        queries: Sequence[Query],
        gallery: Gallery,
        k: int,
        *,
        exclude_reference: bool = False,
        wanted: Mapping[str, str] | None = None,
    ) -> Ranking:
        """Rank as [`~contextcir.retrieval.imagescope.reason.ReasonedRetriever.search`]. Raises a `ValueError` for a
        query without a reference image."""
        if bare := [query.id for query in queries if not query.has_reference]:
            raise ValueError(f"CIReVL changes the caption of a reference image, and query {bare[0]!r} has none.")
        return super().search(queries, gallery, k, exclude_reference=exclude_reference, wanted=wanted)

    def report(self) -> dict:
        """Return the calls so far by role and the prompt, for the record of a measurement."""
        counts = {role: dict(count) for role, count in self.panel.counts.items()}
        return {"calls": counts, "prompt": f"{PROMPT.version} {PROMPT.hash}"}

    async def _reason(self, query: Query, text: str, caption: str | None, record: QueryRecord) -> list[str]:
        if caption is None:  # the captioner had no answer, which is counted
            return [text]
        prompt = PROMPT.render(reference_caption=caption, instruction=text)
        answer = await record.ask(ChatRequest("reasoner", prompt, (), ChangedCaption))
        return [text] if answer is None else [answer.caption]
