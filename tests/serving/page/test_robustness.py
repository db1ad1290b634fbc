"""What the page does when something is wrong: bad input, a busy server, one that has gone, many people at once."""

import base64
import re
import time
from urllib.parse import quote

import pytest

from contextcir.serving import Settings
from tests.serving.page.conftest import World, found, status
from tests.serving.world import draw, png

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
CIRCLE = "circle/red 40.png"
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def choose(page, name: str, content: bytes) -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})


def test_bad_uploads(world, visit):
    """Each gives a sentence, and the next good one works."""
    page = visit(world, failures=True)
    expect(page.locator(".example").first).to_be_visible()
    notice = page.locator("#notice")
    choose(page, "text.png", b"not an image")
    expect(notice).to_contain_text("The upload is not an image")
    expect(notice).to_have_attribute("role", "alert")
    choose(page, "half.png", png(draw("red", "circle", 0.5))[:200])
    expect(notice).to_contain_text("The upload cannot be decoded")
    choose(page, "nothing.png", b"")
    expect(notice).to_contain_text("“nothing.png” is empty")
    choose(page, "large.png", b"x" * 10_000_001)
    expect(notice).to_contain_text("“large.png” has 10.0 MB; at most 10 MB are taken")
    choose(page, "good.png", png(draw("red", "circle", 0.8)))
    status(page, "20 of 36")
    expect(notice).to_be_hidden()
    assert found(page)[0] == "circle/red 80.png"


def test_markup_is_text(world, visit):
    """In the text, in the name of a file, and in an address."""
    page = visit(world)
    page.on("dialog", lambda dialog: world.errors.append(f"a script ran: {dialog.message}") or dialog.dismiss())
    expect(page.locator(".example").first).to_be_visible()
    choose(page, f"{SCRIPT.replace('/', '')}.png", png(draw("red", "circle", 0.8)))
    status(page, "20 of 36")
    expect(page.locator(".chosen-name")).to_have_text(f"{SCRIPT.replace('/', '')}.png")
    page.locator("#text").fill(SCRIPT)
    page.keyboard.press("Enter")
    expect(page).to_have_title(f"{SCRIPT} · shapes")
    status(page, "20 of 36")
    expect(page.locator(".chip").first).to_have_text("<script>alert(1)</script><img")
    page.locator(".grid .pick").first.click()
    expect(page.locator(".trail .step").first).to_contain_text(SCRIPT)
    page.reload()
    expect(page.locator(".trail .step").first).to_contain_text(SCRIPT)
    assert page.locator("script:not([src]), img[src=x]").count() == 0
    other = visit(world, f"#text={quote(SCRIPT)}")
    expect(other.locator("#text")).to_have_value(SCRIPT)


def test_back_and_reload_in_mid_search(world, visit):
    page = visit(world, f"#ref={quote(CIRCLE)}")
    status(page, "20 of 36")
    first = found(page)
    world.pause = 1.0
    page.locator("#text").fill("make it blue")
    page.keyboard.press("Enter")
    expect(page.locator("#results")).to_have_attribute("aria-busy", "true")
    page.go_back()
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")  # known already
    assert found(page) == first
    time.sleep(1.2)
    assert found(page) == first  # the answer that came too late is not shown
    page.go_forward()
    expect(page.locator("#results")).to_have_attribute("aria-busy", "true")
    page.reload()
    status(page, "20 of 36")
    expect(page.locator("#text")).to_have_value("make it blue")
    page.locator("#text").fill("another")
    page.keyboard.press("Enter")
    expect(page.locator("#results")).to_have_attribute("aria-busy", "true")
    page.keyboard.press("Escape")
    status(page, "Stopped")
    world.pause = 0.0
    page.locator("#go").click()
    status(page, "20 of 36")


def test_only_the_last_of_several_searches_is_shown(world, visit):
    page = visit(world, f"#ref={quote(CIRCLE)}")
    status(page, "20 of 36")
    world.pause = 0.4
    for text in ("one", "two", "make it blue"):
        page.locator("#text").fill(text)
        page.keyboard.press("Enter")
        time.sleep(0.1)
    status(page, "20 of 36")
    other = visit(world, f"#ref={quote(CIRCLE)}&text=make+it+blue")
    status(other, "20 of 36")
    time.sleep(0.5)
    assert found(page) == found(other)


def test_many_sessions_at_once(world, browser):
    """30 people search for different things at the same time, and each sees what was asked for."""
    contexts = [browser.new_context(viewport={"width": 400, "height": 500}) for _ in range(30)]
    asked = [(f"number {number}", 1 + number % 7) for number in range(30)]
    try:
        pages = [context.new_page() for context in contexts]
        for page, (_, k) in zip(pages, asked, strict=True):
            page.on("console", lambda message: message.type == "error" and world.errors.append(message.text))
            page.goto(f"{world.url}#ref={quote(CIRCLE)}&k={k}", wait_until="commit")
        for page, (text, k) in zip(pages, asked, strict=True):
            status(page, f"^{k} of 36")
            page.locator("#text").fill(text)
            page.locator("#text").press("Enter")
        for page, (text, k) in zip(pages, asked, strict=True):
            expect(page).to_have_title(f"{text} · shapes")
            status(page, f"^{k} of 36")
            assert len(found(page)) == k
    finally:
        for context in contexts:
            context.close()


def test_a_busy_server(own, visit):
    """429 is answered with patience, and the search comes to its end."""
    world = own(settings=Settings(queue=1, batch=1, wait=0))
    pages = [visit(world, f"#ref={quote(CIRCLE)}&k={k}", failures=True) for k in (3, 4)]
    for k, page in zip((3, 4), pages, strict=True):
        status(page, f"{k} of 36")
    world.pause = 1.5
    for page in pages:
        page.locator("#text").fill("make it blue")
        page.keyboard.press("Enter")
    status(pages[1], "The server is busy. Trying again in [0-9]+ s")
    world.pause = 0.1
    for k, page in zip((3, 4), pages, strict=True):
        status(page, f"{k} of 36")
    assert world.errors == []


def test_a_server_that_stays_busy(own, visit):
    world = own(settings=Settings(queue=1, batch=1, wait=0))
    page = visit(world, failures=True)
    expect(page.locator(".example").first).to_be_visible()
    busy = {"status": 429, "headers": {"Retry-After": "0"}, "body": '{"error": "Too many."}'}
    page.route("**/search", lambda route: route.fulfill(**busy))
    page.evaluate(
        "() => { window.setTimeout = ((real) => (run, time) => real(run, Math.min(time, 5)))(window.setTimeout); }"
    )
    page.locator("#text").fill("red")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("The server is busy")
    page.unroute("**/search")
    page.get_by_role("button", name="Try again").click()
    status(page, "20 of 36")
    expect(page.locator("#notice")).to_be_hidden()


def test_a_server_that_has_gone(own, visit, gallery):
    """What was found stays, a sentence says what is wrong, and when the server is back, the search goes on."""
    world = own()
    page = visit(world, f"#ref={quote(CIRCLE)}", failures=True)
    status(page, "20 of 36")
    expect(page.locator(".grid .frame.loading")).to_have_count(0)
    before = found(page)
    world.server.stop()
    page.locator("#text").fill("make it blue")
    page.keyboard.press("Enter")
    notice = page.locator("#notice")
    expect(notice).to_contain_text("The server is away")
    expect(notice).to_contain_text("The server does not answer. Is it still running?")
    assert found(page) == before
    page.get_by_role("button", name="Try again").click()
    expect(notice).to_contain_text("The server is away")
    again = World(gallery, world.server.port)
    try:
        page.get_by_role("button", name="Try again").click()
        status(page, "20 of 36")
        expect(notice).to_be_hidden()
        assert found(page) != before
    finally:
        again.server.stop()


def test_a_token(own, visit):
    """It comes with the address, is taken out of it, and goes with every request, those for pictures too."""
    world = own(settings=Settings(token="a-token-of-a-test", hosts=None))
    page = visit(world, f"#token=a-token-of-a-test&ref={quote(CIRCLE)}")
    status(page, "20 of 36")
    assert "token" not in page.url
    expect(page.locator(".grid img").first).to_have_js_property("naturalWidth", 120)
    expect(page.locator(".broken")).to_have_count(0)
    page.reload()
    status(page, "20 of 36")
    assert world.errors == []
    stranger = visit(world, f"#ref={quote(CIRCLE)}", failures=True)
    notice = stranger.locator("#notice")
    expect(notice).to_contain_text("A token is needed")
    for token in ("wrong", "a-token-of-a-test"):
        notice.get_by_label("Token").fill(token)
        notice.get_by_label("Token").press("Enter")
        expect(notice).to_contain_text("A token is needed") if token == "wrong" else expect(notice).to_be_hidden()
    status(stranger, "20 of 36")


def test_a_picture_that_cannot_be_read(own, visit, gallery, monkeypatch):
    from contextcir.data.images import ImageError

    world, image = own(gallery), gallery.image

    def sometimes(id_):
        if "blue" in id_:
            raise ImageError("gone")
        return image(id_)

    monkeypatch.setattr(gallery, "image", sometimes)
    page = visit(world, "#text=red&k=36", failures=True)
    status(page, "36 of 36")
    for _ in range(12):
        page.mouse.wheel(0, 600)
        time.sleep(0.05)
    expect(page.locator(".frame.broken")).to_have_count(9)
    expect(page.locator(".frame.broken").first).to_have_text("This picture cannot be read")


def test_pictures_that_browsers_do_not_know(world, visit):
    """A TIFF has no preview, and can be searched with."""
    page = visit(world)
    expect(page.locator(".example").first).to_be_visible()
    content = png(draw("red", "circle", 0.8), "TIFF")
    page.locator("#file").set_input_files({"name": "a.tif", "mimeType": "image/tiff", "buffer": content})
    status(page, "20 of 36")
    expect(page.locator(".chosen")).to_contain_text("No preview")
    assert found(page)[0] == "circle/red 80.png" and base64.b64encode(content)


def test_a_new_generation_is_noticed(own, visit, tmp_path, retriever, monkeypatch):
    from contextcir.retrieval.base import Gallery
    from contextcir.retrieval.store.operations import index_images
    from contextcir.retrieval.store.sources import FolderSource
    from contextcir.serving import served
    from tests.serving.world import draw_pictures

    monkeypatch.setattr(served, "INTERVAL", 0.05)
    pictures = draw_pictures(tmp_path / "pictures")
    world = own(Gallery.build(pictures, retriever, tmp_path / "stored", quiet=True))
    page = visit(world, f"#ref={quote(CIRCLE)}&k=100")
    status(page, "35 of 36")
    draw("red", "square", 0.9).save(pictures / "square" / "new.png")
    index_images(FolderSource(pictures), retriever, tmp_path / "stored", quiet=True)
    end = time.monotonic() + 10
    while world.app.state.service.served.gallery.manifest.generation < 1 and time.monotonic() < end:
        time.sleep(0.02)
    page.locator("#go").click()
    expect(page.locator("#about")).to_contain_text("37 pictures")
    assert "square/new.png" in found(page) and re.search("36 of", page.locator("#status").text_content())
