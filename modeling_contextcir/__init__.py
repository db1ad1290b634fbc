"""ConText-CIR as a transformers model: `ContextCIRConfig`, `ContextCIRModel`, `ContextCIRProcessor`.

This folder travels to the Hub with the weights: importing it registers the three with the Auto classes, and every
`save_pretrained` carries their code, so that `trust_remote_code=True` works where this package is not installed.
"""

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration_contextcir import ContextCIRConfig
from .modeling_contextcir import ContextCIRModel, ContextCIROutput
from .processing_contextcir import ContextCIRProcessor

AutoConfig.register("contextcir", ContextCIRConfig)
AutoModel.register(ContextCIRConfig, ContextCIRModel)
AutoProcessor.register(ContextCIRConfig, ContextCIRProcessor)

ContextCIRConfig.register_for_auto_class()
ContextCIRModel.register_for_auto_class("AutoModel")
ContextCIRProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["ContextCIRConfig", "ContextCIRModel", "ContextCIROutput", "ContextCIRProcessor"]
