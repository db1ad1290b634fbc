"""InstructCIR as a transformers model: `InstructCIRConfig`, `InstructCIRModel`, `InstructCIRProcessor`.

This folder travels to the Hub with the weights: importing it registers the three with the Auto classes, and every
`save_pretrained` carries their code, so that `trust_remote_code=True` works where this package is not installed.
"""

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration_instructcir import InstructCIRConfig
from .modeling_instructcir import InstructCIRModel, InstructCIROutput
from .processing_instructcir import InstructCIRProcessor

AutoConfig.register("instructcir", InstructCIRConfig)
AutoModel.register(InstructCIRConfig, InstructCIRModel)
AutoProcessor.register(InstructCIRConfig, InstructCIRProcessor)

InstructCIRConfig.register_for_auto_class()
InstructCIRModel.register_for_auto_class("AutoModel")
InstructCIRProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["InstructCIRConfig", "InstructCIRModel", "InstructCIROutput", "InstructCIRProcessor"]
