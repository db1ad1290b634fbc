"""ImageNet-R domain conversion: find the same class of object in another domain (Pic2Word: Saito et al., CVPR 2023).

Four parts, one for each target domain: cartoon, origami, toy, sculpture. All have the same queries: 10,000
photographs, 50 of each of 200 classes. A target is any image of the photograph's class in the domain. All parts search
all 16,983 images: the four domains and the photographs, including the reference, which stays in the ranking. A label
in the lists is class + 1000 x domain. Domains have the numbers 0 to 3 in this order, photographs have 6.

Not every domain has every class: 2,350 queries (cartoon), 4,700 (origami), 2,800 (toy) and 2,900 (sculpture) have no
target. Pic2Word and MagicLens include them in the mean. So each scores 0, and no retriever reaches 100.

Two metrics are in use. `pic2word`: recall@k is the share of the targets among the first k. `any-hit` (MagicLens):
whether there is any target among them. Pic2Word adds 1e-5 to the number of targets. That is left out here and changes
no printed digit. There are two wordings. `domain-of` is Pic2Word's prompt, "a cartoon of *", without the word that
stands for the image there: the text of its own baselines. `find-in-domain` is "find this object in cartoon", as in
evaluations of MagicLens.

On disk, as published: `imgnet/imgnet_real_query.txt` and `imgnet/imgnet_targets.txt`, and the images at the paths in
them: `imgnet/imagenet-r/<class>/`, and for ImageNet's validation set `imgnet/real/<class>/`.
"""

from collections import Counter
from pathlib import Path

from contextcir.benchmarks import files
from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.image_files import find_images
from contextcir.retrieval.base import Gallery, Query

SOURCE = (
    "lists: github.com/google-research/composed_image_retrieval (data); images: github.com/hendrycks/imagenet-r, and"
    " image-net.org, ILSVRC2012 validation images, by class"
)
SPLITS = ("test",)
METRICS = {"pic2word": "recall_share", "any-hit": "recall"}
PROTOCOLS = tuple(METRICS)
TEMPLATES = {"domain-of": "a {} of", "find-in-domain": "find this object in {}"}  # "a origami of", as in Pic2Word
TEXTS = tuple(TEMPLATES)
PARTS = ("cartoon", "origami", "toy", "sculpture")
DOMAINS = {**{number: part for number, part in enumerate(PARTS)}, 6: "real"}  # number in the labels -> domain
CLASSES = 1000  # of ImageNet
OFFICIAL = {"queries": 10_000, "real": 10_000, "cartoon": 3726, "origami": 550, "toy": 1511, "sculpture": 1196}


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], text: str = TEXTS[0], check_images: bool = True
) -> list[Benchmark]:
    """Read a split. Arguments, returns and errors as for [`~contextcir.benchmarks.registry.BenchmarkModule.load`].
    The parts are the domains and share one gallery. Ids of queries and images are the paths in the lists."""
    files.check_choices("imagenet_r", split=(split, SPLITS), protocol=(protocol, PROTOCOLS), text=(text, TEXTS))
    root = Path(path)
    classes = _read_list(root / "imgnet" / "imgnet_real_query.txt")
    labels = _read_list(root / "imgnet" / "imgnet_targets.txt")
    domains = Counter(DOMAINS.get(label // CLASSES, "others") for label in labels.values())
    found = {"queries": len(classes), **{name: domains.pop(name, 0) for name in ("real", *PARTS)}, **domains}
    files.check_counts(f"imagenet_r in {path}", found, OFFICIAL)
    # Names such as cartoon_0.jpg occur in many classes: the folder of the class must be the same.
    images = find_images(root, {id_: (id_,) for id_ in labels}, "imagenet_r", same_folders=1)
    if check_images:
        images.check()
    gallery = Gallery(list(labels), [images.paths[id_] for id_ in labels])
    targets: dict[int, set[str]] = {}
    for id_, label in labels.items():
        targets.setdefault(label, set()).add(id_)
    return [
        Benchmark(
            name="imagenet_r",
            part=part,
            protocol_id=f"imagenet_r/{split}/{text}/{protocol}",
            gallery=gallery,
            queries=[
                Query(id=id_, modification_text=TEMPLATES[text].format(part), reference_id=id_) for id_ in classes
            ],
            relevance={id_: targets.get(class_ + CLASSES * number, set()) for id_, class_ in classes.items()},
            exclude_reference=False,
            metrics={METRICS[protocol]: (10, 50)},
            unanswerable=True,
            missing=images.missing,
            remarks=images.remarks,
        )
        for number, part in enumerate(PARTS)
    ]


def _read_list(path: Path) -> dict[str, int]:
    """Read image -> label, from lines such as `imgnet/real/n04086273/ILSVRC2012_val_00015728.JPEG 2`."""
    labels: dict[str, int] = {}
    for number, line in enumerate(files.read_text(path).splitlines(), start=1):
        image, _, label = line.strip().rpartition(" ")
        if not image or not label.isdecimal() or image in labels:
            raise ValueError(f"{path}, line {number}: got {line[:80]!r}, expected a new image and its label.")
        labels[image] = int(label)
    return labels
