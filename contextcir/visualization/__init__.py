"""Figures: retrieval results, types of mistakes, attention of noun phrases, training curves and findings of audits.

Each function returns a `matplotlib.figure.Figure` without a window or global state. Its `savefig` writes a PDF for a
paper, and [`save_png`] a small picture. Models are arguments, and the caller chooses the queries.
"""

from contextcir.visualization.attention_steps import attention_steps_figure
from contextcir.visualization.audit import audit_figures
from contextcir.visualization.captions import caption_figures
from contextcir.visualization.concepts import ConceptMaps, concept_attention_figure, concept_maps
from contextcir.visualization.curves import read_history, training_curves
from contextcir.visualization.embedding_map import embedding_map
from contextcir.visualization.funnel import funnel_figure
from contextcir.visualization.given_maps import GivenMaps, given_maps_figure
from contextcir.visualization.grid import retrieval_grid
from contextcir.visualization.page import save_png
from contextcir.visualization.pairs import pairs_figure
from contextcir.visualization.profile import profile_figure
from contextcir.visualization.separation import margin_figure, rank_figure

__all__ = [
    "ConceptMaps",
    "GivenMaps",
    "attention_steps_figure",
    "audit_figures",
    "caption_figures",
    "concept_attention_figure",
    "concept_maps",
    "embedding_map",
    "funnel_figure",
    "given_maps_figure",
    "margin_figure",
    "pairs_figure",
    "profile_figure",
    "rank_figure",
    "read_history",
    "retrieval_grid",
    "save_png",
    "training_curves",
]
