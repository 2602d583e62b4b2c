"""HTML and SVG out of function calls. Whatever is not markup already is escaped: there is no other way in.

Names of runs, environments and settings come from files that anybody may have written, and a report is sent around.
"""

from __future__ import annotations

from html import escape
from typing import Any

VOID = frozenset({"br", "input", "link", "meta"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def markup(content: Any) -> Markup:
    """`content` as HTML: escaped, unless it is markup; lists one after the other; nothing for None and False."""
    if isinstance(content, Markup):
        return content
    if content is None or content is False:
        return Markup("")
    if isinstance(content, (list, tuple)):
        return Markup("".join(markup(part) for part in content))
    return Markup(escape(str(content)))


def el(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """The element `name`.

    Args:
        name: a tag.
        children: see `markup`.
        attributes: `_` stands for `-`, and one behind the name is left out (`class_`); True: without a value; None and
            False: left out.
    """
    text = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    if name in VOID:
        return Markup(f"<{name}{text}>")
    return Markup(f"<{name}{text}>{markup(list(children))}</{name}>")


def verbatim(name: str, text: str) -> Markup:
    """A script or style element of our own. Raises ValueError where the text would end the element early."""
    if f"</{name}" in text.lower():
        raise ValueError(f"text: expected no </{name} in what goes into <{name}>")
    return Markup(f"<{name}>{text}</{name}>")


def _attribute(key: str, value: Any) -> str:
    if value is False:
        return ""
    name = key.removesuffix("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
