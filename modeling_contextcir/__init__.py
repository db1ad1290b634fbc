"""ConText-CIR, InstructCIR and two late-fusion baselines as transformers models, each with its config.

Importing this folder registers them with the Auto classes. `save_pretrained` copies the code that its own model needs,
so that `trust_remote_code=True` works where this package is not installed. The folder is flat, and its files import
their siblings as `from .name import X` only: transformers does not follow other forms when it copies code.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

from .clip_image_processor import CIRImageProcessor
from .clip_model import CIROutput
from .configuration_contextcir import ContextCIRConfig
from .configuration_instructcir import InstructCIRConfig
from .modeling_baselines import CompositionBaseline, CompositionBaselineConfig
from .modeling_contextcir import ContextCIRModel
from .modeling_instructcir import InstructCIRModel
from .processing_contextcir import ContextCIRProcessor
from .processing_instructcir import InstructCIRProcessor

for config, model, processor in (
    (ContextCIRConfig, ContextCIRModel, ContextCIRProcessor),
    (InstructCIRConfig, InstructCIRModel, InstructCIRProcessor),
    (CompositionBaselineConfig, CompositionBaseline, ContextCIRProcessor),
):
    AutoConfig.register(config.model_type, config)
    AutoModel.register(config, model)
    AutoProcessor.register(config, processor)
    AutoImageProcessor.register(config, image_processor_classes={"pil": CIRImageProcessor})
    config.register_for_auto_class()
    model.register_for_auto_class("AutoModel")
    processor.register_for_auto_class("AutoProcessor")
CIRImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = [
    "CIRImageProcessor",
    "CIROutput",
    "CompositionBaseline",
    "CompositionBaselineConfig",
    "ContextCIRConfig",
    "ContextCIRModel",
    "ContextCIRProcessor",
    "InstructCIRConfig",
    "InstructCIRModel",
    "InstructCIRProcessor",
]
