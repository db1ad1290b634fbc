"""Pictures of what a model retrieves, which mistakes it makes, where its noun phrases look, how its training went and
what an audit found.

Each is a `matplotlib.figure.Figure` that belongs to no window and no global state: its `savefig` makes a PDF for a
paper, [`save_png`] a small picture. Models arrive as arguments, and which queries are drawn is the caller's choice.
"""

from contextcir.visualization.audit import audit_figures
from contextcir.visualization.concepts import (
    ConceptMaps,
    concept_attention_figure,
    concept_maps,
    heat_overlay,
    total_variation,
)
from contextcir.visualization.curves import read_history, training_curves
from contextcir.visualization.funnel import funnel_figure
from contextcir.visualization.grid import retrieval_grid
from contextcir.visualization.page import save_png
from contextcir.visualization.profile import profile_figure
from contextcir.visualization.seeds import seed_dots
from contextcir.visualization.stages import stages_figure

__all__ = [
    "ConceptMaps",
    "audit_figures",
    "concept_attention_figure",
    "concept_maps",
    "funnel_figure",
    "heat_overlay",
    "profile_figure",
    "read_history",
    "retrieval_grid",
    "save_png",
    "seed_dots",
    "stages_figure",
    "total_variation",
    "training_curves",
]
