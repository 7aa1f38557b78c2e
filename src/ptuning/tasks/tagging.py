"""What the kinds that tag words share: words to pieces and windows of them, the loss, and tags back from logits.

The first piece of a word carries its tag; the others are not asked. With a backbone whose tokens see only what is to
their left it is the last piece, which alone sees the whole word. A window is some words of a sentence between the
special tokens that the tokenizer puts around all of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ptuning.data.batching import IGNORED_LABEL, Batch, Example
from ptuning.data.rows import Row
from ptuning.data.spans import bio_spans, iob1_to_bio, is_bio_tag
from ptuning.errors import ConfigError, DataError
from ptuning.tasks.encoding import pieces
from ptuning.tasks.kind import check_label_names, in_full_precision, labels_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pieces:
    """A tokenized sentence.

    Attributes:
        ids: token ids of the whole sentence, special tokens around it included.
        types: token types; None for tokenizers without.
        words: for each word the positions of its pieces; empty for a word without any (invisible characters).
        before: positions of the special tokens in front of the words.
        after: positions of those behind them.
    """

    ids: list[int]
    types: list[int] | None
    words: list[list[int]]
    before: list[int]
    after: list[int]


def check_tag_names(names: Sequence[str]) -> None:
    """Check that label names are BIO tags, `O` among them.

    Raises:
        ConfigError: they are not.
    """
    check_label_names(names, "tags")
    wrong = [name for name in names if not is_bio_tag(name)]
    if wrong or "O" not in names:
        raise ConfigError(
            f"label_names are {', '.join(names)}, expected BIO tags: O, B-TYPE and I-TYPE. "
            f"{'Rename ' + ', '.join(wrong) if wrong else 'Add O'} in data.labels."
        )


def tag_indices(row: Row, index: int, names: Sequence[str]) -> list[int]:
    """Return the place among `names` of each tag of a row.

    Args:
        row: with `tokens` and `tags`.
        index: its number, for messages.
        names: the tags.

    Raises:
        DataError: there is not one tag a token, or one is not among the names.
    """
    if "tokens" not in row or len(row["tokens"]) != len(row["tags"]):
        raise DataError(
            f"row {index + 1} has {len(row['tags'])} tags for {len(row.get('tokens', ()))} tokens, expected one "
            "tag a token. Correct the row (raw text cannot have tags)."
        )
    for word, tag in zip(row["tokens"], row["tags"], strict=True):
        if tag not in names:
            raise DataError(
                f"row {index + 1} has the tag {tag!r} at {word!r}, expected one of {', '.join(names)}. "
                "Correct the row, or give all tags in data.labels."
            )
    return [names.index(tag) for tag in row["tags"]]


def room_for_words(tokenizer: Any, max_length: int) -> int:
    """Return how many tokens of a sequence are left for words beside the special ones.

    Raises:
        ConfigError: none.
    """
    special = int(tokenizer.num_special_tokens_to_add(pair=False))
    if max_length <= special:
        raise ConfigError(
            f"max_length is {max_length}, but the tokenizer adds {special} special tokens, so at "
            f"least {special + 1} are needed. Raise data.max_length."
        )
    return max_length - special


def tokenize_words(tokenizer: Any, sentences: Sequence[Sequence[str]]) -> Iterator[Pieces]:
    """Yield the pieces of each sentence, uncut.

    Args:
        tokenizer: a fast tokenizer of transformers.
        sentences: words.
    """
    needs_space = _needs_space(tokenizer)
    for _, some in pieces(sentences):
        encoded = tokenizer(
            [[_spaced(word) for word in words] if needs_space else list(words) for words in some],
            is_split_into_words=True,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            verbose=False,
        )
        for place, words in enumerate(some):
            positions: list[list[int]] = [[] for _ in words]
            inside: list[int] = []
            for position, word in enumerate(encoded.word_ids(place)):
                if word is not None:
                    positions[word].append(position)
                    inside.append(position)
            ids = encoded["input_ids"][place]
            first, last = (inside[0], inside[-1]) if inside else (len(ids), len(ids))
            yield Pieces(
                ids=ids,
                types=encoded["token_type_ids"][place] if "token_type_ids" in encoded else None,
                words=positions,
                before=list(range(first)),
                after=list(range(last + 1, len(ids))),
            )


def _needs_space(tokenizer: Any) -> bool:
    """Tell whether words need the space that marks the beginning of a word in a text, as byte-level tokenizers have it.

    `add_prefix_space=True` would do the same, but not every tokenizer has it, nor passes it on.
    """

    def ids(text: str | list[str]) -> list[int]:
        is_split = isinstance(text, list)
        encoded = tokenizer(text, is_split_into_words=is_split, add_special_tokens=False, verbose=False)
        return list(encoded["input_ids"])

    word, spaced = ids(["a"]), ids([" a"])
    return word != spaced and ids("a a") == word + spaced


def _spaced(word: str) -> str:
    return word if word[:1].isspace() else f" {word}"


def asked_piece(positions: Sequence[int], direction: str | None) -> int:
    """Return which of the pieces of a word carries its tag.

    Args:
        positions: of those pieces that the window has, at least one.
        direction: `causal` where a piece sees only what is to its left; None otherwise.
    """
    return positions[-1] if direction == "causal" else positions[0]


def window_example(
    sentence: Pieces,
    positions: Sequence[int],
    asked: Mapping[int, int],
    tags: Sequence[int] | None,
    row: int,
) -> Example:
    """Make an example of a part of a sentence.

    Args:
        sentence: of `tokenize_words`.
        positions: which tokens, in order, without the special ones around them.
        asked: position -> the word (its number in the row) whose tag is asked there.
        tags: label index of each word of the row; None without labels.
        row: index of the row.
    """
    own = [*sentence.before, *positions, *sentence.after]
    label: list[int] | None = None
    if tags is not None:
        label = [tags[asked[position]] if position in asked else IGNORED_LABEL for position in own]
    return Example(
        sequences=([sentence.ids[position] for position in own],),
        token_types=None if sentence.types is None else ([sentence.types[position] for position in own],),
        label=label,
        row=row,
        offsets=[(asked[position], 0) if position in asked else None for position in own],
    )


def warn_of_cut_words(lost_words: int, cut_rows: int, num_rows: int, max_length: int) -> None:
    """Say how many words training does not see, if any."""
    if cut_rows:
        logger.warning(
            "%d words in %d of %d rows lie beyond max_length %d and are not learned from. Raise data.max_length.",
            lost_words,
            cut_rows,
            num_rows,
            max_length,
        )


def tagging_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Return the mean cross entropy over the words of a batch, a scalar.

    Args:
        logits: (batch_size, seq_len, num_tags).
        batch: with labels.
    """
    labels = labels_of(batch)
    total = F.cross_entropy(
        in_full_precision(logits).flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
    )
    return total / (labels != IGNORED_LABEL).sum().clamp(min=1)  # 0, not NaN, where no word is asked


def num_asked(examples: Sequence[Example]) -> int:
    """Return how many words of labelled examples are asked for their tag: what `tagging_loss` is the mean over."""
    labels = [example.label for example in examples if isinstance(example.label, list)]
    return sum(index != IGNORED_LABEL for label in labels for index in label)


def predicted_tags(
    logits: Sequence[Tensor], examples: Sequence[Example], num_words: Sequence[int], names: Sequence[str]
) -> list[list[str]]:
    """Return the likeliest tag of every word, a list a row, always valid BIO.

    An `I-X` that follows neither `B-X` nor `I-X` is read as `B-X`. A word without any piece is `O`.

    Args:
        logits: (seq_len, num_tags) of each example.
        examples: as many, in which every word with pieces is asked once.
        num_words: of each row.
        names: the tags.
    """
    tags = [["O"] * count for count in num_words]
    for outputs, example in zip(logits, examples, strict=True):
        assert example.offsets is not None  # `window_example` made it
        best = outputs.argmax(-1).tolist()  # (seq_len,)
        for index, place in zip(best, example.offsets, strict=True):
            if place is not None:
                tags[example.row][place[0]] = names[index]
    return [iob1_to_bio(own) for own in tags]


def word_spans(words: Sequence[str], tags: Sequence[str]) -> list[dict[str, Any]]:
    """Return {"type", "text", "start", "end"} of the spans that tags spell: words, counted from 0, end exclusive."""
    return [
        {"type": kind, "text": " ".join(words[start:end]), "start": start, "end": end}
        for kind, start, end in bio_spans(tags)
    ]
