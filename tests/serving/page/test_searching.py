"""Searching on the page: by example, by upload, along a chain, and what is in the address."""

import json
import re
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from contextcir.retrieval.base import Gallery
from tests.serving.page.conftest import found, status
from tests.serving.world import COUNT, draw, png

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
CIRCLE = "circle/red 40.png"


def in_address(page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).fragment).items()}


def expected(stored, retriever, *args, **kwargs) -> list[str]:
    return [hit.id for hit in Gallery.open(stored, retriever).search(*args, **kwargs)]


def test_search_by_example(world, visit, stored, retriever):
    page = visit(world)
    expect(page.locator("#name")).to_have_text("shapes")
    expect(page.locator("#about")).to_contain_text("36 pictures")
    expect(page.locator(".example")).to_have_count(2)
    page.get_by_role("button", name="Begin with circle/red 40.png: make it blue").click()
    status(page, "20 of 36 pictures in [0-9]+ ms")
    expect(page.locator("#text")).to_have_value("make it blue")
    expect(page.locator("#latency")).to_have_text(
        re.compile(r"read [\d.]+ · wait [\d.]+ · model [\d.]+ · search [\d.]+")
    )
    assert found(page) == expected(stored, retriever, CIRCLE, "make it blue", 20, exclude=[CIRCLE])
    assert in_address(page) == {"ref": CIRCLE, "text": "make it blue"}
    first = page.locator(".tile").first
    expect(first.locator(".rank")).to_have_text("1")
    expect(first.locator(".score")).to_have_text(re.compile(r"^0\.\d{3}$"))
    expect(page.locator(".grid .frame.loading")).to_have_count(0)
    sizes = page.locator(".grid img").evaluate_all(
        "all => all.filter((one) => one.complete).map((one) => one.naturalWidth)"
    )
    assert sizes and set(sizes) == {120}
    expect(page).to_have_title("make it blue · shapes")


def test_other_examples(world, visit):
    page = visit(world)
    page.locator("#shuffle").click()
    expect(page.locator(".example")).to_have_count(12)


def test_search_by_upload(world, visit, stored, retriever):
    page = visit(world)
    picture = {"name": "my photo.png", "mimeType": "image/png", "buffer": png(draw("green", "square", 0.6))}
    page.locator("#file").set_input_files(picture)
    status(page, "20 of 36")
    assert found(page)[0] == "square/green 60.png"
    expect(page.locator(".chosen img")).to_have_attribute("alt", "Reference: my photo.png")
    expect(page.locator("#reference-note")).to_contain_text("the address of the search does not carry it")
    page.locator("#text").fill("as a triangle")
    page.locator("#text").press("Enter")
    expect(page).to_have_url(re.compile("as.a.triangle"))
    status(page, "20 of 36")
    assert found(page) == expected(stored, retriever, draw("green", "square", 0.6), "as a triangle", 20)
    assert in_address(page) == {"upload": "my photo.png", "text": "as a triangle"}
    page.go_back()
    expect(page.locator("#text")).to_have_value("")
    expect(page.locator(".chosen img")).to_be_visible()  # within the tab, Back finds the picture again
    page.go_forward()
    expect(page.locator("#text")).to_have_value("as a triangle")
    page.reload()
    expect(page.locator("#reference-note")).to_contain_text("“my photo.png” was uploaded")
    status(page, "20 of 36")
    assert found(page) == expected(stored, retriever, None, "as a triangle", 20)


def test_paste_and_drop(world, visit):
    page = visit(world)
    expect(page.locator(".example").first).to_be_visible()
    give = """(kind) => {
        const bytes = Uint8Array.from(atob(kind.content), (one) => one.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], kind.name, { type: "image/png" }));
        const event = kind.event === "paste"
            ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true })
            : new DragEvent(kind.event, { dataTransfer: data, bubbles: true, cancelable: true });
        document.querySelector("#text").dispatchEvent(event);
    }"""
    import base64

    content = base64.b64encode(png(draw("yellow", "circle", 0.8))).decode()
    page.evaluate(give, {"event": "paste", "name": "pasted.png", "content": content})
    status(page, "20 of 36")
    assert found(page)[0] == "circle/yellow 80.png"
    content = base64.b64encode(png(draw("blue", "triangle", 0.8))).decode()
    page.evaluate(give, {"event": "dragenter", "name": "dropped.png", "content": content})
    expect(page.locator("#veil")).to_have_class(re.compile("shown"))
    page.evaluate(give, {"event": "drop", "name": "dropped.png", "content": content})
    expect(page.locator("#veil")).not_to_have_class(re.compile("shown"))
    expect(page.locator(".chosen-name")).to_have_text("dropped.png")
    status(page, "20 of 36")
    assert found(page)[0] == "triangle/blue 80.png"


def test_a_chain_with_undo_and_back(world, visit):
    page = visit(world)
    page.locator(".example .pick").first.click()
    status(page, "20 of 36")
    first = found(page)
    page.locator(".grid .pick").nth(2).click()
    expect(page.locator(".trail .step")).to_have_count(2)
    expect(page.locator("#text")).to_have_value("")
    expect(page.locator("#text")).to_be_focused()
    status(page, "20 of 36")
    assert in_address(page)["ref"] == first[2]
    page.keyboard.type("larger")
    page.keyboard.press("Enter")
    expect(page.locator(".trail .step").last).to_contain_text("larger")
    status(page, "20 of 36")
    chained, second = page.url, found(page)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#text")).to_have_value("make it blue")
    expect(page.locator("#trail")).to_be_hidden()
    status(page, "20 of 36")
    assert found(page) == first
    page.go_back()
    expect(page).to_have_url(chained)
    status(page, "20 of 36")
    assert found(page) == second
    page.locator(".trail .step").first.click()
    expect(page.locator("#text")).to_have_value("make it blue")
    page.go_back()
    page.go_back()
    expect(page.locator("#text")).to_have_value("")
    expect(page.locator(".trail .step")).to_have_count(2)
    page.go_back()
    expect(page.locator("#text")).to_have_value("make it blue")
    page.go_back()
    expect(page.locator(".example")).to_have_count(2)


def test_an_address_can_be_shared(world, visit):
    page = visit(world)
    page.locator(".example .pick").first.click()
    page.locator(".grid .pick").nth(1).click()
    expect(page.locator(".trail .step")).to_have_count(2)
    page.locator("#text").fill("make it larger & <b>red</b> #1?")
    page.locator("#go").click()
    page.locator("#k").fill("7")
    page.locator("#weight").evaluate("one => { one.value = 0.25; one.dispatchEvent(new Event('change')); }")
    status(page, "7 of 36")
    expect(page).to_have_url(re.compile("weight=0.25"))
    status(page, "7 of 36")
    other = visit(world, f"#{urlsplit(page.url).fragment}")
    status(other, "7 of 36")
    expect(other.locator("#text")).to_have_value("make it larger & <b>red</b> #1?")
    expect(other.locator("#k")).to_have_value("7")
    expect(other.locator("#weight-value")).to_have_text("25 %")
    expect(other.locator(".trail .step")).to_have_count(2)
    assert found(other) == found(page)


@pytest.mark.parametrize(
    "fragment", ["k=1e9&weight=x&filters={}&trail=[1]&view=?", "trail=[[]]&filters=[1,null]", "%", "=&&"]
)
def test_addresses_that_make_no_sense(world, visit, fragment):
    page = visit(world, f"#text=red&{fragment}")
    status(page, "20 of 36")


def test_an_address_with_an_image_that_is_gone(world, visit):
    page = visit(world, "#ref=gone.png", failures=True)
    expect(page.locator("#notice")).to_contain_text("The gallery has no image 'gone.png'.")
    page.locator("#home").click()
    expect(page.locator(".example")).to_have_count(2)
    expect(page.locator("#notice")).to_be_hidden()


def test_filters(world, visit):
    page = visit(world, f"#ref={quote(CIRCLE)}&k=100")
    status(page, "35 of 36")
    page.locator("#filters-toggle").click()
    colours = page.get_by_role("group", name="colour")
    colours.get_by_role("checkbox", name="blue").check()
    status(page, "9 of 36")
    colours.get_by_role("checkbox", name="green").check()
    status(page, "18 of 36")
    page.get_by_label("size, at least").fill("60")
    status(page, "12 of 36")
    expect(page.locator("#filters-count")).to_have_text("2")
    assert all(re.search("(blue|green) (60|80)", id_) for id_ in found(page))
    assert json.loads(in_address(page)["filters"])[0] == {
        "column": "colour",
        "operator": "=",
        "value": ["blue", "green"],
    }
    page.reload()
    status(page, "12 of 36")
    page.locator("#filters-toggle").click()
    expect(page.get_by_label("size, at least")).to_have_value("60")
    page.get_by_label("size, at most").fill("10")
    expect(page.get_by_role("heading", name="No picture fits these filters")).to_be_visible()
    expect(page.locator(".empty")).to_contain_text("colour = blue or green, and size ≥ 60, and size ≤ 10")
    page.get_by_role("button", name="Clear the filters").click()
    status(page, "35 of 36")
    assert "filters" not in in_address(page)
    expect(page.get_by_label("size, at least")).to_have_value("")


def test_compare_three_searches(world, visit, stored, retriever):
    page = visit(world, f"#ref={quote(CIRCLE)}&text=make+it+blue&k=5")
    status(page, "5 of 36")
    page.locator("#view-rows").click()
    expect(page.locator(".row")).to_have_count(3)
    for name, args in {
        "Both": (CIRCLE, "make it blue"),
        "Image only": (CIRCLE, ""),
        "Text only": (None, "make it blue"),
    }.items():
        row = page.get_by_role("region", name=name).locator(".pick")
        ids = row.evaluate_all("all => all.map((one) => one.title)")
        assert ids == expected(stored, retriever, *args, 5, exclude=[CIRCLE] if args[0] else [])
    assert in_address(page)["view"] == "rows"
    page.locator("#text").fill("")
    page.locator("#go").click()
    expect(page.get_by_role("region", name="Text only")).to_contain_text("Needs a text.")


def test_export(world, visit):
    page = visit(world, f"#ref={quote(CIRCLE)}&text=make+it+blue&k=3")
    status(page, "3 of 36")
    with page.expect_download() as download:
        page.locator("#export-json").click()
    saved = json.loads(download.value.path().read_text())
    assert saved["reference"] == CIRCLE and saved["text"] == "make it blue" and saved["k"] == 3
    (search,) = saved["searched"]
    assert [one["id"] for one in search["results"]] == found(page) and search["results"][0]["facts"]["colour"]
    with page.expect_download() as download:
        page.locator("#export-csv").click()
    assert download.value.suggested_filename == "results.csv"
    lines = download.value.path().read_text().splitlines()
    assert lines[0] == "search,rank,id,score,colour,price,shape,size" and len(lines) == 4
    assert lines[1].startswith(f"composed,1,{found(page)[0]},0.")


def test_phrases_and_where_the_model_looks(world, visit):
    page = visit(world, f"#ref={quote(CIRCLE)}&text=make+it+blue")
    chips = page.locator(".chip")
    expect(chips).to_have_text(["make", "it", "blue"])
    chips.nth(0).hover()
    maps = page.locator(".maps")
    expect(maps.locator("figcaption")).to_have_text(["in context", "isolated"])
    expect(maps).to_contain_text("They differ by 75 %")
    opacity = "(one, [x, y]) => one.getContext('2d').getImageData(x, y, 1, 1).data[3]"
    corner, other, same, as_same = (
        maps.locator("canvas").nth(place).evaluate(opacity, at) for place in (0, 1) for at in ([0, 0], [300, 300])
    )
    assert corner > 150 and other < 20 and same == as_same  # in context, it looks at the corner; isolated, everywhere
    chips.nth(1).focus()
    expect(maps).to_contain_text("does not read this phrase")
    page.keyboard.press("Escape")
    expect(maps).to_have_count(0)
    page.locator("#text").fill("add a star")
    expect(chips).to_have_text(["add", "a", "star"])


def test_look_at_a_picture(world, visit):
    page = visit(world, f"#ref={quote(CIRCLE)}&k=3")
    status(page, "3 of 36")
    ids = found(page)
    page.locator(".tile").nth(1).hover()
    page.get_by_role("button", name=f"Look at {ids[1]}").click()
    preview = page.locator("#preview")
    expect(preview.get_by_role("heading")).to_have_text(ids[1])
    expect(preview).to_contain_text("Rank 2")
    expect(preview.locator("dl")).to_contain_text("colour")
    page.keyboard.press("ArrowRight")
    expect(preview.get_by_role("heading")).to_have_text(ids[2])
    preview.get_by_role("button", name="Use as reference").click()
    expect(preview).to_be_hidden()
    expect(page.locator(".chosen-name")).to_have_text(ids[2].split("/")[1])


def test_rerank_with_reasons(world, visit):
    page = visit(world, f"#ref={quote(CIRCLE)}&text=make+it+blue&k=4")
    status(page, "4 of 36")
    before = found(page)
    page.locator("#rerank").click()
    status(page, "Re-ranked")
    assert found(page) == before[::-1]
    first = page.locator(".tile").first
    expect(first.locator(".reasons")).to_contain_text(f"{before[-1]} is fine.")
    expect(first.locator(".verdict")).to_have_text(["accepted", "1 of 1 hold"])


def test_an_empty_gallery(own, visit, tmp_path, retriever):
    from contextcir.retrieval.store.operations import remove_images

    (tmp_path / "pictures").mkdir()
    draw("red", "circle", 0.5).save(tmp_path / "pictures" / "a.png")
    Gallery.build(tmp_path / "pictures", retriever, tmp_path / "stored", quiet=True)
    remove_images(tmp_path / "stored", ["a.png"])
    world = own(Gallery.open(tmp_path / "stored", retriever))
    page = visit(world)
    expect(page.get_by_role("heading", name="This gallery is empty")).to_be_visible()
    expect(page.locator(".empty")).to_contain_text("contextcir index")
    page.locator("#text").fill("anything")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Nothing was found")).to_be_visible()
    assert world.errors == []


def test_all_of_a_gallery(world, visit):
    page = visit(world, "#text=red&k=100")
    status(page, f"{COUNT} of {COUNT}")
