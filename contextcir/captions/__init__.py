"""Captions of what differs between two images, written by a chat model: pairs in, triplets to train on out.

`stages` are the recipes of good4cir and InstructCIR, `schemas` what a model answers and `prompts` what it is told;
`inspection` looks at the images beforehand and `leakage` for test images among them; `gates` judge what was written;
`pipeline` takes all pairs through all of it; `joining`, `dataset` and `report` make data of the results. `run` is one
call of all that, `progress` what it shows, `writing` what it leaves in its folder, `publishing` what others get of it,
and `rehearsal` a run that asks nobody. No stage knows a server: requests go to an `ask`, see `contextcir.chat.server`.
"""

from contextcir.captions.gates import MAX_WORDS, gate_captions
from contextcir.captions.inspection import Inspector
from contextcir.captions.leakage import HeldOut
from contextcir.captions.pipeline import NOT_REACHED, Captioner, PairResult, ResultLog, caption_all
from contextcir.captions.recipes import load_prompts
from contextcir.captions.stages import Caption, Conversation, Draft, StageError, good4cir, instructcir
from contextcir.chat.prompts import Prompt, prompts_hash

__all__ = [
    "MAX_WORDS",
    "NOT_REACHED",
    "Caption",
    "Captioner",
    "Conversation",
    "Draft",
    "HeldOut",
    "Inspector",
    "PairResult",
    "Prompt",
    "ResultLog",
    "StageError",
    "caption_all",
    "gate_captions",
    "good4cir",
    "instructcir",
    "load_prompts",
    "prompts_hash",
]
