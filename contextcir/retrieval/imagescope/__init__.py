"""ImageScope (Luo et al., WWW 2025): retrieval without training, by several chat models in four roles.

`reason` describes the target and retrieves (stage 1), `pipeline` verifies and evaluates (stages 2 and 3). `panel` asks
the `roles`, `cache` keeps captions and embeddings, `trace` records queries, `local` makes a role of a pipeline.
"""

from contextcir.retrieval.imagescope.panel import Panel
from contextcir.retrieval.imagescope.pipeline import ImageScope
from contextcir.retrieval.imagescope.reason import ReasonedRetriever
from contextcir.retrieval.imagescope.roles import Role, Roles

__all__ = ["ImageScope", "Panel", "ReasonedRetriever", "Role", "Roles"]
