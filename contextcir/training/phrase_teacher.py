"""A teacher of where noun phrases are in their images, learned without masks, from triplets alone.

A text of composed retrieval names things that its reference or its target image shows. So a noun phrase should fit the
patches of its own two images better than those of other triplets (contrastive phrase grounding, Gupta et al., ECCV
2020). All that is learned is one linear map a side, of the states of a frozen CLIP: minutes, not hours. Which patches
fit a phrase then says where it is. It does not learn locations: every image has a top right corner.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from contextcir.training.collator import TripletCollator
from contextcir.training.encoded_images import EncodedImages
from contextcir.training.training_data import as_rows


@dataclass(frozen=True)
class Learning:
    """
    How the teacher learns.

    Args:
        steps (`int`, defaults to 800): Batches.
        batch_size (`int`, defaults to 64): Triplets of a batch, each of which the phrases of the others have to avoid.
        learning_rate (`float`, defaults to 4e-3): Highest rate of the cycle (Adam).
        seed (`int`, defaults to 0): Seed of the weights and of the batches.
        num_workers (`int`, defaults to 0): Processes that read images.
    """

    steps: int = 800
    batch_size: int = 64
    learning_rate: float = 4e-3
    seed: int = 0
    num_workers: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 2), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}.")


class PhraseTeacher(nn.Module):
    """
    Scores of the patches of images for noun phrases.

    Args:
        model: A model with `encode_images`, `text_model` and their `config`, such as `ContextCIRModel`. It is used as
            it is, and not trained.
    """

    def __init__(self, model: Any):
        super().__init__()
        self._frozen = (model.eval(),)  # in a tuple: no part of this module
        text, image = model.config.text_config.hidden_size, model.config.vision_config.hidden_size
        self.text_map, self.image_map = nn.Linear(text, text), nn.Linear(image, text, bias=False)

    @torch.no_grad()
    def patches(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the normalized patches of the images of a batch, `(num_images, num_patches, image_size)`."""
        encoded = batch["encoded_images"] if "encoded_images" in batch else None
        tokens = self._frozen[0].encode_images(batch["pixel_values"]) if encoded is None else encoded
        patches = tokens[:, 1:].float()  # without the class token
        return F.layer_norm(patches, patches.shape[-1:])

    @torch.no_grad()
    def embed_phrases(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the mean states of the tokens of phrases `(num_phrases, length)`, begin and end left out:
        `(num_phrases, text_size)`."""
        states = self._frozen[0].text_model(input_ids).last_hidden_state.float()
        states = F.layer_norm(states, states.shape[-1:])
        own = attention_mask.bool() & F.pad(attention_mask[:, 1:].bool(), (0, 1))
        own[:, 0] = False
        return (states * own[:, :, None]).sum(1) / own.sum(1, keepdim=True).clamp(min=1)

    def forward(self, phrases: Tensor, patches: Tensor) -> Tensor:
        """Phrases `(num_phrases, text_size)` and patches `(num_images, num_patches, image_size)` -> scores
        `(num_phrases, num_images, num_patches)`."""
        # Phrases of length 1 learn in fewer steps. Patches keep their length: cosines of them would make much of the
        # little that a background knows about what stands before it.
        directions = F.normalize(self.text_map(phrases), dim=-1)
        return torch.einsum("pd,nkd->pnk", directions, self.image_map(patches))

    def scores(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the distinct phrases of a batch, as a place for each phrase, and the scores of these for all images,
        `(num_distinct, num_images, num_patches)`."""
        patches, both = self.patches(batch), torch.stack([batch["phrase_input_ids"], batch["phrase_attention_mask"]])
        if not both.shape[1]:
            return batch["phrase_sample"], patches.new_zeros(0, *patches.shape[:2])
        distinct, place = both.unique(dim=1, return_inverse=True)
        return place, self(self.embed_phrases(*distinct), patches)

    def contrast(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """
        Return the loss of a batch of [`~contextcir.training.collator.TripletCollator`], 0-dim: the cross entropy, in
        nats, of finding the triplet of a phrase by the patches of its two images. Other triplets that show one of
        these or name the same are no alternatives. And, for the phrases that have alternatives, which find theirs and
        the chance of each, `(num_asked,)`.
        """
        place, scores = self.scores(batch)
        sample, reference, target = (batch[name] for name in ("phrase_sample", "reference_index", "target_index"))
        whole = scores.logsumexp(-1)[place]  # (num_phrases, num_images)
        pairs = torch.logaddexp(whole[:, reference], whole[:, target])  # (num_phrases, batch_size)
        images = torch.stack([reference, target])
        related = (images[:, None, :, None] == images[None, :, None]).any(0).any(0)[sample]
        naming = torch.zeros_like(pairs, dtype=torch.bool)  # distinct phrase, triplet
        naming[place, sample] = True
        related = related | naming[place]
        related[torch.arange(len(sample)), sample] = False
        pairs = pairs.masked_fill(related, -torch.inf)
        among = (~related).sum(1)
        right, chance = pairs.argmax(1) == sample, 1 / among
        return F.cross_entropy(pairs, sample), right[among > 1], chance[among > 1]

    @torch.no_grad()
    def maps(self, batch: Mapping[str, Any]) -> Tensor:
        """
        Return where the phrases of a batch are in their reference images, `(num_phrases, num_patches)`. A map sums to
        how far it is to be trusted, in [0, 1]: below 1 where the phrase rather fits the target, as the name of what is
        to be added does.
        """
        place, scores = self.scores(batch)
        sample = batch["phrase_sample"]
        own = scores[place, batch["reference_index"][sample]]
        other = scores[place, batch["target_index"][sample]]
        trust = 2 * (own.logsumexp(-1) - other.logsumexp(-1)).sigmoid()
        return own.softmax(-1) * trust.clamp(max=1)[:, None]


def train_teacher(
    model: Any, processor: Any, triplets: datasets.Dataset, how: Learning, encoded_images: EncodedImages | None = None
) -> tuple[PhraseTeacher, float, float]:
    """
    Learn a teacher from triplets with noun phrases.

    Args:
        model: As for [`PhraseTeacher`], on the device to use.
        processor: The model's processor.
        triplets (`datasets.Dataset`): As from [`~contextcir.data.triplets.load_triplets`].
        how ([`Learning`]): How it learns.
        encoded_images (`Callable`, *optional*): As for [`~contextcir.training.collator.TripletCollator`].

    Returns:
        `tuple`: The teacher, and the share of phrases of the last tenth of the steps that found their triplet among
        the alternatives of their batch, really and by chance.

    Raises:
        ImageError: An image cannot be read. The error names the triplet and the column.
        ValueError: There are fewer triplets than a batch takes, or no phrase has another triplet that it could be told
            from.
    """
    if len(triplets) < how.batch_size:
        raise ValueError(f"{len(triplets)} triplets do not fill a batch of {how.batch_size}. Lower batch_size.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        teacher = PhraseTeacher(model).to(model.device)
    collate = TripletCollator(processor, encoded_images=encoded_images)
    optimizer = torch.optim.Adam(teacher.parameters(), how.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.learning_rate, total_steps=how.steps)
    found: deque[tuple[Tensor, Tensor]] = deque(maxlen=max(how.steps // 10, 1))  # of the last steps
    for batch in tqdm(_random_batches(collate, triplets, how), "Learning", how.steps, unit="step"):
        if len(batch["phrase_sample"]):
            loss, right, chance = teacher.contrast(_on(model.device, batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if len(right):
                found.append((right.float().cpu(), chance.cpu()))
        schedule.step()
    if not found:
        raise ValueError(
            "No noun phrase tells its triplet from others: there are none that name something (`contextcir phrases`"
            " finds them), or all triplets show the same images or name the same."
        )
    right_share, by_chance = (torch.cat(some).mean().item() for some in zip(*found, strict=True))
    return teacher.eval().requires_grad_(False), right_share, by_chance


def phrase_maps(
    teacher: PhraseTeacher,
    processor: Any,
    triplets: datasets.Dataset,
    how: Learning,
    encoded_images: EncodedImages | None = None,
) -> Iterator[list[list[float]]]:
    """Yield, for each triplet, the maps of its noun phrases in their order, see [`PhraseTeacher.maps`]. A phrase
    without tokens of its own has a map of zeros."""
    # Every phrase gets a map, whichever of them a training takes.
    every: dict[str, Any] = {"max_phrases": 1_000_000, "concepts_only": False, "phrase_places": True}
    collate = TripletCollator(processor, encoded_images=encoded_images, **every)
    loader: Iterable[Any] = DataLoader(
        as_rows(triplets),
        how.batch_size,
        collate_fn=collate,
        num_workers=how.num_workers,
        generator=torch.Generator(),  # not that of the caller
    )
    counts = iter(len(phrases or []) for phrases in triplets["noun_phrases"])
    device = next(teacher.parameters()).device
    for batch in tqdm(loader, "Grounding", unit="batch"):
        maps = teacher.maps(_on(device, batch)).cpu()
        zeros = [0.0] * maps.shape[1]
        rows = [[zeros] * next(counts) for _ in batch["triplet_ids"]]
        for row, place, found in zip(
            batch["phrase_sample"].tolist(), batch["phrase_place"].tolist(), maps.tolist(), strict=True
        ):
            rows[row][place] = found
        yield from rows


def _random_batches(collate: TripletCollator, triplets: datasets.Dataset, how: Learning) -> Iterator[dict[str, Any]]:
    """Yield so many batches, each of other random triplets."""
    generator = torch.Generator().manual_seed(how.seed)
    size, steps = how.batch_size, range(how.steps)
    chosen = [torch.randint(len(triplets), (size,), generator=generator).unique().tolist() for _ in steps]
    loader: Iterable[Any] = DataLoader(
        as_rows(triplets),
        batch_sampler=chosen,
        collate_fn=collate,
        num_workers=how.num_workers,
        generator=generator,  # not that of the caller
    )
    yield from loader


def _on(device: torch.device, batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
