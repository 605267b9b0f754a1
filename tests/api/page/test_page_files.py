"""The files of the chat page as the server sends them: types, policy, compression, caching, and who may have them."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from glm_edge.api.access.keys import Keys
from glm_edge.api.access.policy import AccessPolicy
from glm_edge.api.app import create_app
from glm_edge.api.page import page
from support.engines.fake_engine import FakeEngine

FILES = page.load()
FOLDER = Path(page.__file__).parent
FIRST_PAINT = 250_000  # bytes that come before anything is asked, compressed


@pytest.fixture
def client() -> FlaskClient:
    return create_app(FakeEngine(), policy=AccessPolicy(Keys(["sk-right"]))).test_client()


def address(name: str) -> str:
    return "/" if name == page.PAGE else f"/page/{name}"


def first_files() -> set[str]:
    """The page, and whatever it and its modules name in a plain import; import() is on demand."""
    html = FILES[page.PAGE].body.decode()
    waiting = re.findall(r'(?:href|src)="page/([^"]+)"', html)
    found = {page.PAGE}
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if name.startswith("script/"):
            imports = re.findall(
                r'^(?:import|\} from|export) ?[^;"()]*"(\.[^"]+)";', FILES[name].body.decode(), re.MULTILINE
            )
            base = (FOLDER / name).parent
            waiting += [(base / one).resolve().relative_to(FOLDER.resolve()).as_posix() for one in imports]
    return found


def test_every_script_and_style_is_loaded() -> None:
    ours = {name for name in FILES if name.startswith(("script/", "style/"))}
    assert ours <= first_files() <= set(FILES)
    assert not [name for name in first_files() if "katex" in name]  # on demand


def test_the_first_paint_is_small() -> None:
    assert sum(len(FILES[name].sent(packed=True)[0]) for name in first_files()) < FIRST_PAINT


@pytest.mark.parametrize("name", ["page.html", "icon.svg", "script/main.js", "style/base.css"])
def test_files_are_open_without_a_key_and_come_under_the_policy(client: FlaskClient, name: str) -> None:
    response = client.get(address(name))
    assert response.status_code == 200
    assert response.data == (FOLDER / name).read_bytes()
    assert response.headers["Content-Security-Policy"] == page.POLICY
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    types = {"html": "text/html", "svg": "image/svg+xml", "js": "text/javascript", "css": "text/css"}
    assert response.mimetype == types[name.rpartition(".")[2]]
    assert client.head(address(name)).status_code == 200


def test_files_are_compressed_for_clients_that_take_it(client: FlaskClient) -> None:
    response = client.get("/page/script/main.js", headers={"Accept-Encoding": "br, gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(response.data) == FILES["script/main.js"].body
    assert response.headers["Vary"] == "Accept-Encoding"
    plain = client.get("/page/script/main.js", headers={"Accept-Encoding": "gzip;q=0"})
    assert "Content-Encoding" not in plain.headers
    assert plain.data == FILES["script/main.js"].body


def test_a_file_that_is_the_same_is_not_sent_again(client: FlaskClient) -> None:
    etag = client.get("/").headers["ETag"]
    again = client.get("/", headers={"If-None-Match": etag, "Accept-Encoding": "gzip"})
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", etag)
    assert client.get("/", headers={"If-None-Match": 'W/"other"'}).status_code == 200
    assert client.get("/page/icon.svg").headers["ETag"] != etag


@pytest.mark.parametrize(
    "path", ["/page/", "/page/page.py", "/page/__init__.py", "/page/../v1/models", "/page/%2e%2e/page.py", "/page/x"]
)
def test_nothing_else_is_there(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.json is not None
    assert response.json["error"]["code"] == "unknown_url"


def test_the_api_is_closed_and_the_files_take_no_post(client: FlaskClient) -> None:
    assert client.get("/v1/models").status_code == 401
    assert client.post("/page/script/main.js").status_code == 401


def test_the_policy_allows_files_of_this_server_alone() -> None:
    rules = dict(rule.split(" ", 1) for rule in page.POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    for directive in ("script-src", "style-src", "connect-src", "img-src", "font-src"):
        assert rules[directive] == "'self'"
    html = FILES[page.PAGE].body.decode()
    assert re.findall(r"<script(?! type=\"module\" src=)|<style| style=| on\w+=", html) == []
    for name, file in FILES.items():
        if name.endswith((".html", ".css")) or name.startswith("script/"):
            text = file.body.decode()
            for outside in (
                '="http',
                '="//',
                "@import",
                "url(http",
                "url(//",
                "innerHTML",
                "outerHTML",
                "document.write",
            ):
                assert outside not in text, name


def test_no_file_of_ours_is_long_and_each_says_what_it_is() -> None:
    for name, file in FILES.items():
        if name.startswith(("script/", "style/")):
            text = file.body.decode()
            assert len(text.splitlines()) <= 300, name
            assert name.startswith("style/") or max(map(len, text.splitlines())) <= 120, name
            assert text.startswith(("// ", "/* ")), name


def test_the_libraries_have_their_licences_and_their_fonts() -> None:
    licences = FILES["vendor/LICENSES.txt"].body.decode()
    for name, file in FILES.items():
        if name.startswith("vendor/") and name.endswith((".js", ".css")):
            assert name.removeprefix("vendor/") in licences
            assert b"sourceMappingURL" not in file.body
    fonts = re.findall(r"url\(([^)]*)\)", FILES["vendor/katex.min.css"].body.decode())
    assert {f"vendor/{font}" for font in fonts} == {name for name in FILES if name.startswith("vendor/fonts/")}
    assert sum(len(file.body) for name, file in FILES.items() if name.startswith("vendor/")) < 3_000_000
