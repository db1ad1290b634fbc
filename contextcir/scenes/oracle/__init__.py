"""A chat server on loopback that answers from the scene graph: the stand-in for multimodal models.

    python -m contextcir.scenes.oracle --truth data/scene_pairs --port 8000

`server` is the door, `loopback` its HTTP, `batches` the Batch API; `questions` reads requests, `captioning` and
`reasoning` answer them, and `faults` says what goes wrong.
"""

from contextcir.scenes.oracle.faults import Faults
from contextcir.scenes.oracle.server import Oracle

__all__ = ["Faults", "Oracle"]
