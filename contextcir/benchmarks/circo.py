"""CIRCO: composed queries over COCO's unlabelled photographs, with several targets each (Baldrati et al., ICCV 2023).

mAP@k counts all targets of a query, recall@k only the one for which its text was written (`target_img_id`, always the
first of `gt_img_ids`); what a query asks for (cardinality, negation, ...) are its tags, by which the authors report
mAP@10. The gallery is all of unlabeled2017. Papers differ in two choices, and the numbers with them:

- the reference stays in the ranking (SEARLE, CIReVL, MagicLens, ConText-CIR) or is removed (CoVR). It is no target.
- the text is the relative caption alone (SEARLE, LinCIR, CoVR, ImageScope), or also names the concept that both images
  share (MagicLens, BGE-VL, ConText-CIR), which changes mAP by up to a factor of two. Here it is worded as MagicLens
  words it: "find {shared_concept} but {relative_caption}".

The targets of test are not public: for it there is the file that the evaluation server takes
(https://circo.micc.unifi.it), in which ids are numbers.

On disk, as the authors publish it: `annotations/<split>.json`, and in `COCO2017_unlabeled` COCO's
`annotations/image_info_unlabeled2017.json` and `unlabeled2017/*.jpg`. Without the former the gallery is what is in the
latter. Either way it is in the order of the ids, so that ties are broken alike.
"""

from pathlib import Path

from contextcir.benchmarks.base import Benchmark, refuse_repeated
from contextcir.benchmarks.files import check_choice, check_counts, images_on_disk, read_json, read_rows
from contextcir.retrieval.base import Gallery, Query, Ranking

CITATION = """\
@inproceedings{baldrati2023zero,
  title={Zero-Shot Composed Image Retrieval with Textual Inversion},
  author={Baldrati, Alberto and Agnolucci, Lorenzo and Bertini, Marco and Del Bimbo, Alberto},
  booktitle={IEEE/CVF International Conference on Computer Vision (ICCV)},
  year={2023}
}"""
SOURCE = "annotations: github.com/miccunifi/CIRCO; images: cocodataset.org, 2017 Unlabeled, in COCO2017_unlabeled"
LICENCE = "annotations CC BY-NC 4.0; images as in COCO, each under its own terms of Flickr"
SPLITS = ("val", "test")
PROTOCOLS = ("reference-kept", "reference-removed")
TEMPLATES = {"caption": "{relative_caption}", "concept-caption": "find {shared_concept} but {relative_caption}"}
TEXTS = tuple(TEMPLATES)
OFFICIAL = {"val": {"queries": 220, "images": 123_403}, "test": {"queries": 800, "images": 123_403}}
KS = (5, 10, 25, 50)
SUBMITTED = 50  # ids for each query
KEYS = {"id", "reference_img_id", "relative_caption", "shared_concept"}
KEYS_OF_VAL = {"target_img_id", "gt_img_ids", "semantic_aspects"}


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], text: str = TEXTS[0], check_images: bool = True
) -> list[Benchmark]:
    """
    Read a split from the official layout.

    Args:
        path (`str`): Folder with `annotations` and `COCO2017_unlabeled`.
        split (`str`): `val`, or `test`, which has no public targets.
        protocol (`str`): `reference-kept` or `reference-removed`.
        text (`str`): `caption`, or `concept-caption` for "find {shared_concept} but {relative_caption}".
        check_images (`bool`): Whether every image must be there. Protocols can be tested without, given `image_info`.

    Returns:
        `list[Benchmark]`: One.

    Raises:
        `ValueError`: for an unknown split, protocol or text; files that are missing, malformed or laid out otherwise;
            counts that are not the official ones; missing images.
    """
    check_choice("circo", "splits", split, SPLITS)
    check_choice("circo", "protocols", protocol, PROTOCOLS)
    check_choice("circo", "texts", text, TEXTS)
    root, scored = Path(path), split == "val"
    rows = read_rows(root / "annotations" / f"{split}.json", KEYS | KEYS_OF_VAL if scored else KEYS)
    locations = _locations(root / "COCO2017_unlabeled")
    found = {"queries": len(rows), "images": len(locations)}
    check_counts(f"circo {split} in {path}", found, OFFICIAL[split])
    paths = [locations[id_] for id_ in sorted(locations)]
    benchmark = Benchmark(
        name="circo",
        protocol_id=f"circo/{split}/{text}/{protocol}",
        gallery=Gallery(
            [str(id_) for id_ in sorted(locations)], images_on_disk(paths, f"circo {split}") if check_images else paths
        ),
        queries=[
            Query(
                id=str(row["id"]),
                modification_text=TEMPLATES[text].format_map(row),
                reference_id=str(row["reference_img_id"]),
                tags=tuple(row["semantic_aspects"]) if scored else (),
            )
            for row in rows
        ],
        relevance={str(row["id"]): set(map(str, row["gt_img_ids"])) for row in rows if scored},
        exclude_reference=protocol == "reference-removed",
        metrics={"map": KS, "recall": KS},
        main_targets={str(row["id"]): str(row["target_img_id"]) for row in rows} if scored else None,
    )
    return [benchmark]


def _locations(root: Path) -> dict[int, Path]:
    """COCO id -> image."""
    images, info = root / "unlabeled2017", root / "annotations" / "image_info_unlabeled2017.json"
    if info.is_file():
        try:
            return {image["id"]: images / image["file_name"] for image in read_json(info)["images"]}
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{info} has no list of 'images' with 'id' and 'file_name'. Download it again."
            ) from error
    if images.is_dir():
        return {int(image.stem): image for image in images.glob("*.jpg") if image.stem.isdecimal()}
    raise ValueError(f"The gallery is unknown: there is neither {info} nor {images}. Get one of the two from COCO.")


def submission(parts: list[Benchmark], rankings: list[Ranking]) -> dict[str, dict]:
    """
    What the evaluation server takes.

    Args:
        parts (`list[Benchmark]`): From [`load`].
        rankings (`list[Ranking]`): One for each part.

    Returns:
        `dict[str, dict]`: Name of the one file -> its JSON.

    Raises:
        `ValueError`: as [`check_submission`].
    """
    (benchmark,), (ranking,) = parts, rankings
    places = benchmark.check(ranking)
    content = {
        query.id: [int(id_) for id_ in ranking.gallery_ids[places[query.id]][:SUBMITTED]]
        for query in benchmark.queries
    }
    check_submission(benchmark, content)
    return {f"circo_{benchmark.protocol_id.split('/')[1]}.json": content}


def check_submission(benchmark: Benchmark, content: dict) -> None:
    """
    Refuse what the server would refuse, or what would silently be scored as something else.

    Args:
        benchmark (`Benchmark`): From [`load`].
        content (`dict`): JSON of the file.

    Raises:
        `ValueError`: The keys are not "0" to "N-1". Or a list is not of 50 integers, repeats one, holds one that is
            not in the gallery, or the reference where the protocol removes it.
    """
    expected = [str(number) for number in range(len(benchmark.queries))]
    for kind, keys in (
        ("misses", [key for key in expected if key not in content]),
        ("invents", list(content.keys() - set(expected))),
    ):
        if keys:
            raise ValueError(
                f"The circo submission {kind} {len(keys):,} keys, such as {keys[0]!r}. Expected '0' to"
                f" {expected[-1]!r}."
            )
    for query in benchmark.queries:
        ids, where = content[query.id], f"The circo submission, query {query.id},"
        if other := [id_ for id_ in ids if type(id_) is not int]:
            raise ValueError(f"{where} holds {other[0]!r}, expected integers: the number of the image in COCO.")
        refuse_repeated(ids, f"{where} the ids")
        if len(ids) != SUBMITTED:
            raise ValueError(f"{where} holds {len(ids)} ids, expected {SUBMITTED}.")
        if foreign := [id_ for id_ in ids if str(id_) not in benchmark.gallery.positions]:
            raise ValueError(f"{where} holds {foreign[0]}, which is not in the gallery.")
        if benchmark.exclude_reference and int(query.reference_id) in ids:
            raise ValueError(f"{where} holds its reference {query.reference_id}, which the protocol removes.")
