"""Damaged annotation files of every benchmark: an error that names the file, the row and the key, or no harm."""

import codecs
import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.benchmarks import circo, cirr, fashioniq, folder, genecis, imagenet_r, lasco, scenes, visdial
from contextcir.benchmarks.published import load_published
from tests.benchmarks.layouts import change, refuses, write
from tests.benchmarks.test_circo import mini as circo_folder  # noqa: F401 - fixtures
from tests.benchmarks.test_cirr import mini as cirr_folder  # noqa: F401
from tests.benchmarks.test_fashioniq import mini as fashioniq_folder  # noqa: F401
from tests.benchmarks.test_folder import mini as own_folder  # noqa: F401
from tests.benchmarks.test_genecis import mini as genecis_folder  # noqa: F401
from tests.benchmarks.test_imagenet_r import mini as imagenet_r_folder  # noqa: F401
from tests.benchmarks.test_karpathy import mini as karpathy_folder  # noqa: F401
from tests.benchmarks.test_lasco import mini as lasco_folder  # noqa: F401
from tests.benchmarks.test_published import tiny_rows, write_all
from tests.benchmarks.test_visdial import mini as visdial_folder  # noqa: F401

FILES = [  # fixture of the folder, module, annotation file
    ("cirr_folder", cirr, "captions/cap.rc2.val.json"),
    ("cirr_folder", cirr, "image_splits/split.rc2.val.json"),
    ("circo_folder", circo, "annotations/val.json"),
    ("circo_folder", circo, "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"),
    ("fashioniq_folder", fashioniq, "captions/cap.shirt.val.json"),
    ("fashioniq_folder", fashioniq, "image_splits/split.toptee.val.json"),
    ("genecis_folder", genecis, "change_object.json"),
    ("genecis_folder", genecis, "focus_attribute.json"),
    ("lasco_folder", lasco, "lasco_val.json"),
    ("lasco_folder", lasco, "lasco_val_corpus.json"),
    ("visdial_folder", visdial, "dialogues/VisDial_v1.0_queries_val.json"),
    ("visdial_folder", visdial, "Protocol/Search_Space_val_50k.json"),
]
EACH_FILE = pytest.mark.parametrize(("fixture", "module", "name"), FILES, ids=[name for *_, name in FILES])
STEADY = settings(derandomize=True, database=None, deadline=None, max_examples=80)
OTHER = st.sampled_from([3, -1, 2.5, True, "", "x", "\0", [], {}, [None], {"a": None}, [[[]]], 10**400])


def places(content, here=()):
    """The paths of all values inside of JSON content."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield (*here, key)
        yield from places(value, (*here, key))


def replaced(content, path, value):
    """A copy of JSON content with another value at a path; without the key if the value is `...`."""
    copy = json.loads(json.dumps(content))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return copy


def facts(parts):
    return [(part.gallery.ids, part.queries, part.relevance, part.main_targets) for part in parts]


def refusal(load, root):
    """The message of the error, which is a plain `ValueError` of one line; `None` if there is no error."""
    try:
        parts = load(str(root))
    except ValueError as error:
        assert type(error) is ValueError and "\n" not in str(error)
        return str(error)
    for query in (query for part in parts for query in part.queries):
        assert isinstance(query.id, str) and query.modification_text not in ("None", "null")
    return None


def damage(load, root, name):
    """Put null, another type, or nothing at random places of a file, or cut it off."""
    file = root / name
    before, whole = facts(load(str(root))), file.read_text()
    content = json.loads(whole)
    every_place = list(places(content))

    @STEADY
    @given(st.sampled_from(every_place), st.sampled_from([None, ...]))
    def null_or_missing(path, value):
        if value is ... and isinstance(path[-1], int):
            return  # a list that is shorter, which the counts find
        file.write_text(json.dumps(replaced(content, path, value)))
        message = refusal(load, root)
        if message is None:
            assert facts(load(str(root))) == before  # a key that is not used
            return
        assert file.name in message or value is ... and "official release" in message, message
        if value is None:
            row = next((key for key in path if isinstance(key, int)), None)
            assert row is None or f"row {row}" in message, message
            keys = path if row is None else path[path.index(row) + 1 :]
            assert not keys or f"key '{'.'.join(map(str, keys))}'" in message, message

    @STEADY
    @given(st.sampled_from(every_place), OTHER)
    def another_type(path, value):
        file.write_text(json.dumps(replaced(content, path, value)))
        refusal(load, root)

    @STEADY
    @given(st.integers(0, len(whole) - 1))
    def cut_off(length):
        file.write_text(whole[:length])
        assert file.name in (refusal(load, root) or "")

    null_or_missing()
    another_type()
    cut_off()


@pytest.mark.fault("D01", "null, other types, missing keys and cut-off annotations: one line with file, row and key")
@EACH_FILE
def test_damaged_annotations(request, fixture, module, name):
    damage(module.load, request.getfixturevalue(fixture), name)


@pytest.mark.fault("D01", "null, other types, missing keys and cut-off annotations: one line with file, row and key")
def test_damaged_annotations_of_karpathy(karpathy_folder):  # noqa: F811
    benchmark, root = karpathy_folder
    damage(benchmark.load, root, f"dataset_{benchmark.name}.json")


@pytest.mark.fault("D01", "null, other types, missing keys and cut-off annotations: one line with file, row and key")
def test_null_is_no_caption(circo_folder):  # noqa: F811
    change(
        circo_folder / "annotations/val.json", lambda rows: [rows[0], rows[1] | {"relative_caption": None}, rows[2]]
    )
    refuses("val.json, row 1, key 'relative_caption': got null, .*string", circo.load, str(circo_folder))


@pytest.mark.fault("D03", "annotations with a byte order mark, in UTF-8 or UTF-16, are read as without")
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@EACH_FILE
def test_byte_order_marks(request, fixture, module, name, encoding):
    root = request.getfixturevalue(fixture)
    before, file = facts(module.load(str(root))), root / name
    file.write_text(file.read_text(), encoding=encoding)
    assert file.read_bytes()[:2] in (codecs.BOM_UTF8[:2], codecs.BOM_UTF16)
    assert facts(module.load(str(root))) == before


@pytest.mark.fault("D03", "annotations with a byte order mark, in UTF-8 or UTF-16, are read as without")
def test_byte_order_marks_of_text_files(imagenet_r_folder, own_folder):  # noqa: F811
    for load, file in (
        (imagenet_r.load, imagenet_r_folder / "imgnet/imgnet_targets.txt"),
        (folder.load, own_folder / "queries.jsonl"),
    ):
        root = str(file.parents[1] if load is imagenet_r.load else file.parent)
        before = facts(load(root))
        file.write_text(file.read_text(), encoding="utf-8-sig")
        assert facts(load(root)) == before


@pytest.mark.fault("D04", "an empty file, a folder or bytes in the place of annotations are named")
@EACH_FILE
def test_no_file(request, fixture, module, name):
    root = request.getfixturevalue(fixture)
    file = root / name
    for content in (b"", b"\xef\xbb\xbf", b"\x80abc", b"[]", b"{}", b"null", b"[null]", b"[" * 100_000):
        file.write_bytes(content)
        with contextlib.suppress(AssertionError):  # `{}` and `[]` may be a count that is wrong
            assert file.name in refusal(module.load, root)
            continue
        assert content in (b"{}", b"[]"), content
    file.unlink()
    file.mkdir()
    assert str(file) in refusal(module.load, root)


def test_the_text_files_may_be_folders(imagenet_r_folder, own_folder):  # noqa: F811
    for load, root, name in (
        (imagenet_r.load, imagenet_r_folder, "imgnet/imgnet_targets.txt"),
        (folder.load, own_folder, "queries.jsonl"),
    ):
        (root / name).unlink()
        (root / name).mkdir()
        assert name in refusal(load, root)


@pytest.mark.fault("D05", "a null in a column of ids or texts of the published form is named with its row")
@pytest.mark.parametrize(
    ("config", "column"),
    [("gallery", "id"), ("queries", "id"), ("queries", "modification_text"), ("relevance", "target_id")],
)
def test_null_in_the_published_form(tmp_path, config, column):
    rows = tiny_rows()
    rows[config][1] |= {column: None}
    refuses(f"{config}, test, row 1, key '{column}': got null", load_published, write_all(tmp_path, rows), "test")


@pytest.mark.fault("D05", "a null in a column of ids or texts of the published form is named with its row")
def test_a_record_of_scenes_without_arguments(tmp_path):
    write(tmp_path / "scenes.json", {"version": scenes.VERSION, "arguments": {"seed": None}})
    refuses("scenes.json, key 'arguments.seed': got null", scenes.load, str(tmp_path))
