"""ImageScope (Luo et al., WWW 2025): retrieval without training, by the collective reasoning of several models.

`reason` describes the target and retrieves (stage 1), `pipeline` verifies and evaluates (stages 2 and 3), `panel` is
where the four `roles` of chat models sit, `cache` keeps what is known of a gallery, `trace` what was said of a query,
and `local` makes a role of a transformers pipeline.
"""

from contextcir.retrieval.imagescope.panel import Panel
from contextcir.retrieval.imagescope.pipeline import ImageScope
from contextcir.retrieval.imagescope.reason import ReasonedRetriever
from contextcir.retrieval.imagescope.roles import Role, Roles

__all__ = ["ImageScope", "Panel", "ReasonedRetriever", "Role", "Roles"]
