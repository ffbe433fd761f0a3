"""From a template and what it shows to one HTML file that holds all it needs."""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sidecar.version import VERSION

GENERATOR: Final = "emissions-sidecar report"
"""What the `generator` of our pages begins with: no other file is ever removed."""

_UNSAFE_IN_SCRIPT: Final = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)
"""With these escaped no JSON ends its script element, or begins a comment in it."""


class Renderer:
    """Renders pages; holds the templates and assets.

    Everything is escaped but our own assets, the hash of the script, and JSON escaped by
    `embedded_json`.
    """

    def __init__(self) -> None:
        self._environment = Environment(
            loader=PackageLoader("sidecar.report.page"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._assets = files("sidecar.report.page").joinpath("assets")

    def page(self, template: str, script: str, parts: Mapping[str, Any]) -> str:
        """Return a page from `<template>.html` and the script `<script>.js`."""
        code = self._asset(f"{script}.js").strip()
        return self._environment.get_template(f"{template}.html").render(
            css=Markup(self._styles),  # noqa: S704
            script=Markup(code),  # noqa: S704
            script_hash=Markup(_content_hash(code)),  # noqa: S704
            generator=f"{GENERATOR} {VERSION}",
            version=VERSION,
            **parts,
        )

    @cached_property
    def world(self) -> Markup:
        """The geometry of the map, for a script element."""
        return embedded_json(json.loads(self._asset("world.json")))

    @cached_property
    def _styles(self) -> str:
        return self._asset("page.css")

    def _asset(self, name: str) -> str:
        return self._assets.joinpath(name).read_text(encoding="utf-8")


def embedded_json(value: object) -> Markup:
    """Return JSON that is safe within a script element. Raises ValueError for NaN and infinities."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    safe = text.encode("utf-8", "replace").decode("utf-8").translate(_UNSAFE_IN_SCRIPT)
    return Markup(safe)  # noqa: S704


def _content_hash(script: str) -> str:
    """Return the source expression of a script (Content Security Policy 3, §2.3.1, hash-source)."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
