"""Speed and memory on ViT-B/32 shapes with random weights, as a table and as JSON.

    python -m bench.models                        # CPU, one thread, CPU seconds: about 25 minutes
    python -m bench.models --device cuda          # wall seconds
    python -m bench.models --quick                # tiny shapes, one repeat: does it run?

Each line compares two variants of the same work. They alternate, after one round to warm up, and the medians of
`--repeats` rounds are compared, so that a busy machine is unfair to both. A training step is forward and backward. The
naive variant of it, kept here, runs the vision encoder again for every noun phrase and pads every text to 77 tokens;
it must reach the same loss (to 1e-5) and gradients (to 1e-4 of their norm). A step of InstructCIR is held against one
of plain CLIP with the same encoders, images and texts, and that against the operations of both.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from contextcir.benchmarks import cirr, fashioniq, genecis, imagenet_r, visdial
from contextcir.benchmarks.base import Benchmark
from contextcir.ema import MovingAverage
from contextcir.losses import concept_consistency_loss, contrastive_loss
from contextcir.provenance import git_commit
from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.index import search
from contextcir.retrieval.ranking import rank
from modeling_contextcir import ContextCIRConfig, ContextCIRModel
from modeling_instructcir import InstructCIRConfig, InstructCIRModel

# Tokens of CIRR's validation captions with begin and end token, at equally spaced quantiles (mean 14.1).
CIRR_LENGTHS = [8, 9, 10, 11, 12, 12, 13, 14, 14, 15, 16, 17, 18, 20, 22, 26]
# Longer captions carry more noun phrases: as in CIRR with three, about twice as long with eight.
LENGTH_FACTOR = {3: 1, 8: 2}
CONCEPT_WEIGHT = 0.08  # as in the paper


def encoder_configs(quick: bool) -> dict:
    """Of ViT-B/32 shapes, or tiny ones."""
    small = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    text, vision = (small, {**small, "image_size": 32, "patch_size": 8}) if quick else ({}, {})
    return {"text_config": CLIPTextConfig(**text), "vision_config": CLIPVisionConfig(**vision)}


def build_model(quick: bool) -> ContextCIRModel:
    """ConText-CIR with random weights."""
    torch.manual_seed(0)
    return ContextCIRModel(ContextCIRConfig(**encoder_configs(quick)))


def random_ids(lengths, config, generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts of the given lengths (begin and end included), padded to the longest: ids and mask."""
    start, end = config.empty_text_ids
    ids = torch.full((len(lengths), max(lengths)), end)
    for row, length in zip(ids, lengths, strict=True):
        row[0] = start
        row[1 : length - 1] = torch.randint(1000, 40000, (length - 2,), generator=generator)
    return ids, (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long()


def random_batch(model, batch_size: int, num_phrases: int, device) -> dict[str, torch.Tensor]:
    """Arguments of `forward`. Two noun phrases of a text are long (half and a third of it), the others short."""
    generator = torch.Generator().manual_seed(batch_size + num_phrases)
    size, factor = model.config.vision_config.image_size, LENGTH_FACTOR[num_phrases]
    lengths = [CIRR_LENGTHS[(5 * i) % 16] * factor for i in range(batch_size)]
    ids, mask = random_ids(lengths, model.config, generator)
    phrases, samples, token_masks = [], [], []
    for sample, length in enumerate(lengths):
        words = length - 2
        for i in range(num_phrases):
            phrase_length = max(2, words // (2 + i)) if i < 2 else 2 + i % 3
            # Not the first word: there, both maps are the same, and rounding would decide on the naive gradient.
            first = 2 + int(torch.randint(0, words - phrase_length, (), generator=generator))
            phrases.append(ids[sample, first : first + phrase_length])
            samples.append(sample)
            token_masks.append(
                (torch.arange(ids.shape[1]) >= first) & (torch.arange(ids.shape[1]) < first + phrase_length)
            )
    phrase_ids, phrase_mask = random_ids([len(phrase) + 2 for phrase in phrases], model.config, generator)
    for row, phrase in zip(phrase_ids, phrases, strict=True):
        row[1 : 1 + len(phrase)] = phrase
    batch = {
        "input_ids": ids,
        "pixel_values": torch.randn(2 * batch_size, 3, size, size, generator=generator),
        "reference_index": torch.arange(batch_size),
        "target_index": torch.arange(batch_size, 2 * batch_size),
        "attention_mask": mask,
        "phrase_input_ids": phrase_ids,
        "phrase_attention_mask": phrase_mask,
        "phrase_sample": torch.tensor(samples),
        "phrase_token_mask": torch.stack(token_masks),
    }
    return {key: value.to(device) for key, value in batch.items()}


def pad_to_77(ids, mask, end_id: int):
    more = 77 - ids.shape[1]
    return torch.nn.functional.pad(ids, (0, more), value=end_id), torch.nn.functional.pad(mask, (0, more))


def step(model, batch, concepts: bool) -> torch.Tensor:
    """One training step, as the trainer does it."""
    model.zero_grad()
    if not concepts:
        batch = {key: value for key, value in batch.items() if not key.startswith("phrase_")}
    loss = total_loss(model(**batch), batch)
    loss.backward()
    return loss.detach()


def total_loss(output, batch):
    embeds = (output["query_embeds"], output["target_embeds"], output["reference_embeds"])
    loss = contrastive_loss(*embeds, output["logit_scale"])
    if output.get("context_attentions") is not None:
        maps = (output["context_attentions"], output["isolated_attentions"])
        concepts = concept_consistency_loss(*maps, batch["phrase_sample"], len(embeds[0]))
        loss = loss + CONCEPT_WEIGHT * concepts.loss
    return loss


def naive_step(model, batch) -> torch.Tensor:
    """The same step without a thought: each text padded to 77, each pair of image and text encoded for itself."""
    model.zero_grad()
    end = model.config.empty_text_ids[1]
    references, targets = (batch["pixel_values"][batch[name]] for name in ("reference_index", "target_index"))
    samples = batch["phrase_sample"]
    empty = torch.tensor([model.config.empty_text_ids] * len(references), device=references.device)

    def fuse(pixels, ids, mask):
        ids, mask = pad_to_77(ids, mask, end)
        prepared = model.fusion.prepare_images(model.encode_images(pixels))
        return model._fuse(prepared, model._encode_texts(ids), mask.bool(), True)

    def distribution(attentions, token_mask):
        patches = (attentions[:, :, 1:] * token_mask[:, :, None]).sum(dim=1)
        return patches / patches.sum(dim=-1, keepdim=True)

    query_embeds, attentions = fuse(references, batch["input_ids"], batch["attention_mask"])
    reference_embeds, _ = fuse(references, empty, torch.ones_like(empty))
    target_embeds, _ = fuse(targets, empty, torch.ones_like(empty))
    with torch.no_grad():
        _, isolated = fuse(references[samples], batch["phrase_input_ids"], batch["phrase_attention_mask"])
    position = torch.arange(77, device=references.device)
    own_tokens = (position > 0) & (position < batch["phrase_attention_mask"].sum(dim=1, keepdim=True) - 1)
    in_context, _ = pad_to_77(batch["phrase_token_mask"], batch["phrase_token_mask"], False)
    output = {
        "query_embeds": query_embeds,
        "target_embeds": target_embeds,
        "reference_embeds": reference_embeds,
        "logit_scale": model.logit_scale.exp(),
        "context_attentions": distribution(attentions[samples], in_context),
        "isolated_attentions": distribution(isolated, own_tokens),
    }
    loss = total_loss(output, batch)
    loss.backward()
    return loss.detach()


def same_training(model, batch) -> dict[str, float]:
    """How far the naive step is from ours: loss, and gradients as a share of their norm."""
    loss = step(model, batch, True)
    ours = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).clone()
    naive_loss = naive_step(model, batch)
    naive = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    return {
        "loss_difference": (loss - naive_loss).abs().item(),
        "gradient_difference": ((ours - naive).norm() / ours.norm()).item(),
    }


def compare(one, other, repeats: int, device: str) -> tuple[float, float]:
    """Median seconds of two functions that take turns: CPU seconds on the CPU, else wall seconds."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds = {one: [], other: []}
    for _ in range(repeats + 1):
        for function in seconds:
            begin = clock()
            function()
            if device != "cpu":
                torch.cuda.synchronize()
            seconds[function].append(clock() - begin)
    return tuple(statistics.median(times[1:]) for times in seconds.values())


class Report:
    """Prints a line for each comparison and keeps it for the JSON."""

    def __init__(self):
        self.rows = []
        print(f"{'':<64}{'seconds':>9}{'other':>9}{'ratio':>7}  goal")

    def add(self, name: str, ratio: float, goal: str, seconds=(), **more):
        """`goal` is `<=` or `>=` and a number; all of `more` that are bool must be true, too."""
        bound = float(goal.split()[1])
        met = (ratio <= bound if goal.startswith("<=") else ratio >= bound) and all(
            value for value in more.values() if isinstance(value, bool)
        )
        self.rows.append({"name": name, "ratio": ratio, "goal": goal, "met": met, "seconds": seconds, **more})
        columns = "".join(f"{value:>9.3f}" for value in seconds) or " " * 18
        print(f"{name:<64}{columns}{ratio:>7.2f}  {goal:<7}{'' if met else ' MISSED'}", flush=True)


def bench_training(model, batch_sizes, repeats: int, device: str, report: Report) -> None:
    for num_phrases, concept_goal, naive_goal in ((3, "<= 1.2", ">= 1.9"), (8, "<= 1.3", ">= 2.3")):
        for batch_size in batch_sizes:
            batch = random_batch(model, batch_size, num_phrases, device)
            what = f"batch {batch_size}, {num_phrases} phrases"
            with_concepts, without, naive = (
                partial(step, model, batch, True),
                partial(step, model, batch, False),
                partial(naive_step, model, batch),
            )
            seconds = compare(with_concepts, without, repeats, device)
            report.add(f"training step with / without CC loss, {what}", seconds[0] / seconds[1], concept_goal, seconds)
            differences = same_training(model, batch)
            seconds = compare(naive, with_concepts, repeats, device)
            equal = differences["loss_difference"] <= 1e-5 and differences["gradient_difference"] <= 1e-4
            name = f"naive / our training step, {what}"
            report.add(name, seconds[0] / seconds[1], naive_goal, seconds, equal=equal, **differences)


@torch.no_grad()
def bench_encoding(model, batch_size: int, repeats: int, device: str, report: Report) -> None:
    size, generator = model.config.vision_config.image_size, torch.Generator().manual_seed(0)
    pixels = torch.randn(batch_size, 3, size, size, generator=generator).to(device)
    ids, mask = random_ids([CIRR_LENGTHS[i % 16] for i in range(batch_size)], model.config, generator)
    padded = [text.to(device) for text in pad_to_77(ids, mask, model.config.empty_text_ids[1])]
    short = [text.to(device) for text in (ids, mask)]

    def encode_padded():
        prepared = model.fusion.prepare_images(model.encode_images(pixels))
        return model._fuse(prepared, model._encode_texts(padded[0]), padded[1].bool())[0]

    variants = (encode_padded, partial(model.get_query_features, pixels, *short))
    seconds = compare(*variants, repeats, device)
    report.add("query encoding, texts padded to 77 / as they come", seconds[0] / seconds[1], ">= 1.4", seconds)
    seconds = compare(partial(model.get_image_features, pixels), partial(model.vision_model, pixels), repeats, device)
    report.add('gallery encoding, f(I, "") / plain vision forward', seconds[0] / seconds[1], "<= 1.1", seconds)


def instructcir_step(model, batch) -> None:
    """One training step, as the trainer does it without a moving average."""
    model.zero_grad()
    output = model(**batch)
    embeds = (output.query_embeds, output.target_embeds, None)
    contrastive_loss(*embeds, output.logit_scale, query_negatives="none").backward()


def clip_step(clip, batch) -> None:
    """Images and texts of the same batch through plain CLIP, which makes a query of their sum."""
    clip.zero_grad()
    images = clip.get_image_features(batch["pixel_values"]).pooler_output
    texts = clip.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
    queries = images[batch["reference_index"]] + texts
    embeds = [torch.nn.functional.normalize(some, dim=-1) for some in (queries, images[batch["target_index"]])]
    contrastive_loss(*embeds, None, clip.logit_scale.exp(), query_negatives="none").backward()


def operations(function) -> int:
    """Floating-point operations of matrix products, convolutions and attention, backward passes included."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def bench_instructcir(quick: bool, repeats: int, device: str, report: Report) -> None:
    """Against plain CLIP: the paper's batch of 32 in training, and its gallery."""
    torch.manual_seed(0)
    model = InstructCIRModel(InstructCIRConfig(**encoder_configs(quick))).to(device).train()
    clip = CLIPModel(CLIPConfig(**encoder_configs(quick))).to(device).train()
    batch_size = 2 if quick else 32
    batch = random_batch(model, batch_size, 3, device)
    batch = {name: value for name, value in batch.items() if not name.startswith("phrase_")}
    ours, plain = partial(instructcir_step, model, batch), partial(clip_step, clip, batch)
    expected = operations(ours) / operations(plain)
    seconds = compare(ours, plain, repeats, device)
    ratio = seconds[0] / seconds[1]
    name = f"InstructCIR / CLIP training step, batch {batch_size}"
    report.add(f"{name}: time over operations", ratio / expected, "<= 1.15", seconds, time=ratio, operations=expected)
    average = MovingAverage(model, 0.996)
    seconds = compare(partial(average.update, model, 0.996), ours, repeats, device)
    report.add("moving average, update / training step", seconds[0] / seconds[1], "<= 0.03", seconds)
    model.zero_grad()
    with torch.no_grad():
        pixels = batch["pixel_values"]
        variants = (partial(model.eval().get_image_features, pixels), partial(model.vision_model, pixels))
        seconds = compare(*variants, repeats, device)
    report.add("InstructCIR gallery encoding / plain vision forward", seconds[0] / seconds[1], "<= 1.3", seconds)


def blocked_topk(queries, gallery, k: int, block_size: int = 16_384):
    """The least that exact search can do: one matmul and one top-k for each block, then one over what was found."""
    found = [(queries @ block.T).topk(k, dim=1) for block in gallery.split(block_size)]
    scores, places = torch.cat([values for values, _ in found], 1).topk(k, dim=1)
    indices = torch.cat([indices + i * block_size for i, (_, indices) in enumerate(found)], 1)
    return scores, indices.gather(1, places)


def peak_of_memory(device: str) -> float:
    """Of this process so far, in MB."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    # Not `ru_maxrss`, which a child inherits from its parent.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_a_process(function, *args):
    """What a function puts into the queue that is its last argument, run in a process of its own, so that the peak of
    memory is its own."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=function, args=(*args, results))
    process.start()
    found = results.get()
    process.join()
    return found


def measure_search(gallery_size: int, repeats: int, device: str, threads: int, results) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    gallery = torch.empty(gallery_size, 512)
    for block in gallery.split(4096):
        block.normal_()
        block.div_(block.norm(dim=1, keepdim=True))
    gallery = gallery.to(device)
    queries = torch.nn.functional.normalize(torch.randn(800, 512), dim=1).to(device)

    before = peak_of_memory(device)
    scores, _ = search(queries, gallery, 50)
    megabytes = peak_of_memory(device) - before
    same = torch.allclose(scores, blocked_topk(queries, gallery, 50)[0])
    variants = (partial(search, queries, gallery, 50), partial(blocked_topk, queries, gallery, 50))
    results.put((compare(*variants, repeats, device), megabytes, same))


def bench_search(gallery_size: int, repeats: int, device: str, threads: int, report: Report) -> None:
    seconds, megabytes, same = in_a_process(measure_search, gallery_size, repeats, device, threads)
    name = f"search, top 50 of 800 queries in {gallery_size:,} / matmul + topk"
    report.add(name, seconds[0] / seconds[1], "<= 1.5", seconds, equal=same)
    report.add("search, peak of memory above the gallery in MB", megabytes, "<= 400")


def random_benchmark(num_queries: int, gallery_size: int, candidates: int = 0) -> Benchmark:
    """A benchmark of these sizes, with one target for each query, the reference excluded."""
    generator = random.Random(num_queries)
    ids = [f"image-{number:06d}" for number in range(gallery_size)]
    queries, relevance = [], {}
    for number in range(num_queries):
        reference, target, *others = generator.sample(ids, max(2, candidates))
        members = (reference, target, *others) if candidates else ()
        queries.append(Query(f"{number}", "a text", reference_id=reference, candidate_ids=members))
        relevance[f"{number}"] = {target}
    metrics = {"recall": (1, 2, 5, 10, 50), **({"recall_subset": (1, 2, 3)} if candidates else {})}
    gallery = Gallery(ids, [None] * gallery_size)
    return Benchmark("random", "random", gallery, queries, relevance, exclude_reference=True, metrics=metrics)


def measure_ranking(sizes, repeats: int, results) -> None:
    """CPU seconds, on one thread, from embeddings of size 64 to scores of several parts, and MB."""
    torch.set_num_threads(1)
    parts = [random_benchmark(*size) for size in sizes]
    embeds = [[torch.nn.functional.normalize(torch.randn(count, 64), dim=1) for count in size[:2]] for size in sizes]

    def rank_and_score():
        for part, pair in zip(parts, embeds, strict=True):
            part.scores(rank(part.queries, part.gallery, *pair, part.k, exclude_reference=True))

    before, seconds = peak_of_memory("cpu"), []
    for _ in range(repeats + 1):
        begin = time.process_time()
        rank_and_score()
        seconds.append(time.process_time() - begin)
    results.put((statistics.median(seconds[1:]), peak_of_memory("cpu") - before))


def bench_ranking(quick: bool, repeats: int, report: Report) -> None:
    """The sizes of real benchmarks; what is measured is a number of seconds, not a ratio."""
    scale = 100 if quick else 1
    for name, sizes, goal in (
        ("CIRR test1, top 50 and subset", [(4148, 2315, 6)], "<= 0.3"),
        ("CIRCO test, top 50", [(800, 123_403)], "<= 3"),
        ("FashionIQ val, three categories", [(2017, 3817), (2038, 6346), (1961, 5373)], "<= 1"),
    ):
        sizes = [(queries // scale, images // scale, *more) for queries, images, *more in sizes]
        seconds, megabytes = in_a_process(measure_ranking, sizes, repeats)
        report.add(f"rank and score {name}: seconds", seconds, goal)
        if "subset" in name:
            report.add(f"rank and score {name}: MB", megabytes, "<= 100")


def bench_loading(report: Report) -> None:
    """Annotation files of all benchmarks under CIR_DATA_ROOT: seconds to load and validate."""
    root, begin = os.environ.get("CIR_DATA_ROOT"), time.process_time()
    if not root:
        print("annotation files: CIR_DATA_ROOT is not set")
        return
    for split in cirr.SPLITS:
        cirr.load(f"{root}/cirr", split, check_images=False)
    fashioniq.load(f"{root}/fashioniq", check_images=False)
    genecis.load(f"{root}/genecis", "change_object", check_images=False)
    imagenet_r.load(f"{root}/pic2word_imgnet/data", check_images=False)
    visdial.load(f"{root}/plugir", check_images=False)
    report.add("load all annotation files: seconds", time.process_time() - begin, "<= 5")


def main(argv=None) -> dict:
    """Run everything; returns what is written as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny shapes and one repeat")
    parser.add_argument("--device", default="cpu", help="`cpu` or `cuda`")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; CPU seconds are cleanest with one")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of which the median is taken")
    parser.add_argument("--output", default="bench.json", help="where to write the numbers")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device, repeats = args.device, 1 if args.quick else args.repeats
    model, report = build_model(args.quick).to(device), Report()
    bench_training(model.train(), (2,) if args.quick else (8, 16), repeats, device, report)
    model.zero_grad()
    bench_encoding(model.eval(), 4 if args.quick else 32, repeats, device, report)
    bench_instructcir(args.quick, repeats, device, report)
    bench_search(5_000 if args.quick else 123_403, repeats, device, args.threads, report)
    if device == "cpu":
        bench_ranking(args.quick, repeats, report)
        bench_loading(report)
    settings = {"quick": args.quick, "device": device, "threads": args.threads, "repeats": repeats}
    machine = platform.machine() if device == "cpu" else torch.cuda.get_device_name()
    commit = git_commit(Path(__file__).parents[1])
    result = {**settings, "torch": torch.__version__, "machine": machine, "commit": commit, "rows": report.rows}
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    Path(args.output).write_text(json.dumps(result, indent=2) + "\n")
    return result


if __name__ == "__main__":
    main()
