"""A chat server on loopback that answers from the scene graph, in place of a multimodal model.

    contextcir oracle --truth data/scene_pairs --port 8000

`server` answers requests, `loopback` is its HTTP, and `batches` the Batch API. `chat_request` parses requests,
`captioning` and `reasoning` answer them, `faults` simulates errors, and `quirks` servers that differ.
"""

from contextcir.scenes.oracle.faults import Faults
from contextcir.scenes.oracle.server import Oracle

__all__ = ["Faults", "Oracle"]
