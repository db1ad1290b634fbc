"""A teacher of where phrases look, learned without masks: a bilinear map between phrases and patches of the frozen
CLIP, from pairs of phrases and images alone."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from research.grounding.losses import phrase_contrast

STEPS, BATCH, LEARNING_RATE = 400, 64, 2e-3


class Teacher(nn.Module):
    """Scores of the patches of images for phrases, by the encoders of a model as they are now."""

    def __init__(self, model: Any):
        super().__init__()
        text, image = model.config.text_config.hidden_size, model.config.vision_config.hidden_size
        self.text_model = copy.deepcopy(model.text_model).eval().requires_grad_(False)
        self.end = model.config.empty_text_ids[1]
        self.text_map, self.image_map = nn.Linear(text, text), nn.Linear(image, text, bias=False)

    @torch.no_grad()
    def embed(self, input_ids: Tensor) -> Tensor:
        """Return the mean states of the tokens of phrases, `(num_phrases, text_hidden_size)`."""
        is_end = (input_ids == self.end).cumsum(1) > 0
        own = ~is_end
        own[:, 0] = False  # the begin token
        ids = input_ids[:, : int(own.sum(1).max()) + 2]
        states = self.text_model(ids).last_hidden_state
        states = F.layer_norm(states, states.shape[-1:])
        own = own[:, : ids.shape[1], None]
        return (states * own).sum(1) / own.sum(1)

    def scores(self, phrases: Tensor, tokens: Tensor) -> Tensor:
        """Phrases `(num_phrases, dim)` and all tokens of images `(num_images, 1 + num_patches, dim)` -> scores
        `(num_phrases, num_images, num_patches)`."""
        keys = self.image_map(tokens[:, 1:])
        return torch.einsum("pd,nkd->pnk", self.text_map(phrases), keys) / keys.shape[-1] ** 0.5

    @torch.no_grad()
    def maps(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """
        Return the maps of the phrases of a batch over their reference images, `(num_phrases, num_patches)`, and
        weights `(num_phrases,)` in [0, 1]: below 1 where a phrase rather fits the target, as one for what is to be
        added.
        """
        ids, place = batch["phrase_input_ids"].unique(dim=0, return_inverse=True)
        phrases, sample = self.text_map(self.embed(ids))[place], batch["phrase_sample"]
        keys = self.image_map(batch["encoded_images"][:, 1:])
        both = []
        for side in ("reference", "target"):
            some = keys[batch[f"{side}_index"][sample]]
            both.append(torch.einsum("pd,pkd->pk", phrases, some) / keys.shape[-1] ** 0.5)
        reference, target = both
        weights = 2 * (reference.logsumexp(-1) - target.logsumexp(-1)).sigmoid()
        return reference.softmax(-1), weights.clamp(max=1)


def train_teacher(
    model: Any, rows: datasets.Dataset, collate: Callable[[list[dict[str, Any]]], dict[str, Any]], seed: int
) -> Teacher:
    """Learn a teacher from phrases of triplets, each of which names something of one of its two images."""
    generator = torch.Generator().manual_seed(seed)
    teacher = Teacher(model)
    weights = [*teacher.text_map.parameters(), *teacher.image_map.parameters()]
    optimizer = torch.optim.Adam(weights, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    for _ in range(STEPS):
        places: Sequence[int] = torch.randint(len(rows), (BATCH,), generator=generator).unique().tolist()
        batch = collate(list(rows.select(places)))
        ids, place = batch["phrase_input_ids"].unique(dim=0, return_inverse=True)
        scores = teacher.scores(teacher.embed(ids), batch["encoded_images"])[place]
        index = batch["reference_index"], batch["target_index"]
        loss = phrase_contrast(scores, batch["phrase_sample"], *index, batch["family"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return teacher.eval().requires_grad_(False)


@torch.no_grad()
def start_from(teacher: Teacher, model: Any) -> None:
    """Let the first cross-attention of a model with text queries begin with the scores of a teacher: their mean over
    heads are the teacher's. A random rotation gives each head a share of them."""
    if not model.fusion.text_queries:
        raise ValueError("image_to_text attention cannot start from a teacher: its softmax is over text tokens.")
    attention, size = model.fusion.layers[0].attention, model.config.fusion_hidden_size
    turn = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(0)))[0]
    turn *= model.config.fusion_num_heads**0.25  # of both sides: heads divide by the root of their own width
    attention.q_proj.weight.copy_(turn @ teacher.text_map.weight)
    attention.q_proj.bias.copy_(turn @ teacher.text_map.bias)
    attention.k_proj.weight.copy_(turn @ teacher.image_map.weight)
