"""The tables in docs/evidence.md, from the results that are kept in benchmarks/results.

The page itself is written by hand. What stands between `<!-- NAME -->` and `<!-- /NAME -->` is put there by
docs/generate.py, and is not typed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "evidence.md"
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT / "benchmarks"))


def filled_page() -> str:
    """Returns the page with all its parts made anew.

    Raises:
        SystemExit: the page has a part that nothing here makes, or lacks one that is made here.
    """
    text = PAGE.read_text(encoding="utf-8")
    found = set(re.findall(r"^<!-- (?!/)([a-z ]+) -->$", text, re.MULTILINE))
    if found != set(PARTS):
        raise SystemExit(f"docs/evidence.md has the parts {sorted(found)}, expected {sorted(PARTS)}.")
    for name, make in PARTS.items():
        part = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        body = "\n".join(["", *make(), ""]) + "\n"
        text = part.sub(lambda match, body=body: match[1] + body + match[2], text)  # type: ignore[misc]
    return text


def _methods() -> list[str]:
    """Scores and costs of the methods, and how much of the study has run."""
    from ptuning.reports.outcomes import read_results
    from ptuning.reports.tables import cost_tables, score_tables, search_table

    results = RESULTS / "evidence" / "results.json"
    if not results.is_file():
        return ["No cell has run yet."]
    comparison = read_results(results)
    search = search_table(comparison)
    tables = [*score_tables(comparison), *cost_tables(comparison), *([search] if search else [])]
    done, missing = len(comparison.outcomes), comparison.missing
    lines = [f"{done} of {done + missing} cells have run.", ""]
    return [*lines, *_without_last("\n".join(table.to_markdown() for table in tables).replace("\n## ", "\n### "))]


def _recipe() -> list[str]:
    """What the study of settings reached."""
    import recipe_study

    lines = recipe_study.read_lines(RESULTS / "recipe_study.jsonl")
    return recipe_study.tables(lines) if lines else ["No candidate has run yet."]


def _without_last(text: str) -> Sequence[str]:
    text = text.strip("\n")
    return [line.replace("## ", "### ", 1) if line.startswith("## ") else line for line in text.split("\n")]


PARTS: dict[str, Callable[[], Sequence[str]]] = {"methods": _methods, "settings": _recipe}
"""Name of a part -> what makes its lines."""
