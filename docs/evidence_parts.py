"""The tables in docs/evidence.md, from the results that are kept in benchmarks/results.

The page itself is written by hand. What stands between `<!-- NAME -->` and `<!-- /NAME -->` is put there by
docs/generate.py, and is not typed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptuning.reports.summaries import Summary

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


def _study(name: str) -> list[str]:
    """Tables and figures of one comparison, and how much of it has run."""
    from ptuning.reports.comparison import tables
    from ptuning.reports.outcomes import read_results

    results = RESULTS / name / "results.json"
    if not results.is_file():
        return ["No cell has run yet."]
    comparison = read_results(results)
    done = sum(outcome.part != "try" for outcome in comparison.outcomes)
    count = f"{done} of {done + comparison.missing} cells have run." if comparison.missing else f"All {done} cells."
    text = "\n".join(table.to_markdown() for table in tables(comparison)).strip("\n")
    text = re.sub("^## ", "### ", text, flags=re.MULTILINE)  # under the page's own titles
    figures = [
        f"![{figure.stem.replace('_', ' ')}]({os.path.relpath(figure, PAGE.parent)})"
        for figure in sorted((RESULTS / name).glob("*.svg"))
    ]
    return [count, "", *text.split("\n"), *(line for figure in figures for line in ("", figure))]


def _gap() -> list[str]:
    """P-Tuning v2 beside fine-tuning, set by set, and on average over the sets that count."""
    at = _summaries("evidence")
    tasks = _with_all_three(at)
    if not tasks:
        return ["No set has the three methods yet."]
    lines = [
        "| set | fine-tuning | P-Tuning v2 | difference | linear probe | majority | counts |",
        "| --- |" + " --- |" * 6,
    ]
    gaps = []
    for task in tasks:
        prompts, tuned, probe = (at[method, task] for method in _COMPARED)
        counts = tuned.mean - max(probe.mean, tuned.majority or 0.0) >= _COUNTS_FROM
        gaps += [prompts.mean - tuned.mean] if counts else []
        lines.append(f"{_gap_of(prompts, tuned, probe)} {'yes' if counts else 'no'} |")
    if gaps:
        sets = "1 set" if len(gaps) == 1 else f"{len(gaps)} sets"
        lines.append(f"| mean of those that count | | | {100 * sum(gaps) / len(gaps):+.1f} | | | {sets} |")
    return lines


def _gap_apart() -> list[str]:
    """P-Tuning v2 beside fine-tuning on the sets that no average has."""
    at = _summaries("evidence_apart")
    tasks = _with_all_three(at)
    if not tasks:
        return ["No set has the three methods yet."]
    lines = ["| set | fine-tuning | P-Tuning v2 | difference | linear probe | majority |", "| --- |" + " --- |" * 5]
    return lines + [_gap_of(*(at[method, task] for method in _COMPARED)) for task in tasks]


def _summaries(name: str) -> dict[tuple[str, str], Summary]:
    """(method, task) -> what it came to in the table of a study."""
    from ptuning.reports.outcomes import read_results
    from ptuning.reports.summaries import summaries

    results = RESULTS / name / "results.json"
    found = summaries(read_results(results).part("main")) if results.is_file() else []
    return {(one.method, one.task): one for one in found if one.results}


def _with_all_three(at: Mapping[tuple[str, str], Summary]) -> list[str]:
    """Tasks for which all methods of the gap are finished."""
    return [task for method, task in at if method == _COMPARED[0] and {(m, task) for m in _COMPARED} <= at.keys()]


def _gap_of(prompts: Summary, tuned: Summary, probe: Summary) -> str:
    from ptuning.reports.tables import shown

    difference = f"{100 * (prompts.mean - tuned.mean):+.1f}"
    majority = "-" if tuned.majority is None else shown(tuned.majority)
    cells = (tuned.task, shown(tuned.mean), shown(prompts.mean), difference, shown(probe.mean), majority)
    return f"| {' | '.join(cells)} |"


_COMPARED = ("p-tuning-v2", "fine-tuning", "linear-probe")
_COUNTS_FROM = 0.05
"""A set tells methods apart where fine-tuning is so far above the linear probe, and above the most frequent answer."""


def _recipe() -> list[str]:
    """What the study of settings reached."""
    import recipe_study

    lines = recipe_study.read_lines(RESULTS / "recipe_study.jsonl")
    return recipe_study.tables(lines) if lines else ["No candidate has run yet."]


PARTS: dict[str, Callable[[], Sequence[str]]] = {
    "settings": _recipe,
    "methods": lambda: _study("evidence"),
    "gap": _gap,
    "apart": lambda: [*_gap_apart(), "", *_study("evidence_apart")],
    "depth and length": lambda: _study("depth_and_length"),
    "verbalizer": lambda: _study("verbalizer"),
}
"""Name of a part -> what makes its lines."""
