"""Who may ask, what browsers may do with the answers, and what is logged."""

import logging
import re

import pytest

from contextcir.serving import Settings
from tests.serving.world import draw, png

TOKEN = "a-token-of-a-test"
EVERYWHERE = ("/", "/static/page.js", "/info", "/nothing", "/search", "/images/circle%2Fred%2040.png", "/health")


def test_headers_of_every_answer(client):
    for path in EVERYWHERE:
        headers = client.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'", path
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin" and headers["x-frame-options"] == "DENY"
        assert not [name for name in headers if name.startswith("access-control")], "CORS is closed"


def test_preflights_are_not_answered(client):
    headers = {"Origin": "http://127.0.0.1", "Access-Control-Request-Method": "POST"}
    answer = client.options("/search", headers=headers)
    assert answer.status_code == 405 and "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8080", "localhost:1", "LOCALHOST", "[::1]:8080", "[::1]"])
def test_own_names(client, host):
    assert client.get("/info", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[::2]", "localhost."]
)
def test_other_names_are_refused(client, host):
    """A web site that points its own name at this machine gets nothing (DNS rebinding)."""
    for path in ("/", "/info", "/health"):
        assert client.get(path, headers={"Host": host}).status_code == 421, path


def test_pages_of_other_sites_are_refused(client):
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", "http://127.0.0.1.evil.example"):
        answer = client.post("/search", data={"text": "x"}, headers={"Origin": origin})
        assert answer.status_code == 403, origin
    assert client.post("/search", data={"text": "x"}, headers={"Origin": "http://127.0.0.1"}).status_code == 200


def test_the_token(gallery, start):
    client = start(gallery, settings=Settings(token=TOKEN, hosts=None))
    for path in ("/info", "/metrics", "/images/circle%2Fred%2040.png", "/nothing"):
        assert client.get(path).status_code == 401
        assert client.get(path).headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", f"Bearer {TOKEN[:-1]}"):
            assert client.get(path, headers={"Authorization": wrong}).status_code == 401
    assert client.post("/search", data={"text": "x"}).status_code == 401
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get("/info", headers=right).status_code == 200
    assert client.post("/search", data={"text": "x"}, headers=right).status_code == 200
    for path in ("/", "/health", "/static/page.js", "/openapi.json"):  # these tell nothing of the gallery
        assert client.get(path).status_code == 200
    assert client.get("/info", headers=right | {"Host": "photos.example.org"}).status_code == 200  # any name


def test_nothing_that_a_user_types_is_logged(client, caplog, gallery, monkeypatch):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="contextcir.serving")
    secret = "my secret wish"
    client.post("/search", data={"text": secret})
    client.post("/search", data={"text": secret, "k": "1000"})
    client.post("/search", data={"reference": secret})
    client.post("/search", data={"text": "x"}, files={"upload": (f"{secret}.png", png(draw("red", "square", 0.5)))})
    client.get(f"/images/{secret}")
    client.get(f"/{secret}")
    monkeypatch.setattr(gallery, "embed", lambda images, texts, **options: [][len(texts[0]) + int(texts[0])])
    assert client.post("/search", data={"text": secret}).status_code == 500
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("contextcir")]
    assert not [line for line in lines if "secret" in line or "secret" in line.replace("%20", " ")]
    assert [line.rsplit(" ", 2)[0] for line in lines if re.match(r"(GET|POST) ", line)] == [
        "POST /search 200",
        "POST /search 422",
        "POST /search 404",
        "POST /search 200",
        "GET /images/{id:path} 404",
        "GET none 404",
        "POST /search 500",
    ]
    assert [line for line in lines if line.startswith("ValueError at /search\n")]  # the place of a mistake is


def test_a_mistake_of_the_server(client, gallery, monkeypatch):
    monkeypatch.setattr(gallery, "find", lambda *_, **__: 1 / 0)
    answer = client.post("/search", data={"text": "x"})
    assert answer.status_code == 500 and "log" in answer.json()["error"]
    assert "content-security-policy" in answer.headers and "ZeroDivision" not in answer.text


def test_files_of_the_page(client):
    for path in (
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/",
        "/static//etc/passwd",
    ):
        assert client.get(path).status_code == 404, path
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html") and page.headers["cache-control"] == "no-cache"
    sources = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert sources and not [source for source in sources if "//" in source], "nothing from elsewhere"
    for source in sources:
        assert client.get(f"/{source}").status_code == 200
    assert not re.search(r"<script(?! type=\"module\" src=)|<style|\son\w+=|\sstyle=", page.text), "nothing inline"


def test_scripts_import_what_is_there(client):
    seen, left = set(), ["page.js"]
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            code = client.get(f"/static/{name}")
            assert code.status_code == 200 and "javascript" in code.headers["content-type"]
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", code.text), name
            left += re.findall(r'from "\./([\w.]+)"', code.text)
    assert len(seen) > 8


def test_metrics(client):
    client.post("/search", data={"text": "x"})
    client.get("/nothing")
    text = client.get("/metrics").text
    assert 'contextcir_requests_total{route="/search",status="200"} 1.0' in text
    assert 'contextcir_requests_total{route="none",status="404"} 1.0' in text
    assert 'contextcir_search_stage_seconds_count{stage="embed"} 1.0' in text
    assert "contextcir_gallery_images 36.0" in text and "process_resident_memory_bytes" in text
