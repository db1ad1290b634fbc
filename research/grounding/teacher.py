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
        patches = (model.config.vision_config.image_size // model.config.vision_config.patch_size) ** 2
        self.place_map = nn.Linear(text, patches)  # scores of patches whatever they show; zero until learned
        nn.init.zeros_(self.place_map.weight)
        nn.init.zeros_(self.place_map.bias)

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
        reference, target = self.both_scores(batch)
        weights = 2 * (reference.logsumexp(-1) - target.logsumexp(-1)).sigmoid()
        return (reference + self.place_scores(batch)).softmax(-1), weights.clamp(max=1)

    def both_scores(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Return the scores of the phrases of a batch over their reference and over their target image, `(num_phrases,
        num_patches)` each, by what patches show."""
        ids, place = batch["phrase_input_ids"].unique(dim=0, return_inverse=True)
        phrases, sample = self.text_map(self.embed(ids))[place], batch["phrase_sample"]
        keys = self.image_map(batch["encoded_images"][:, 1:])
        sides = [keys[batch[f"{side}_index"][sample]] for side in ("reference", "target")]
        return [torch.einsum("pd,pkd->pk", phrases, some) / keys.shape[-1] ** 0.5 for some in sides]

    def place_scores(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the scores of the phrases of a batch by where patches are, `(num_phrases, num_patches)`."""
        ids, place = batch["phrase_input_ids"].unique(dim=0, return_inverse=True)
        return self.place_map(self.embed(ids))[place]


def train_teacher(
    model: Any, rows: datasets.Dataset, collate: Callable[[list[dict[str, Any]]], dict[str, Any]], seed: int
) -> Teacher:
    """Learn a teacher from phrases of triplets, each of which names something of one of its two images."""
    teacher = Teacher(model)

    def contrast(batch: dict[str, Any]) -> Tensor:
        ids, place = batch["phrase_input_ids"].unique(dim=0, return_inverse=True)
        scores = teacher.scores(teacher.embed(ids), batch["encoded_images"])[place]
        index = batch["reference_index"], batch["target_index"]
        return phrase_contrast(scores, batch["phrase_sample"], *index, batch["family"])

    _fit([*teacher.text_map.parameters(), *teacher.image_map.parameters()], contrast, rows, collate, seed)
    return teacher.eval().requires_grad_(False)


def learn_places(
    teacher: Teacher, rows: datasets.Dataset, collate: Callable[[list[dict[str, Any]]], dict[str, Any]], seed: int
) -> None:
    """Teach a teacher location words, which pairs cannot: every image has a top right corner. But what a text puts
    there is there in one of its two images, and the teacher sees that. So a phrase learns in which part of an image
    the other phrases of its texts look more often than phrases do."""
    usual = torch.ones(teacher.place_map.out_features)
    for weight in teacher.place_map.parameters():
        weight.requires_grad_(True)

    def likelihood(batch: dict[str, Any]) -> Tensor:
        with torch.no_grad():
            reference, target = teacher.both_scores(batch)
            share = (reference.logsumexp(-1) - target.logsumexp(-1)).sigmoid()[:, None]
            seen = share * reference.softmax(-1) + (1 - share) * target.softmax(-1)  # in the image that fits
            usual.lerp_(seen.mean(0) * len(usual), 0.05)
        sample = batch["phrase_sample"]
        others = (sample[:, None] == sample[None]).float().fill_diagonal_(0)
        count = others.sum(1, keepdim=True)
        evidence = others @ (seen / usual) / count.clamp(min=1)
        found = (teacher.place_scores(batch).softmax(-1) * evidence).sum(-1)
        return -found[count[:, 0] > 0].log().mean()

    _fit(list(teacher.place_map.parameters()), likelihood, rows, collate, seed, 3 * LEARNING_RATE)
    teacher.requires_grad_(False)


def _fit(
    weights: list[nn.Parameter],
    loss_of: Callable[[dict[str, Any]], Tensor],
    rows: datasets.Dataset,
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    seed: int,
    learning_rate: float = LEARNING_RATE,
) -> None:
    """Minimise a loss of random batches."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(weights, learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=STEPS)
    for _ in range(STEPS):
        places: Sequence[int] = torch.randint(len(rows), (BATCH,), generator=generator).unique().tolist()
        loss = loss_of(collate(list(rows.select(places))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


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
