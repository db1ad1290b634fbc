"""Images where other projects' instructions put them, twice, in archives, or as files without content."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from contextcir.benchmarks import circo, cirr, fashioniq, genecis, image_index, imagenet_r, visdial
from contextcir.benchmarks.karpathy import FLICKR30K
from contextcir.benchmarks.registry import load_benchmark
from tests.benchmarks.layouts import change, refuses
from tests.benchmarks.test_circo import INFO
from tests.benchmarks.test_circo import mini as circo_folder  # noqa: F401 - fixtures
from tests.benchmarks.test_cirr import NAMES
from tests.benchmarks.test_cirr import mini as cirr_folder  # noqa: F401
from tests.benchmarks.test_fashioniq import mini as fashioniq_folder  # noqa: F401
from tests.benchmarks.test_genecis import mini as genecis_folder  # noqa: F401
from tests.benchmarks.test_imagenet_r import CARTOONS
from tests.benchmarks.test_imagenet_r import mini as imagenet_r_folder  # noqa: F401
from tests.benchmarks.test_karpathy import mini as karpathy_folder  # noqa: F401
from tests.benchmarks.test_visdial import mini as visdial_folder  # noqa: F401
from tests.tiny_triplets import png

ELSEWHERE = pytest.mark.fault("D06", "images are found in the layouts of other projects, and the place is said")


def pixels(parts):
    return [[part.gallery.image(id_).tobytes() for id_ in part.gallery.ids] for part in parts]


def remarks(parts):
    return " ".join(remark for part in parts for remark in part.remarks)


def move(root, old, new):
    (root / new).parent.mkdir(parents=True, exist_ok=True)
    (root / old).rename(root / new)


@ELSEWHERE
@pytest.mark.parametrize("above", [False, True], ids=["inside", "above"])
def test_cirr_as_clip4cir_wants_it(cirr_folder, tmp_path, above):  # noqa: F811
    """The annotations are in `cirr`, the images beside it. That folder is given, or one that has it as its `cirr`."""
    before = pixels(cirr.load(str(cirr_folder)))
    root = tmp_path / "data" / "cirr_dataset"
    for name in ("captions", "image_splits"):
        move(cirr_folder, name, root / "cirr" / name)
    for name in ("dev", "test1"):
        move(cirr_folder, name, root / name)
    if above:
        root = root.rename(root.with_name("cirr")).parent
    parts = load_benchmark("cirr", str(root))
    assert pixels(parts) == before and not remarks(parts)


@ELSEWHERE
@pytest.mark.parametrize(("folder", "said"), [("images/dev", "images/dev (60)"), ("dev/34", "dev/34 (60)")])
def test_nlvr2_in_other_folders(cirr_folder, folder, said, caplog):  # noqa: F811
    before = pixels(cirr.load(str(cirr_folder)))
    shutil.rmtree(cirr_folder / "test1")
    move(cirr_folder, "dev", "moved")
    move(cirr_folder, "moved", folder)
    parts = load_benchmark("cirr", str(cirr_folder))
    assert pixels(parts) == before
    assert "60 images" in remarks(parts) and " dev (60)" in remarks(parts) and said in remarks(parts)
    assert said in caplog.text  # who measures sees it


@ELSEWHERE
def test_nlvr2_flat_where_the_list_has_numbers(cirr_folder):  # noqa: F811
    before = pixels(cirr.load(str(cirr_folder)))
    shutil.rmtree(cirr_folder / "test1")
    numbered = {name: f"./dev/{number % 7}/{name}.png" for number, name in enumerate(NAMES)}
    change(cirr_folder / "image_splits/split.rc2.val.json", lambda _: numbered)
    parts = cirr.load(str(cirr_folder))
    assert pixels(parts) == before and "and 4 more folders" in remarks(parts) and "dev (60)" in remarks(parts)


@ELSEWHERE
def test_fashioniq_by_category_and_with_other_suffixes(fashioniq_folder):  # noqa: F811
    before = pixels(fashioniq.load(str(fashioniq_folder)))
    for number, image in enumerate(sorted((fashioniq_folder / "images").iterdir())):
        part = {"D": "dress", "S": "shirt", "T": "toptee"}[image.name[0]]
        suffix = (".jpg", ".JPG", ".jpeg", ".PNG")[number % 4]
        move(fashioniq_folder, f"images/{image.name}", f"images/{part}/{image.stem}{suffix}")
    parts = fashioniq.load(str(fashioniq_folder))
    assert pixels(parts) == before
    assert "images/dress (15)" in remarks(parts) and "images/toptee (15)" in remarks(parts)


@ELSEWHERE
def test_a_picture_of_two_categories_is_that_of_the_part(fashioniq_folder):  # noqa: F811
    (fashioniq_folder / "images/D03.png").unlink()
    for part, seed in (("dress", 1), ("shirt", 2)):
        (fashioniq_folder / "images" / part).mkdir()
        (fashioniq_folder / "images" / part / "D03.jpg").write_bytes(png(seed))
    dress, *_ = fashioniq.load(str(fashioniq_folder))
    assert dress.gallery.images[dress.gallery.positions["D03"]].read_bytes() == png(1)


@ELSEWHERE
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("folder", ["unlabeled2017", "coco/images/unlabeled2017"])
def test_cocos_unlabelled_images_for_circo(circo_folder, listed, folder):  # noqa: F811
    before = pixels(circo.load(str(circo_folder)))
    move(circo_folder, "COCO2017_unlabeled/unlabeled2017", folder)
    if not listed:
        (circo_folder / INFO).unlink()
    parts = circo.load(str(circo_folder))
    assert pixels(parts) == before and f"{folder} (60)" in remarks(parts)


@ELSEWHERE
def test_cocos_unlabelled_images_for_visdial(visdial_folder):  # noqa: F811
    before = pixels(visdial.load(str(visdial_folder)))
    move(visdial_folder, "unlabeled2017", "COCO2017_unlabeled/unlabeled2017")
    parts = visdial.load(str(visdial_folder))
    assert pixels(parts) == before and "COCO2017_unlabeled/unlabeled2017 (20)" in remarks(parts)


@ELSEWHERE
def test_visual_genome_in_one_folder(genecis_folder):  # noqa: F811
    before = pixels(genecis.load(str(genecis_folder)))
    move(genecis_folder, "VG_100K", "VG_100K_all")
    move(genecis_folder, "VG_100K_2/12.jpg", "VG_100K_all/12.jpg")
    parts = genecis.load(str(genecis_folder))
    assert pixels(parts) == before and "VG_100K_all" in remarks(parts)


@ELSEWHERE
def test_captioned_images_elsewhere(karpathy_folder):  # noqa: F811
    benchmark, root = karpathy_folder
    before = pixels(benchmark.load(str(root)))
    other = "flickr30k_images" if benchmark is FLICKR30K else "images/val2014"
    move(root, "flickr30k-images" if benchmark is FLICKR30K else "val2014", other)
    parts = benchmark.load(str(root))
    assert pixels(parts) == before and f"{other} (3)" in remarks(parts)


@ELSEWHERE
def test_a_name_that_many_classes_have_needs_its_class(imagenet_r_folder):  # noqa: F811
    before = pixels(imagenet_r.load(str(imagenet_r_folder)))
    move(imagenet_r_folder, CARTOONS[0], "imagenet-r/n01/cartoon_0.jpg")
    assert pixels(imagenet_r.load(str(imagenet_r_folder))) == before
    move(imagenet_r_folder, "imagenet-r/n01/cartoon_0.jpg", "imagenet-r/n09/cartoon_0.jpg")
    refuses("1 of 14 .*n01/cartoon_0.jpg", imagenet_r.load, str(imagenet_r_folder))


@ELSEWHERE
def test_images_elsewhere_are_known_without_a_check_too(cirr_folder):  # noqa: F811
    """A search for test images among training images must not miss them because of their folder."""
    move(cirr_folder, "dev", "images/dev")
    (part,) = cirr.load(str(cirr_folder), check_images=False)
    assert all(image.is_file() for image in part.gallery.images) and not part.missing


@pytest.mark.fault("D07", "the official place wins; two other places with different content are both named")
def test_two_places(cirr_folder):  # noqa: F811
    shutil.rmtree(cirr_folder / "test1")
    shutil.copytree(cirr_folder / "dev", cirr_folder / "a")
    (cirr_folder / "a" / f"{NAMES[7]}.png").write_bytes(png(99))
    assert not remarks(cirr.load(str(cirr_folder)))  # the official place
    move(cirr_folder, "dev", "b")
    message = f"1 images .*{NAMES[7]}.*/a/{NAMES[7]}.png .*/b/{NAMES[7]}.png.*/dev/{NAMES[7]}.png"
    refuses(message, cirr.load, str(cirr_folder))
    refuses(message, cirr.load, str(cirr_folder), check_images=False)
    shutil.copy(cirr_folder / "b" / f"{NAMES[7]}.png", cirr_folder / "a")
    (part,) = cirr.load(str(cirr_folder))  # the same content everywhere
    assert "a (60)" in remarks([part])


@pytest.mark.fault("D08", "an archive that is not unpacked is named with the command that unpacks it")
def test_archives(cirr_folder, monkeypatch):  # noqa: F811
    before = pixels(cirr.load(str(cirr_folder)))
    shutil.rmtree(cirr_folder / "test1")
    folder = cirr_folder / "down loads"
    folder.mkdir()
    with zipfile.ZipFile(folder / "dev_img.zip", "w") as archive:
        for name in NAMES[:20]:
            archive.write(cirr_folder / f"dev/{name}.png", f"dev/{name}.png")
            (cirr_folder / f"dev/{name}.png").unlink()
        archive.writestr("notes.txt", "x")
    (folder / "torn.zip").write_bytes(b"PK\x03\x04")
    (folder / "more.tar.gz").write_bytes(b"x")
    with pytest.raises(ValueError, match="20 of 60 .*20 of .*dev_img.zip.*torn.zip is damaged") as caught:
        cirr.load(str(cirr_folder))
    assert "tar -xf" in str(caught.value) and "more.tar.gz" in str(caught.value)
    command = str(caught.value).split("unpack it: python ")[1].split(". ")[0].removesuffix(".")
    monkeypatch.setenv("PYTHON", sys.executable)
    subprocess.run(f'"$PYTHON" {command}', shell=True, check=True)
    assert pixels(cirr.load(str(cirr_folder))) == before


@pytest.mark.fault("D08", "an archive that is not unpacked is named with the command that unpacks it")
def test_the_gallery_of_circo_in_an_archive(circo_folder):  # noqa: F811
    images = circo_folder / "COCO2017_unlabeled"
    shutil.make_archive(str(images / "unlabeled2017"), "zip", images, "unlabeled2017")
    shutil.rmtree(images / "unlabeled2017")
    (circo_folder / INFO).unlink()
    refuses("gallery is unknown.* 60 .*unlabeled2017.zip.*python -m zipfile -e ", circo.load, str(circo_folder))


@pytest.mark.fault("D09", "an empty file, a folder or a dead link in the place of an image is a missing image")
def test_files_without_content(cirr_folder):  # noqa: F811
    shutil.rmtree(cirr_folder / "test1")
    paths = [cirr_folder / "dev" / f"{name}.png" for name in NAMES[:4]]
    for path in paths:
        path.unlink()
    paths[0].touch()
    paths[1].mkdir()
    paths[2].symlink_to(cirr_folder / "nowhere")
    os.mkfifo(paths[3])
    refuses(f"4 of 60 .*{NAMES[0]}.*{NAMES[1]}.*{NAMES[2]}.*doctor.*--missing skip", cirr.load, str(cirr_folder))
    (part,) = cirr.load(str(cirr_folder), check_images=False)
    assert [place.rpartition("(")[2] for place in part.missing.values()] == [
        "empty)",
        "not a file)",
        "missing)",
        "not a file)",
    ]
    (cirr_folder / "again").mkdir()
    for number, name in enumerate(NAMES[:4]):
        (cirr_folder / "again" / f"{name}.png").write_bytes(png(number))
    assert "again (4)" in remarks(cirr.load(str(cirr_folder)))


@pytest.mark.fault("D09", "an empty file, a folder or a dead link in the place of an image is a missing image")
def test_web_pages_of_dead_addresses(fashioniq_folder):  # noqa: F811
    (fashioniq_folder / "images/D14.jpg").write_text("\n<!DOCTYPE html><title>404</title>")
    dress, *_ = fashioniq.load(str(fashioniq_folder), check_images=False)
    assert dress.missing == {"D14": f"{fashioniq_folder / 'images/D14.jpg'} (a web page)"}
    (fashioniq_folder / "images/D14.png").write_bytes(png(1))
    fashioniq.load(str(fashioniq_folder))


@pytest.fixture
def listed(monkeypatch):
    """The folders that were listed."""
    folders = []
    original = image_index._list
    monkeypatch.setattr(image_index, "_list", lambda *args: folders.append(args[0]) or original(*args))
    monkeypatch.setattr(image_index, "RECENT", 0)
    return folders


def names(root):
    return sorted(name for _, name in image_index.image_index(root).images())


@pytest.mark.fault("D10", "the index of image names is made once; what changed since is listed again")
def test_the_index(tmp_path, cache, listed):
    for name in ("a/1.jpg", "b/2.PNG", "b/notes.txt", ".hidden/3.jpg", "@eaDir/1.jpg/4.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "again").symlink_to(tmp_path)  # a circle
    assert names(tmp_path) == ["1.jpg", "2.PNG"] and len(listed) == 3
    listed.clear()
    assert names(tmp_path) == ["1.jpg", "2.PNG"] and not listed
    (tmp_path / "b/5.jpg").touch()
    assert names(tmp_path) == ["1.jpg", "2.PNG", "5.jpg"] and listed == [tmp_path / "b"]
    shutil.rmtree(tmp_path / "a")
    assert names(tmp_path) == ["2.PNG", "5.jpg"]
    (file,) = (cache / "contextcir/images").iterdir()
    for content in ("", "{", '{"folders": {"": null}}', json.dumps({"folders": {"": {"changed": 1, "images": [2]}}})):
        file.write_text(content)
        assert names(tmp_path) == ["2.PNG", "5.jpg"]


@pytest.mark.fault("D10", "the index of image names is made once; what changed since is listed again")
def test_a_folder_that_has_just_changed_is_not_trusted(tmp_path, listed, monkeypatch):
    monkeypatch.setattr(image_index, "RECENT", 60 * 10**9)
    assert names(tmp_path) == []
    time = os.stat(tmp_path).st_mtime_ns
    (tmp_path / "1.jpg").touch()
    os.utime(tmp_path, ns=(time, time))  # as on a disk with coarse times
    assert names(tmp_path) == ["1.jpg"]


def test_the_index_needs_no_cache(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "1.jpg").touch()
    assert names(tmp_path) == ["1.jpg"]
