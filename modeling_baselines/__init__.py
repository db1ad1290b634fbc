"""Two small composers on pooled CLIP features, to compare with: `CompositionBaselineConfig`, `CompositionBaseline`.

Their processor is that of the CLIP they start from. The folder travels to the Hub with the weights, as
`modeling_contextcir` does.
"""

from transformers import AutoConfig, AutoModel

from .modeling_baselines import CompositionBaseline, CompositionBaselineConfig, CompositionBaselineOutput

AutoConfig.register("cir_baseline", CompositionBaselineConfig)
AutoModel.register(CompositionBaselineConfig, CompositionBaseline)

CompositionBaselineConfig.register_for_auto_class()
CompositionBaseline.register_for_auto_class("AutoModel")

__all__ = ["CompositionBaseline", "CompositionBaselineConfig", "CompositionBaselineOutput"]
