"""Everybody can use the page: by keyboard, on small screens, in the dark, and with a screen reader."""

import json
import re
from urllib.parse import quote

import pytest

from tests.serving.page.conftest import found, status

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
CIRCLE = "circle/red 40.png"
FOCUSED = "() => document.activeElement.title || document.activeElement.id"


def test_by_keyboard_alone(world, visit):
    """From the first look to a chain of two, and back, without a mouse."""
    page = visit(world)
    keys = page.keyboard
    expect(page.locator(".example").first).to_be_visible()
    keys.press("?")
    expect(page.locator("#keys")).to_be_visible()
    keys.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    keys.press("/")
    expect(page.locator("#text")).to_be_focused()
    keys.press("ArrowDown")
    expect(page.locator(".example .pick").first).to_be_focused()
    keys.press("ArrowRight")
    expect(page.locator(".example .pick").nth(1)).to_be_focused()
    keys.press("Enter")
    status(page, "20 of 36")
    expect(page.locator("#text")).to_have_value("as a triangle")
    expect(page.locator("#text")).to_be_focused()
    keys.type(" in red")
    keys.press("Enter")
    expect(page).to_have_title("as a triangle in red · shapes")
    status(page, "20 of 36")
    ids = found(page)
    keys.press("ArrowDown")
    assert page.evaluate(FOCUSED) == ids[0]
    keys.press("ArrowRight")
    keys.press("ArrowRight")
    assert page.evaluate(FOCUSED) == ids[2]
    keys.press("ArrowLeft")
    keys.press("ArrowDown")
    assert page.evaluate(FOCUSED) == ids[7]  # six in a row
    keys.press("ArrowUp")
    assert page.evaluate(FOCUSED) == ids[1]
    keys.press("Home")
    keys.press("End")
    assert page.evaluate(FOCUSED) == ids[19]
    keys.press("Home")
    keys.press("ArrowUp")
    expect(page.locator("#text")).to_be_focused()
    keys.press("ArrowDown")
    assert page.evaluate(FOCUSED) == ids[0]
    keys.press("Space")
    expect(page.locator("#preview")).to_be_visible()
    keys.press("ArrowRight")
    expect(page.locator("#preview").get_by_role("heading")).to_have_text(ids[1])
    keys.press("Escape")
    expect(page.locator("#preview")).to_be_hidden()
    keys.press("Enter")
    expect(page.locator(".trail .step")).to_have_count(2)
    status(page, "20 of 36")
    keys.press("Escape")
    keys.press("u")
    expect(page.locator("#text")).to_have_value("as a triangle in red")
    keys.press("Escape")
    keys.press("c")
    expect(page.locator(".row")).to_have_count(3)
    keys.press("c")
    keys.press("f")
    expect(page.locator("#filters")).to_be_visible()
    keys.press("Space")
    status(page, "9 of 36")
    keys.press("Escape")
    expect(page.locator("#filters")).to_be_hidden()
    expect(page.locator("#filters-toggle")).to_be_focused()
    for name in ("a", "u", "?", "/"):  # they are letters where one writes
        keys.press("/") if name == "a" else None
        keys.type(name)
    expect(page.locator("#text")).to_have_value("as a triangle in redau?/")


def test_tab_reaches_everything_once(world, visit):
    """The pictures are one stop, since the arrows move over them; and what has the focus can be seen."""
    page = visit(world, f"#ref={quote(CIRCLE)}&text=make+it+blue&k=5")
    status(page, "5 of 36")
    expect(page.locator(".chip")).to_have_count(3)
    page.locator("#skip").focus()
    stops = []
    for _ in range(40):
        name = page.evaluate("() => document.activeElement.id || document.activeElement.className")
        stops.append(name)
        visible = """() => {
            const style = getComputedStyle(document.activeElement);
            return style.outlineStyle !== "none" || document.activeElement.id === "text";
        }"""
        assert page.evaluate(visible), f"the focus on {name} cannot be seen"
        if "pick" in name:
            break
        page.keyboard.press("Tab")
    assert stops == [
        *("skip", "home", "theme", "help", "clear", "text", "chip", "chip", "chip", "k", "weight", "filters-toggle"),
        *("go", "rerank", "view-grid", "view-rows", "share", "export-json", "export-csv", "pick"),
    ]


@pytest.mark.parametrize("width", [375, 320, 768])
def test_nothing_overflows(world, visit, width):
    page = visit(world, width=width, height=700, is_mobile=True, has_touch=True)

    def check(what: str) -> None:
        sizes = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        inside, outside = page.evaluate(f"() => {sizes}")
        assert inside <= outside == width, what

    expect(page.locator(".example").first).to_be_visible()
    check("beginning")
    trail = quote(json.dumps([[CIRCLE, f"a long text {'x' * 80}"]]))
    page.goto(f"{world.url}#ref={quote(CIRCLE)}&text={'verylongword' * 20}&trail={trail}")
    page.reload()
    status(page, "20 of 36")
    check("results")
    page.locator(".chip").first.tap()
    expect(page.locator(".maps figure")).to_have_count(2)
    check("where the model looks")
    page.keyboard.press("Escape")
    page.locator("#filters-toggle").tap()
    check("filters")
    page.locator("#view-rows").tap()
    expect(page.locator(".row")).to_have_count(3)
    check("rows")
    page.locator("#view-grid").tap()
    page.locator(".look").first.tap()
    expect(page.locator("#preview")).to_be_visible()
    box = page.locator("#preview").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    page.keyboard.press("Escape")
    page.locator("#help").tap()
    check("keys")


def luminance(page, selector: str, what: str) -> float:
    """Relative luminance of a colour of an element, in [0, 1]."""
    found = page.locator(selector).first.evaluate(f"one => getComputedStyle(one).{what}")
    levels = [int(level) / 255 for level in re.findall(r"\d+", found)[:3]]
    linear = [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(world, visit, scheme):
    """Both follow the system, the button changes them, and texts have a contrast of at least 4.5."""
    page = visit(world, f"#ref={quote(CIRCLE)}&text=make+it+blue", color_scheme=scheme, reduced_motion="reduce")
    status(page, "20 of 36")
    expect(page.locator(".chip")).to_have_count(3)

    def check(dark: bool) -> None:
        paper, card = (luminance(page, place, "backgroundColor") for place in ("body", ".composer"))
        assert (paper < 0.05) == dark
        for selector, ground in {
            "#status": paper,
            ".latency": paper,
            ".caption .id": paper,
            ".caption .rank": paper,
            "#text": card,
            ".field span": card,
            ".chip": luminance(page, ".chip", "backgroundColor"),
            "#go": luminance(page, "#go", "backgroundColor"),
            "#share": luminance(page, "#share", "backgroundColor"),
        }.items():
            ink = luminance(page, selector, "color")
            contrast = (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05)
            assert contrast >= 4.5, f"{selector}: {contrast:.2f}"

    page.mouse.move(0, 0)
    check(scheme == "dark")
    page.locator("#theme").click()
    page.mouse.move(0, 0)
    check(scheme == "light")
    page.reload()
    status(page, "20 of 36")
    expect(page.locator(".chip")).to_have_count(3)
    check(scheme == "light")


def test_calm(world, visit):
    page = visit(world, f"#ref={quote(CIRCLE)}", reduced_motion="reduce")
    status(page, "20 of 36")
    moving = page.evaluate("() => document.getAnimations().length")
    assert moving == 0


def test_names_of_things(world, visit):
    """Every control has a name, every picture has one or belongs to a control that has, and changes are announced."""
    page = visit(world, f"#ref={quote(CIRCLE)}&text=make+it+blue&k=5")
    status(page, "5 of 36")
    nameless = page.locator("button, input, textarea").evaluate_all(
        """all => all.filter((one) => one.checkVisibility() && !(one.getAttribute("aria-label") || one.labels?.length
            || one.textContent.trim() || one.title)).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("img:not([alt])").count() == 0
    expect(page.locator("#status")).to_have_attribute("aria-live", "polite")
    expect(
        page.get_by_role("button", name=re.compile(r"^1\. \S+ \S+, score 0\.\d{3}\. Use as reference$"))
    ).to_be_visible()
    assert page.locator("html").get_attribute("lang") == "en"
    page.locator("#skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#results")).to_be_focused()
    assert "ref=" in page.url
