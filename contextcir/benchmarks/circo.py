"""CIRCO: composed queries over COCO's unlabelled photographs, with several targets each (Baldrati et al., ICCV 2023).

mAP@k counts all targets of a query. recall@k counts only the one that its text was written for (`target_img_id`,
always the first of `gt_img_ids`). The semantic aspects of a query (cardinality, negation, ...) are its tags; the
authors report mAP@10 for each. The gallery is all of unlabeled2017. Two choices differ between papers, and change the
numbers:

- the reference stays in the ranking (SEARLE, CIReVL, MagicLens, ConText-CIR) or is removed (CoVR). It is no target.
- the text is the relative caption alone (SEARLE, LinCIR, CoVR, ImageScope), or also has the concept that both images
  share (MagicLens, BGE-VL, ConText-CIR). This changes mAP by up to a factor of two. The wording here is that of
  MagicLens, "find {shared_concept} but {relative_caption}".

The targets of test are not public: [`submission`] makes the file for the evaluation server
(https://circo.micc.unifi.it), in which ids are numbers.

On disk, as published: `annotations/<split>.json`, and in `COCO2017_unlabeled` COCO's
`annotations/image_info_unlabeled2017.json` and `unlabeled2017/*.jpg`. Without the list, the gallery is all images of
the folder. In both cases it is sorted by id, so that ties are broken in the same way.
"""

from pathlib import Path

from contextcir.benchmarks import files
from contextcir.benchmarks.base import Benchmark
from contextcir.retrieval.base import Query, Ranking

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
SUBMITTED = 50  # ids of each query
KEYS = {"id", "reference_img_id", "relative_caption", "shared_concept"}
KEYS_OF_VAL = {"target_img_id", "gt_img_ids", "semantic_aspects"}


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], text: str = TEXTS[0], check_images: bool = True
) -> list[Benchmark]:
    """Read a split. Arguments, returns and errors as for [`~contextcir.benchmarks.registry.BenchmarkModule.load`].
    With `check_images=False` the images may be missing, if their list exists."""
    files.check_choices("circo", split=(split, SPLITS), protocol=(protocol, PROTOCOLS), text=(text, TEXTS))
    root, scored = Path(path), split == "val"
    rows = files.read_rows(root / "annotations" / f"{split}.json", KEYS | KEYS_OF_VAL if scored else KEYS)
    paths = dict(sorted(_image_paths(root / "COCO2017_unlabeled").items()))
    files.check_counts(f"circo {split} in {path}", {"queries": len(rows), "images": len(paths)}, OFFICIAL[split])
    if {row["id"] for row in rows} != set(range(len(rows))):
        raise ValueError(f"circo {split} in {path}: the ids are not 0 to {len(rows) - 1}. Download the annotations.")
    return [
        Benchmark(
            name="circo",
            protocol_id=f"circo/{split}/{text}/{protocol}",
            gallery=files.image_gallery(list(map(str, paths)), list(paths.values()), f"circo {split}", check_images),
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
    ]


def _image_paths(root: Path) -> dict[int, Path]:
    """Return COCO id -> path of the image."""
    images, info = root / "unlabeled2017", root / "annotations" / "image_info_unlabeled2017.json"
    if info.is_file():
        try:
            return {image["id"]: images / image["file_name"] for image in files.read_json(info)["images"]}
        except (KeyError, TypeError) as error:
            raise ValueError(f"{info} has no list 'images' with 'id' and 'file_name'. Download it again.") from error
    if images.is_dir():
        return {int(image.stem): image for image in images.glob("*.jpg") if image.stem.isdecimal()}
    raise ValueError(f"The gallery is unknown: there is neither {info} nor {images}. Get one of the two from COCO.")


def submission(parts: list[Benchmark], rankings: list[Ranking]) -> dict[str, dict]:
    """Build the file for the server, see [`~contextcir.benchmarks.registry.BenchmarkModule`]."""
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
    Check the JSON content of a file for what the server refuses, or would score as something else.

    Raises:
        `ValueError`: An id is not an integer, or as for [`~contextcir.benchmarks.files.check_submitted`].
    """
    for key, ids in content.items():
        if other := [id_ for id_ in ids if type(id_) is not int]:
            raise ValueError(f"circo submission: query {key!r} has the id {other[0]!r}, expected an integer.")
    files.check_submitted("circo submission", content, benchmark, SUBMITTED)
