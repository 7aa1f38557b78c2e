from __future__ import annotations

import pytest

from ptuning.tasks.words import split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, world!", ["Hello", ",", "world", "!"]),
        ("don't wait, it's Anna’s", ["don't", "wait", ",", "it's", "Anna’s"]),
        ("order #A-10293-b (E_42).", ["order", "#", "A-10293-b", "(", "E_42", ")", "."]),
        ("  two\n\tlines ", ["two", "lines"]),
        ("Zoë 東京 ok", ["Zoë", "東京", "ok"]),
        ("re\u0301sume\u0301 fini", ["re\u0301sume\u0301", "fini"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("I \u2764\ufe0f it", ["I", "\u2764\ufe0f", "it"]),
        ("- '", ["-", "'"]),
        ("\ufe0f", ["\ufe0f"]),
        (" ", []),
        ("", []),
    ],
)
def test_words_and_other_characters_are_parted(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in split_words(text)] == words


def test_spans_are_in_order_and_cover_everything_but_blanks() -> None:
    text = "Ein «Test» – mit 3,5 % 👩‍💻 und\u00a0mehr…"
    spans = split_words(text)
    covered = {place for start, end in spans for place in range(start, end)}
    assert covered == {place for place, character in enumerate(text) if not character.isspace()}
    assert all(left[1] <= right[0] for left, right in zip(spans, spans[1:], strict=False))
