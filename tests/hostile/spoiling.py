"""What others may send: sound samples with a part of them exchanged, and texts with bytes of them."""

import json
from typing import Any

from hypothesis import strategies as st

NASTY = st.sampled_from(
    [
        *(None, True, -1, 0, 2**63, 10**400, 1e308, [], {}, [[[[]]]]),
        *("", "x" * 5000, "\x1b[2J", "\ud800", "a\nb", "../.."),
    ]
)  # fmt: skip
ANYTHING = NASTY | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip
DEEP = "[" * 100_000


def places(value: Any, at: tuple = ()) -> list[tuple]:
    """Where something stands in a document."""
    below = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [at, *(place for key, inner in below for place in places(inner, (*at, key)))]


def exchanged(document: Any, place: tuple, value: Any) -> Any:
    if not place:
        return value
    copy = json.loads(json.dumps(document))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copy


def spoiled(document: Any) -> st.SearchStrategy[Any]:
    """The document with one or two of its parts exchanged for anything."""
    once = st.builds(exchanged, st.just(document), st.sampled_from(places(document)), ANYTHING)
    return (
        st.just(document)
        | once
        | once.flatmap(
            lambda changed: st.builds(
                exchanged, st.just(changed), st.sampled_from(places(changed)), ANYTHING
            )
        )
    )


def garbled(text: str | bytes) -> st.SearchStrategy[bytes]:
    """The bytes with some of them exchanged, cut away or added; or any others."""
    content = text.encode() if isinstance(text, str) else text
    cuts = st.tuples(
        st.integers(0, len(content)), st.integers(0, len(content)), st.binary(max_size=12)
    )
    return st.binary(max_size=200) | cuts.map(
        lambda cut: content[: min(cut[:2])] + cut[2] + content[max(cut[:2]) :]
    )
