"""Training with a loss on the attention maps of noun phrases: a trainer of its own, so that the library has no part in
losses that need true masks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import set_seed

from contextcir.training.collator import TripletCollator
from contextcir.training.ema import MovingAverage
from contextcir.training.losses import ConceptForm, concept_consistency_loss, concept_losses
from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from modeling_contextcir.clip_model import CIROutput
from research.grounding.losses import mask_loss, phrase_contrast
from research.grounding.teacher import Teacher, learn_places, start_from, train_teacher

CLIP = Path(__file__).parents[2] / "checkpoints" / "scenes-clip-tiny"
TRUTH = ("coverage", "things", "family")  # what a batch has beside the inputs of the model
# As in configs/scenes_ablation/base.yaml.
RECIPE: dict[str, Any] = {
    "train_sampling_strategy": "sequential",
    "per_device_train_batch_size": 128,
    "freeze_vision": True,
    "encode_images_once": True,
    "learning_rate": 1.2e-3,
    "min_learning_rate": 1.2e-5,
    "weight_decay_of": "transformers",
    "adam_beta2": 0.98,
    "warmup_steps": 0.05,
    "dataloader_pin_memory": False,
    "logging_steps": 20,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


@dataclass(frozen=True)
class MapLosses:
    """Weights of the losses on maps. All zero: the maps are free."""

    masks: float = 0.0  # true masks
    thing_masks: float = 0.0  # those of things alone, not of places and backgrounds
    contrast: float = 0.0  # isolated phrases find their images among those of the batch
    context_contrast: float = 0.0  # so do phrases in context
    cc: float = 0.0  # as published, with a form of the library
    cc_form: ConceptForm = "excess"
    teacher: float = 0.0  # divergence from the maps of a teacher
    teacher_cc: float = 0.0  # the loss as published, with a teacher as the isolated side
    ema_cc: float = 0.0  # the loss as published, with a moving average of the model as the isolated side
    start: bool = False  # whether the attention starts from the teacher
    places: bool = False  # whether the teacher also learns what location words mean

    @property
    def reads_phrases(self) -> bool:
        """`bool`: Whether noun phrases are read at all."""
        return any(isinstance(value, float) and value for value in vars(self).values())

    @property
    def reads_maps(self) -> bool:
        """`bool`: Whether the maps of phrases in context are read."""
        return bool(self.masks or self.thing_masks or self.cc or self.teacher or self.teacher_cc or self.ema_cc)


class TruthCollator(TripletCollator):
    """Adds the truth of the noun phrases, and the families of the triplets."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().__call__(rows)
        if batch.get("num_dropped_phrases"):
            raise ValueError(f"{batch['num_dropped_phrases']} phrases have no tokens: the truth would not fit.")
        covered = [some for row in rows for some in row["coverage"][: self.max_phrases]]
        kinds = [kind for row in rows for kind in row["kinds"][: self.max_phrases]]
        names = list(dict.fromkeys(row["family"] for row in rows))
        family = torch.tensor([names.index(row["family"]) for row in rows])
        things = torch.tensor([kind in ("thing", "things") for kind in kinds])
        return batch | {"coverage": torch.tensor(covered), "things": things, "family": family}


class MapTrainer(CIRTrainer):
    """[`CIRTrainer`] with further losses on the maps, of `map_losses`."""

    map_losses: MapLosses
    teacher: Teacher | None = None
    average: MovingAverage | None = None

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any) -> Any:
        """Return the contrastive loss and those on the maps."""
        truth = {name: inputs.pop(name) for name in TRUTH}
        weights, texts = self.map_losses, len(inputs["input_ids"])
        outputs, prepared = run_step(model, inputs, weights)
        loss = self._contrastive_loss(outputs, inputs)
        parts: dict[str, tuple[float, Tensor]] = {}
        if weights.masks:
            parts["masks"] = weights.masks, mask_loss(outputs.context_attentions, truth["coverage"], texts)
        if weights.thing_masks:
            covered = truth["coverage"] * truth["things"][:, None]
            parts["thing_masks"] = weights.thing_masks, mask_loss(outputs.context_attentions, covered, texts)
        if weights.contrast:
            index = inputs["reference_index"], inputs["target_index"]
            some = torch.randperm(len(inputs["phrase_sample"]))[:PHRASES]
            scores = phrase_scores(model, prepared, inputs["phrase_input_ids"][some], weights.start)
            found = phrase_contrast(scores, inputs["phrase_sample"][some], *index, truth["family"])
            parts["contrast"] = weights.contrast, found
        if weights.context_contrast:
            index = inputs["reference_index"], inputs["target_index"]
            some = torch.randperm(len(inputs["phrase_sample"]))[:PHRASES]
            scores = context_scores(model, prepared, inputs, some, weights.start)
            found = phrase_contrast(scores, inputs["phrase_sample"][some], *index, truth["family"])
            parts["context_contrast"] = weights.context_contrast, found
        if self.teacher is not None and (weights.teacher or weights.teacher_cc):
            maps, trust = self.teacher.maps(inputs)
            context = outputs.context_attentions
            if weights.teacher:
                apart = F.kl_div((context + 1e-6).log(), maps, reduction="none").sum(1)
                parts["teacher"] = weights.teacher, (trust * apart).sum() / texts
            if weights.teacher_cc:
                parts["teacher_cc"] = weights.teacher_cc, (trust * concept_losses(context, maps)).sum() / texts
        if self.average is not None:
            maps = isolated_maps(self.average.model, inputs)
            parts["ema_cc"] = weights.ema_cc, concept_losses(outputs.context_attentions, maps).sum() / texts
        if weights.cc:
            maps = outputs.context_attentions, outputs.isolated_attentions
            found = concept_consistency_loss(
                *maps, inputs["phrase_sample"], texts, inputs["phrase_token_mask"], form=weights.cc_form
            )
            parts["concept_consistency"] = weights.cc, found.loss
        for name, (weight, part) in parts.items():
            self._parts.add(f"loss_{name}", part)
            loss = loss + weight * part
        return (loss, outputs) if return_outputs else loss


@torch.no_grad()
def isolated_maps(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the maps of isolated phrases of a model with text queries, `(num_phrases, num_patches)`."""
    prepared = model.fusion.prepare_images(batch["encoded_images"])
    references = model.fusion.select_images(prepared, batch["reference_index"])
    ids = batch["phrase_input_ids"]
    mask = model._text_mask(ids, batch["phrase_attention_mask"])
    return model._over_patches(model._isolated_rows(references, ids, mask, batch["phrase_sample"]))


PHRASES = 160  # of a batch that are contrasted: cheaper than all, and as good


def run_step(model: Any, batch: dict[str, Any], weights: MapLosses) -> tuple[CIROutput, Any]:
    """Run `ContextCIRModel.forward` without the maps that no loss reads: they are a third of a step. Returns the
    prepared images as well."""
    tokens = batch["encoded_images"]
    prepared = model.fusion.prepare_images(tokens)
    references = model.fusion.select_images(prepared, batch["reference_index"])
    mask = model._text_mask(batch["input_ids"], batch["attention_mask"])
    queries, attentions = model._fuse_texts(references, batch["input_ids"], mask, weights.reads_maps)
    images = model._embed_gallery(tokens, prepared)
    context = isolated = None
    if weights.reads_maps:
        context = model._context_attentions(attentions, batch["phrase_sample"], batch["phrase_token_mask"])
    if weights.cc:
        names = ("phrase_input_ids", "phrase_attention_mask", "phrase_sample", "phrase_token_mask")
        phrases = tuple(batch[name] for name in names)
        isolated = model._isolated_attentions(references, context, phrases, False)
    found = CIROutput(
        query_embeds=queries,
        target_embeds=images[batch["target_index"]],
        reference_embeds=images[batch["reference_index"]],
        logit_scale=model._bounded_logit_scale(),
        context_attentions=context,
        isolated_attentions=isolated,
    )
    return found, prepared


def phrase_scores(model: Any, prepared: Any, input_ids: Tensor, as_heads: bool) -> Tensor:
    """Return what becomes the attention of isolated noun phrases in the first layer, `(num_phrases, num_images,
    num_patches)`, see [`_scores`]."""
    ids, place = input_ids.unique(dim=0, return_inverse=True)
    mask = model._text_mask(ids, None)
    own = mask & mask.roll(-1, dims=1)
    own[:, [0, -1]] = False
    longest = int(mask.sum(1).max()) + 1
    return _scores(model, prepared, model._encode_texts(ids[:, :longest]), own[:, :longest], as_heads)[place]


def context_scores(model: Any, prepared: Any, batch: dict[str, Tensor], some: Tensor, as_heads: bool) -> Tensor:
    """Return the same of the noun phrases `some`, encoded in their texts."""
    states = model._encode_texts(batch["input_ids"])[batch["phrase_sample"][some]]
    return _scores(model, prepared, states, batch["phrase_token_mask"][some], as_heads)


def _scores(model: Any, prepared: Any, states: Tensor, own: Tensor, as_heads: bool) -> Tensor:
    """Return dot products of phrases, whose tokens are `own`, and patches: the mean over tokens. `as_heads`: as large
    as the mean of what the heads take the softmax of; by default as large as with all heads as one, since of the small
    means over heads that are drawn at random a contrast learns next to nothing."""
    layer, first = model.fusion.layers[0], int(model.config.fusion_class_token)
    own, norm = own[:, :, None], layer.norm1
    if model.fusion.text_queries:
        query = layer.attention.q_proj(norm(model.fusion.input_projection(states)))
        key = prepared.fused[0][0][:, :, first:].transpose(1, 2).flatten(2)  # (num_images, num_patches, hidden)
    else:  # the roles of text and image are exchanged
        query, key = layer.attention.k_proj(states), layer.attention.q_proj(norm(prepared.fused[:, first:]))
    query = (query * own).sum(1) / own.sum(1)
    heads = model.config.fusion_num_heads if as_heads else 1
    return torch.einsum("pd,nkd->pnk", query, key) / (heads * key.shape[-1]) ** 0.5


def train(
    rows: datasets.Dataset, model_fields: dict[str, Any], weights: MapLosses, *, seed: int, steps: int, output: Path
) -> dict[str, float]:
    """Train a model from the tiny CLIP, and save it. Returns the means of the last logged losses."""
    set_seed(seed)
    model = ContextCIRModel.from_clip_pretrained(CLIP, fusion_num_layers=1, **{"fusion_num_heads": 16} | model_fields)
    processor = ContextCIRProcessor.from_pretrained(CLIP)
    # The weight in the arguments is zero: the trainer adds the loss itself.
    args = CIRTrainingArguments(output_dir=str(output), max_steps=steps, seed=seed, cc_weight=0.0, **RECIPE)
    # All phrases of the trees, each of which has its mask.
    collator = TruthCollator(processor, max_phrases=10 if weights.reads_phrases else 0, concepts_only=False)
    trainer = MapTrainer(model, args, train_dataset=rows, processing_class=processor, data_collator=collator)
    trainer.map_losses = weights
    if weights.teacher or weights.teacher_cc or weights.start:
        teacher = train_teacher(model, trainer.train_dataset, collator, seed)
        if weights.places:
            learn_places(teacher, trainer.train_dataset, collator, seed)
        if weights.start:
            start_from(teacher, model)
        trainer.teacher = teacher
    if weights.ema_cc:
        trainer.average = MovingAverage(model, momentum=0.99)
        trainer.add_callback(trainer.average)
    trainer.train()
    model.save_pretrained(output)
    processor.save_pretrained(output)
    last = [entry for entry in trainer.state.log_history if "loss_contrastive" in entry][-1]
    return {name: value for name, value in last.items() if name.startswith("loss")}
