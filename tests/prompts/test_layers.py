from __future__ import annotations

from collections.abc import Sequence

import pytest

from ptuning.errors import ConfigError
from ptuning.prompts import resolve_layers


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("all", (0, 1, 2, 3, 4, 5)),
        (" all ", (0, 1, 2, 3, 4, 5)),
        ("first:2", (0, 1)),
        ("last:2", (4, 5)),
        ("last:6", (0, 1, 2, 3, 4, 5)),
        ("2-4", (2, 3, 4)),
        ("3-3", (3,)),
        ("5", (5,)),
        ("4, 0,2", (0, 2, 4)),
        (3, (3,)),
        ([5, 1], (1, 5)),
        ((0,), (0,)),
        (range(2), (0, 1)),
    ],
)
def test_choices(layers: str | int | Sequence[int], expected: tuple[int, ...]) -> None:
    assert resolve_layers(layers, 6) == expected


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ("some", r"prompts.layers is 'some', expected `all`, `first:K`, `last:K`, a range such as `16-23`"),
        ("", "expected `all`"),
        ("-1", "expected `all`"),
        ("first:0", "'first:0', but the backbone has 6 layers. Use a number from 1 to 6 after `first:`"),
        ("last:7", "'last:7', but the backbone has 6 layers. Use a number from 1 to 6 after `last:`"),
        ("4-6", "names layer 6, but the backbone has layers 0 to 5"),
        ("4-2", "expected `all`"),
        (6, "names layer 6, but the backbone has layers 0 to 5. Choose among those"),
        (-1, "names layer -1"),
        ([], r"prompts.layers is \[\], expected"),
        ([0, 0], "names a layer twice. Name each layer once"),
        ("1,1", "names a layer twice"),
        ([0.5], "expected `all`"),
        (["0"], "expected `all`"),
        (True, "expected `all`"),
    ],
)
def test_mistakes(layers: str | int | Sequence[int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve_layers(layers, 6)
