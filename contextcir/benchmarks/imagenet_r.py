"""ImageNet-R domain conversion: a photograph of a thing, and the domain to find the same thing in (Pic2Word: Saito et
al., CVPR 2023).

Four parts, one for each target domain: cartoon, origami, toy, sculpture. The queries of each are the same 10,000
photographs, 50 of each of 200 classes; a target is any image of the photograph's class in the domain. All parts search
all 16,983 images: the four domains and the photographs themselves, the reference among them, which stays in the
ranking. A label of the lists is class + 1000 x domain, the domains being 0 to 3 in this order and 6 for photographs.

Not every domain has every class: 2,350 queries (cartoon), 4,700 (origami), 2,800 (toy) and 2,900 (sculpture) have no
target. Pic2Word and MagicLens leave them among those that they divide by, so each scores 0, and no retriever reaches
100.

Two metrics are in use: Pic2Word's recall@k is the share of the targets among the first k (`pic2word`); MagicLens
counts whether there is any (`any-hit`). Pic2Word adds 1e-5 to the number of targets, which no printed digit shows; it
is left out. Two wordings as well: `domain-of` is Pic2Word's prompt, "a cartoon of *", without the word that stands for
the image there: the text of its own baselines. `find-in-domain` is "find this object in cartoon", as evaluations of
MagicLens have it.

On disk, as the authors publish it: `imgnet/imgnet_real_query.txt` and `imgnet/imgnet_targets.txt`, and the images
where they say: `imgnet/imagenet-r/<class>/` and, of ImageNet's validation set, `imgnet/real/<class>/`.
"""

from collections import Counter
from pathlib import Path

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.files import check_choice, check_counts, images_on_disk
from contextcir.retrieval.base import Gallery, Query

CITATION = """\
@inproceedings{saito2023pic2word,
  title={{Pic2Word}: Mapping Pictures to Words for Zero-Shot Composed Image Retrieval},
  author={Saito, Kuniaki and Sohn, Kihyuk and Zhang, Xiang and Li, Chun-Liang and Lee, Chen-Yu and Saenko, Kate and
    Pfister, Tomas},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year={2023}
}

@inproceedings{hendrycks2021many,
  title={The Many Faces of Robustness: A Critical Analysis of Out-of-Distribution Generalization},
  author={Hendrycks, Dan and Basart, Steven and Mu, Norman and Kadavath, Saurav and Wang, Frank and Dorundo, Evan and
    Desai, Rahul and Zhu, Tyler and Parajuli, Samyak and Guo, Mike and Song, Dawn and Steinhardt, Jacob and
    Gilmer, Justin},
  booktitle={IEEE/CVF International Conference on Computer Vision (ICCV)},
  year={2021}
}"""
SOURCE = (
    "lists: github.com/google-research/composed_image_retrieval (data); images: github.com/hendrycks/imagenet-r, and"
    " image-net.org, ILSVRC2012 validation images, by class"
)
SPLITS = ("test",)
METRICS = {"pic2word": "recall_share", "any-hit": "recall"}
PROTOCOLS = tuple(METRICS)
TEMPLATES = {"domain-of": "a {} of", "find-in-domain": "find this object in {}"}  # "a origami of", as Pic2Word has it
TEXTS = tuple(TEMPLATES)
PARTS = ("cartoon", "origami", "toy", "sculpture")
DOMAINS = {**{number: part for number, part in enumerate(PARTS)}, 6: "real"}  # number in the labels -> domain
CLASSES = 1000  # of ImageNet
OFFICIAL = {"queries": 10_000, "real": 10_000, "cartoon": 3726, "origami": 550, "toy": 1511, "sculpture": 1196}


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], text: str = TEXTS[0], check_images: bool = True
) -> list[Benchmark]:
    """
    Read the four parts from the official layout.

    Args:
        path (`str`): Folder with `imgnet`.
        split (`str`): There is one.
        protocol (`str`): `pic2word` or `any-hit`.
        text (`str`): `domain-of` or `find-in-domain`.
        check_images (`bool`): Whether every image must be there. Protocols can be tested without.

    Returns:
        `list[Benchmark]`: cartoon, origami, toy and sculpture, with one gallery. Queries and images are called by
        their path in the lists.

    Raises:
        `ValueError`: for an unknown split, protocol or text; lists that are missing or malformed; counts that are not
            the official ones; missing images.
    """
    check_choice("imagenet_r", "splits", split, SPLITS)
    check_choice("imagenet_r", "protocols", protocol, PROTOCOLS)
    check_choice("imagenet_r", "texts", text, TEXTS)
    root = Path(path)
    asked = _read_list(root / "imgnet" / "imgnet_real_query.txt")
    labels = _read_list(root / "imgnet" / "imgnet_targets.txt")
    domains = Counter(DOMAINS.get(label // CLASSES, "others") for label in labels.values())
    found = {"queries": len(asked), **{name: domains.pop(name, 0) for name in ("real", *PARTS)}, **domains}
    check_counts(f"imagenet_r in {path}", found, OFFICIAL)
    paths = [root / id_ for id_ in labels]
    gallery = Gallery(list(labels), images_on_disk(paths, "imagenet_r") if check_images else paths)
    targets: dict[int, set[str]] = {}
    for id_, label in labels.items():
        targets.setdefault(label, set()).add(id_)
    return [
        Benchmark(
            name="imagenet_r",
            part=part,
            protocol_id=f"imagenet_r/{split}/{text}/{protocol}",
            gallery=gallery,
            queries=[Query(id=id_, modification_text=TEMPLATES[text].format(part), reference_id=id_) for id_ in asked],
            relevance={id_: targets.get(class_ + CLASSES * number, set()) for id_, class_ in asked.items()},
            exclude_reference=False,
            metrics={METRICS[protocol]: (10, 50)},
            unanswerable=True,
        )
        for number, part in enumerate(PARTS)
    ]


def _read_list(path: Path) -> dict[str, int]:
    """Image -> label, from lines such as `imgnet/real/n04086273/ILSVRC2012_val_00015728.JPEG 2`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ValueError(f"{path} is missing. Download the lists, or check the path.") from None
    labels: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        image, _, label = line.strip().rpartition(" ")
        if not image or not label.isdecimal() or image in labels:
            raise ValueError(
                f"{path}, line {number}: got {line!r}, expected an image that is new here, and its label."
            )
        labels[image] = int(label)
    return labels
