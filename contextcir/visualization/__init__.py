"""Pictures of what a model retrieves, which mistakes it makes, where its noun phrases look, how its training went and
what an audit found.

Each is a `matplotlib.figure.Figure` that belongs to no window and no global state: its `savefig` makes a PDF for a
paper, [`save_png`] a small picture. Models arrive as arguments, and which queries are drawn is the caller's choice.
"""

from .audit import audit_figures
from .concepts import ConceptMaps, concept_attention_figure, concept_maps, heat_overlay, total_variation
from .curves import read_history, training_curves
from .funnel import funnel_figure
from .grid import retrieval_grid
from .page import save_png
from .profile import profile_figure
from .seeds import seed_dots
from .stages import stages_figure

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
