"""The models as transformers models: ConText-CIR, InstructCIR and two late-fusion baselines, each with its config.

Importing this folder registers them with the Auto classes. Every `save_pretrained` copies the code that its own model
needs, so that `trust_remote_code=True` works where this package is not installed. The folder is flat, and its files
import their siblings as `from .name import X` only: other forms are not followed when code is copied.
"""

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration_contextcir import ContextCIRConfig
from .configuration_instructcir import InstructCIRConfig
from .modeling_baselines import CompositionBaseline, CompositionBaselineConfig, CompositionBaselineOutput
from .modeling_contextcir import ContextCIRModel, ContextCIROutput
from .modeling_instructcir import InstructCIRModel, InstructCIROutput
from .processing_contextcir import ContextCIRProcessor
from .processing_instructcir import InstructCIRProcessor

for config, model in (
    (ContextCIRConfig, ContextCIRModel),
    (InstructCIRConfig, InstructCIRModel),
    (CompositionBaselineConfig, CompositionBaseline),  # its processor is that of ConText-CIR
):
    AutoConfig.register(config.model_type, config)
    AutoModel.register(config, model)
    config.register_for_auto_class()
    model.register_for_auto_class("AutoModel")

for config, processor in ((ContextCIRConfig, ContextCIRProcessor), (InstructCIRConfig, InstructCIRProcessor)):
    AutoProcessor.register(config, processor)
    processor.register_for_auto_class("AutoProcessor")

__all__ = [
    "CompositionBaseline",
    "CompositionBaselineConfig",
    "CompositionBaselineOutput",
    "ContextCIRConfig",
    "ContextCIRModel",
    "ContextCIROutput",
    "ContextCIRProcessor",
    "InstructCIRConfig",
    "InstructCIRModel",
    "InstructCIROutput",
    "InstructCIRProcessor",
]
