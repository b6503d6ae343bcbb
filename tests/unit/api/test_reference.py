import json
import re
from importlib import resources

from ollama_dist.api.reference import POLICY, rendered
from ollama_dist.api.routes import ROUTES

STATIC = resources.files("ollama_dist.api").joinpath("static")
PAGE = STATIC.joinpath("page.html").read_text(encoding="utf-8")
SCRIPT = STATIC.joinpath("page.js").read_text(encoding="utf-8")


def test_the_document_is_made_of_the_table() -> None:
    assert set(json.loads(rendered())["paths"]) == {route.path for route in ROUTES}


def test_the_page_asks_nobody_else() -> None:
    for name in ("page.html", "page.js", "page.css"):
        text = STATIC.joinpath(name).read_text(encoding="utf-8")
        assert not re.search(
            r"""(https?:)?//\w|url\(|@import|["'`]//""", re.sub(r"(?m)^//.*| // .*", "", text)
        )


def test_the_page_has_nothing_that_its_policy_forbids() -> None:
    assert "unsafe" not in POLICY
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", PAGE)


def test_the_script_puts_text_in_as_text() -> None:
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|Function\(", SCRIPT
    )


def test_the_key_is_kept_nowhere() -> None:
    assert not re.search(r"localStorage|sessionStorage|indexedDB|cookie", SCRIPT)
