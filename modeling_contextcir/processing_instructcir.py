"""Processor of InstructCIR: CLIP's inputs, as in the paper (arXiv 2504.00812, section II-B).

The null text of gallery images is added by the model.
"""

from .clip_processor import CLIPBasedProcessor


class InstructCIRProcessor(CLIPBasedProcessor):
    """[`CLIPBasedProcessor`] under the name that InstructCIR checkpoints use."""
