"""Two texts of a pair told apart, where a tokenizer puts nothing between them.

Encoders' tokenizers put a special token there. Those of some decoders join the two, and the last word of a question
would run into the first of its context. Such get a line break, as a text that a decoder has read would have (or the
end token, where a tokenizer drops line breaks or does not know them).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tokenizers import processors

_BREAK = "\n"
_NAME = "<between texts>"


def part_pairs(tokenizer: Any) -> None:
    """Makes a tokenizer put a line break between the texts of a pair, if it puts nothing there.

    Args:
        tokenizer: of transformers. One without a fast version is left as it is.
    """
    if not getattr(tokenizer, "is_fast", False):
        return
    parts = tokenizer("a", "a").sequence_ids(0)
    if 0 not in parts or 1 not in parts or None in parts[parts.index(0) : parts.index(1)]:
        return
    inner = tokenizer.backend_tokenizer
    ids = inner.encode(_BREAK, add_special_tokens=False).ids
    if not ids or tokenizer.unk_token_id in ids:  # it drops white space, or has no token for a line break
        ids = [number for number in (tokenizer.sep_token_id, tokenizer.eos_token_id) if number is not None][:1]
    if not ids:
        return
    token = {"id": _NAME, "ids": ids, "tokens": [inner.id_to_token(number) for number in ids]}
    inner.post_processor = _with_token_between(inner.post_processor, token)


def _with_token_between(processor: Any, token: dict[str, Any]) -> Any:
    """What a tokenizer does behind its model, with a token between the texts of a pair."""
    if processor is None:
        return _template({"single": [_text("A")], "pair": [_text("A"), _text("B")], "special_tokens": {}}, token)
    state = json.loads(processor.__getstate__())
    if state["type"] == "TemplateProcessing":
        return _template(state, token)
    others = state["processors"] if state["type"] == "Sequence" else [state]
    made = [_made(one) for one in others]
    for place, one in enumerate(others):
        if one["type"] == "TemplateProcessing":
            made[place] = _template(one, token)
            return processors.Sequence(made)
    return processors.Sequence([*made, _with_token_between(None, token)])


def _template(state: dict[str, Any], token: dict[str, Any]) -> Any:
    pair = list(state["pair"])
    second = next(place for place, piece in enumerate(pair) if piece.get("Sequence", {}).get("id") == "B")
    pair.insert(second, {"SpecialToken": {"id": _NAME, "type_id": 0}})
    tokens = {**state["special_tokens"], _NAME: token}
    return _made({**state, "type": "TemplateProcessing", "pair": pair, "special_tokens": tokens})


def _text(name: str) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": 0}}


def _made(state: dict[str, Any]) -> Any:
    """A post-processor from its JSON."""
    empty: dict[str, Callable[[], Any]] = {
        "TemplateProcessing": lambda: processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[]),
        "ByteLevel": processors.ByteLevel,
    }
    made = empty[state["type"]]()
    made.__setstate__(json.dumps(state).encode())
    return made
