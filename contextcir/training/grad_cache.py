"""GradCache: the gradients of a large batch at the memory of a chunk of it.

Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup (2021), section 3. The contrastive
loss needs the embeddings of the whole batch, but not the activations that lead to them. So the batch is encoded chunk
by chunk without a graph, the loss of all embeddings gives a gradient for each of them, and every chunk is encoded
again, now with a graph, to pass its gradients on to the weights. The second pass draws the same random numbers as the
first.

The concept-consistency loss is a sum over texts. So each chunk adds its own part in the second pass, and the first
pass encodes no noun phrases. Images are distinct within a batch. The texts of one reference image stay together, and a
target is encoded in one chunk only, so that nearly every image is encoded once in each pass.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states

IMAGES = ("pixel_values", "encoded_images")  # a row for each image
TEXTS = ("input_ids", "attention_mask")  # a row for each text
PHRASES = tuple(f"phrase_{name}" for name in ("input_ids", "attention_mask", "sample", "token_mask", "maps"))
PLACES = ("reference_index", "target_index")  # of the images of each text


class Chunk(NamedTuple):
    """
    Some texts of a batch with their reference images and noun phrases, and at most as many of its target images.

    Attributes:
        texts: Rows of the batch, `(num_texts,)`.
        targets: Which of the batch's distinct target images, in the order of `target_index.unique()`,
            `(num_targets,)`.
        images: Places of its images in the batch, `(num_images,)`.
        reference_index: Place of each text's reference among them, `(num_texts,)`.
        target_index: Places of `targets` among them, and fillers: `(num_texts,)`.
    """

    texts: Tensor
    targets: Tensor
    images: Tensor
    reference_index: Tensor
    target_index: Tensor

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return arguments of the model's `forward`. Made when they are needed: they hold copies of the images."""
        inputs = {name: batch[name][self.texts] for name in TEXTS if name in batch}
        inputs |= {name: batch[name][self.images] for name in IMAGES if name in batch}
        inputs |= {"reference_index": self.reference_index, "target_index": self.target_index}
        if "phrase_sample" in batch:
            own = (batch["phrase_sample"][:, None] == self.texts).nonzero()  # phrase, place of its text
            inputs |= {name: batch[name][own[:, 0]] for name in PHRASES if name in batch}
            inputs["phrase_sample"] = own[:, 1]
        return inputs


def cut(batch: Mapping[str, Tensor], size: int) -> list[Chunk]:
    """
    Cut a batch into chunks of `size` texts, of which the last may be smaller.

    Args:
        batch (`Mapping`): Arguments of the model's `forward`, as from
            [`~contextcir.training.collator.TripletCollator`].
        size (`int`): Texts of a chunk. It has at most twice as many images, and its share of mined negatives.

    Raises:
        ValueError: The batch holds something else, which cannot be cut.
    """
    if unknown := sorted(batch.keys() - {*IMAGES, *TEXTS, *PHRASES, *PLACES}):
        raise ValueError(f"grad_cache_chunk cannot cut {', '.join(unknown)}. Leave it out, or take another collator.")
    references, targets = batch["reference_index"], batch["target_index"].unique()
    texts = references.argsort(stable=True).split(size)
    chunks = []
    for rows, chosen in zip(texts, _share_out(targets, [references[rows] for rows in texts]), strict=True):
        filler = (targets[chosen] if len(chosen) else references[rows])[:1].expand(max(len(rows) - len(chosen), 0))
        images, places = torch.cat([references[rows], targets[chosen], filler]).unique(return_inverse=True)
        chunks.append(Chunk(rows, chosen, images, places[: len(rows)], places[len(rows) :]))
    return chunks


def _share_out(targets: Tensor, references: list[Tensor]) -> list[Tensor]:
    """Give each target image to one chunk: to one that has it as a reference and encodes it anyway, or else to the one
    with most room. A chunk has room for as many targets as it has texts."""
    chosen: list[list[int]] = [[] for _ in references]
    homes = {image: chunk for chunk, images in enumerate(references) for image in images.tolist()}
    others: list[int] = []
    for number, image in enumerate(targets.tolist()):
        home = homes.get(image)
        fits = home is not None and len(chosen[home]) < len(references[home])
        (chosen[home] if home is not None and fits else others).append(number)
    for number in others:
        room = [len(images) - len(numbers) for images, numbers in zip(references, chosen, strict=True)]
        chosen[room.index(max(room))].append(number)
    return [torch.tensor(numbers, dtype=torch.long, device=targets.device) for numbers in chosen]


def cached_loss(
    batch: Mapping[str, Tensor],
    size: int,
    *,
    encode: Callable[[Mapping[str, Tensor]], Any],
    contrastive: Callable[[Any], Tensor],
    of_maps: Callable[[Any, Mapping[str, Tensor]], Tensor | None],
    backward: Callable[[Tensor], None],
    trains_targets: bool = True,
    without_sync: Callable[[], AbstractContextManager] = nullcontext,
) -> Tensor:
    """
    Compute the loss of a batch, and its gradients for all chunks but the last, whose are those of the returned loss.

    Args:
        batch (`Mapping`): As for [`cut`].
        size (`int`): As for [`cut`].
        encode (`Callable`): Arguments of the model's `forward` -> its output.
        contrastive (`Callable`): Embeddings of the whole batch, as attributes of such an output -> the contrastive
            loss.
        of_maps (`Callable`): Output of a chunk and its part of the batch -> its part of the weighted losses on
            attention maps, or `None` if there are none.
        backward (`Callable`): Adds the gradients of a loss to those of the weights.
        trains_targets (`bool`): Whether targets carry a gradient. Those of a moving average do not.
        without_sync (`Callable`): Context in which gradients are not yet averaged over processes.

    Returns:
        `torch.Tensor`: 0-dim, the loss of the whole batch.

    Raises:
        ValueError: As for [`cut`].
    """
    chunks = cut(batch, size)
    states, parts = [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_random_state(chunk.texts))
            own = {name: tensor[:0] if name in PHRASES else tensor for name, tensor in chunk.inputs(batch).items()}
            parts.append(encode(own))
    queries = _joined([part.query_embeds for part in parts], [chunk.texts for chunk in chunks])
    references = None
    if getattr(parts[0], "reference_embeds", None) is not None:
        references = _joined([part.reference_embeds for part in parts], [chunk.texts for chunk in chunks])
    targets = _joined([part.target_embeds for part in parts], [chunk.targets for chunk in chunks])
    targets.requires_grad_(trains_targets)
    scale = parts[-1].logit_scale.detach().requires_grad_()
    del parts
    place = batch["target_index"].unique(return_inverse=True)[1]
    whole = SimpleNamespace(
        query_embeds=queries, target_embeds=targets[place], reference_embeds=references, logit_scale=scale
    )
    loss = contrastive(whole)
    leaves = [leaf for leaf in (queries, targets, references, scale) if leaf is not None and leaf.requires_grad]
    torch.autograd.backward(loss, inputs=leaves)

    total = loss.detach()
    for chunk, state in zip(chunks, states, strict=True):
        last = chunk is chunks[-1]
        with nullcontext() if last else without_sync():
            own = chunk.inputs(batch)
            if not trains_targets:
                del own["target_index"]
            with _replayed(state):
                outputs = encode(own)
            # Its gradient is the chain rule: that of the loss for an embedding, times those of the embedding.
            chained = _dot(outputs.query_embeds, queries.grad, chunk.texts)
            if trains_targets:
                chained = chained + _dot(outputs.target_embeds, targets.grad, chunk.targets)
            if references is not None and references.grad is not None:
                chained = chained + _dot(outputs.reference_embeds, references.grad, chunk.texts)
            if last:
                chained = chained + outputs.logit_scale * scale.grad
            part = of_maps(outputs, own)
            if part is not None:
                chained, total = chained + part, total + part.detach()
            del outputs, part, own
            if not last and chained.requires_grad:
                backward(chained)
    return total + (chained - chained.detach())


def _joined(parts: list[Tensor], places: list[Tensor]) -> Tensor:
    """Join embeddings of chunks, each without its fillers, and put them at their places: a leaf of a new graph."""
    found = torch.cat([part[: len(place)] for part, place in zip(parts, places, strict=True)])
    return torch.empty_like(found).index_copy_(0, torch.cat(places), found).requires_grad_()


def _dot(embeds: Tensor, gradient: Any, places: Tensor) -> Tensor:
    """Multiply embeddings of a chunk by the gradients at their places, and fillers by zero: DDP waits for every
    parameter, those that only a filler uses included."""
    own = torch.zeros_like(embeds).index_copy_(0, torch.arange(len(places), device=places.device), gradient[places])
    return (embeds * own).sum()


def _random_state(tensor: Tensor) -> tuple[Tensor, list[int], list[Tensor]]:
    """Return the state of the random numbers of the CPU, and of the device of a tensor."""
    return torch.get_rng_state(), *get_device_states(tensor)


@contextmanager
def _replayed(state: tuple[Tensor, list[int], list[Tensor]]) -> Iterator[None]:
    """Draw the random numbers of a state again within a context, and go on afterwards as if it had not been."""
    cpu, devices, states = state
    with torch.random.fork_rng(devices):
        torch.set_rng_state(cpu)
        set_device_states(devices, states)
        yield
