from __future__ import annotations

from typing import Any

import pytest

from ptuning.errors import ConfigError
from ptuning.tasks.patterns import Part, parse_pattern, resolve_pattern, word_ids

ROLES = ("text", "text_pair")


def _parse(pattern: str) -> tuple[Part, ...]:
    return parse_pattern(pattern, ROLES, ("text",))


def test_words_texts_masks_and_virtual_tokens_are_parts() -> None:
    assert _parse("{prompt:2}{text}  Question:\n{text_pair}? {prompt:1} {mask}.") == (
        Part("prompt", count=2),
        Part("text", "text"),
        Part("words", "Question:", is_spaced=True),
        Part("text", "text_pair", is_spaced=True),
        Part("words", "?"),
        Part("prompt", count=1),
        Part("mask", is_spaced=True),
        Part("words", "."),
    )


def test_texts_may_be_bare_or_whole_and_the_second_side_begins_somewhere() -> None:
    assert _parse('"{text_pair|bare}" ?{/} {mask}, {text|bare|whole}') == (
        Part("words", '"'),
        Part("text", "text_pair", is_bare=True),
        Part("words", '" ?'),
        Part("side"),
        Part("mask", is_spaced=True),
        Part("words", ","),
        Part("text", "text", is_spaced=True, is_bare=True, is_whole=True),
    )
    bare = Part("text", "text", is_bare=True)
    assert [bare.shown(text) for text in ("It is. ", "so ?!", "a.b", "...")] == ["It is", "so", "a.b", "..."]
    assert Part("text", "text").shown("It is.") == "It is."


def test_no_space_stands_at_the_beginning_and_virtual_tokens_take_none() -> None:
    assert [part.is_spaced for part in _parse(" {prompt:1} {text} ")] == [False, False]
    assert [part.is_spaced for part in _parse("{text} {prompt:1}{mask}")] == [False, False, True]
    assert [part.is_spaced for part in _parse("{text}{prompt:1}{mask}")] == [False, False, False]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{text} {mask", "a brace has no partner. Expected {text}, {text_pair}, {mask}, {prompt}"),
        ("{text}} {mask}", "a brace has no partner"),
        ("{text {mask}}", "a brace has no partner"),
        ("{text} {label}", "{label} is unknown. Expected {text}, {text_pair}, {mask}, {prompt}"),
        ("{text} {}", "{} is unknown"),
        ("{text} {prompt:two}", "{prompt:two} is unknown"),
        (
            "{text|short} {mask}",
            "{text|short} is unknown. Expected {text}, {text_pair}, {mask}, {prompt}, of a text also {text|bare}",
        ),
        ("{text} {mask|bare}", "{mask|bare} is unknown"),
        ("{text} {/} {/}", "which has {/} 2 times, expected once. Leave the others out"),
        ("It was {mask}.", "which has {text} 0 times, expected once. Put it in"),
        ("{text} {text} {mask}", "which has {text} 2 times, expected once. Leave the others out"),
        ("{text} {mask} {mask}", "which has {mask} 2 times, expected once"),
        ("{text} {prompt}", "{prompt} has no virtual tokens. Expected their number"),
        ("{text} {prompt:0}", "{prompt:0} has no virtual tokens"),
    ],
)
def test_mistakes_are_named(pattern: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        _parse(pattern)
    assert words in str(raised.value) and repr(pattern) in str(raised.value)


@pytest.mark.parametrize(
    ("pattern", "prompt_length", "resolved"),
    [
        ("{text} {mask}", 5, "{prompt:5}{text} {mask}"),
        ("{prompt} {text} {mask}", 5, "{prompt:5} {text} {mask}"),
        ("{prompt}{text} {prompt} {mask}{prompt}", 8, "{prompt:3}{text} {prompt:3} {mask}{prompt:2}"),
        ("{prompt:1} {text} {prompt} {mask}", 8, "{prompt:1} {text} {prompt:7} {mask}"),
        ("{prompt:3} {text} {prompt:2}", 5, "{prompt:3} {text} {prompt:2}"),
        ("{prompt} {text}  {prompt:2} {mask}", 0, "{text} {mask}"),
    ],
)
def test_virtual_tokens_are_shared_out(pattern: str, prompt_length: int, resolved: str) -> None:
    assert resolve_pattern(pattern, prompt_length) == resolved
    counts = [part.count for part in _parse(resolved) if part.kind == "prompt"]
    assert sum(counts) == prompt_length


@pytest.mark.parametrize(
    ("pattern", "prompt_length", "words"),
    [
        ("{prompt:3} {text}", 5, "3 virtual tokens at places {prompt:K}, but prompts.prompt_length is 5. .* to 3"),
        ("{prompt:3} {text}", 2, "3 virtual tokens at places {prompt:K}, but prompts.prompt_length is 2"),
        ("{prompt:3} {prompt} {text}", 3, "and 1 places {prompt}, which need one each, .* to 4 or more"),
        ("{prompt} {text} {prompt}", 1, "with 0 virtual tokens .* and 2 places {prompt}, .* to 2 or more"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(pattern: str, prompt_length: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve_pattern(pattern, prompt_length)


def test_words_are_written_as_they_stand_at_the_mask(byte_tokenizer: Any) -> None:
    spaced = word_ids(byte_tokenizer, _parse("{text} {mask}"), ("yes", "no"), ("a", "b"))
    assert [byte_tokenizer.convert_ids_to_tokens(ids) for ids in spaced] == [["Ġ", "y", "e", "s"], ["Ġ", "n", "o"]]
    joined = word_ids(byte_tokenizer, _parse('{text} "{mask}"'), ("yes", "no"), ("a", "b"))
    assert [byte_tokenizer.convert_ids_to_tokens(ids) for ids in joined] == [["y", "e", "s"], ["n", "o"]]


def test_words_may_be_several_tokens(tokenizer: Any) -> None:
    ids = word_ids(tokenizer, _parse("{text} {mask}"), ("true", "not at all"), ("a", "b"))
    assert [tokenizer.convert_ids_to_tokens(own) for own in ids] == [["true"], ["not", "at", "all"]]


@pytest.mark.parametrize("words", [("true", "\U0001f9ff"), ("true", "\u200b")])
def test_words_that_the_tokenizer_does_not_know_are_refused(words: tuple[str, str], tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"the word of the label 'b' is .*(\[UNK\]|no token) to the tokenizer"):
        word_ids(tokenizer, _parse("{text} {mask}"), words, ("a", "b"))


def test_two_labels_with_the_same_tokens_are_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="labels 'a' and 'c' have the words 'True' and 'true', .* the same tokens"):
        word_ids(tokenizer, _parse("{text} {mask}"), ("True", "false", "true"), ("a", "b", "c"))
