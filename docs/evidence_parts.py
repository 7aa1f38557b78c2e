"""The tables in docs/evidence.md, from the results that are kept in benchmarks/results.

The page itself is written by hand. What stands between `<!-- NAME -->` and `<!-- /NAME -->` is put there by
docs/generate.py, and is not typed.
"""

from __future__ import annotations

import os
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
    from ptuning.reports.outcomes import read_results
    from ptuning.reports.summaries import summaries
    from ptuning.reports.tables import shown

    results = RESULTS / "evidence" / "results.json"
    found = summaries(read_results(results).part("main")) if results.is_file() else []
    at = {(one.method, one.task): one.mean for one in found if one.results}
    tasks = [task for method, task in at if method == "p-tuning-v2" and {(m, task) for m in _COMPARED} <= at.keys()]
    if not tasks:
        return ["No set has the three methods yet."]
    majorities = {
        one.task: result.majority_score for one in found for result in one.results if result.majority_score is not None
    }
    lines = [
        "| set | fine-tuning | P-Tuning v2 | difference | linear probe | majority | counts |",
        "| --- |" + " --- |" * 6,
    ]
    gaps = []
    for task in tasks:
        prompts, tuned, probe = (at[method, task] for method in _COMPARED)
        majority = majorities.get(task)
        counts = tuned - max(probe, majority or 0.0) >= _COUNTS_FROM
        gaps += [prompts - tuned] if counts else []
        scores = f"{shown(tuned)} | {shown(prompts)} | {100 * (prompts - tuned):+.1f} | {shown(probe)}"
        scores += f" | {'-' if majority is None else shown(majority)}"
        lines.append(f"| {task} | {scores} | {'yes' if counts else 'no'} |")
    if gaps:
        sets = "1 set" if len(gaps) == 1 else f"{len(gaps)} sets"
        lines.append(f"| mean of those that count | | | {100 * sum(gaps) / len(gaps):+.1f} | | | {sets} |")
    return lines


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
    "depth and length": lambda: _study("depth_and_length"),
    "verbalizer": lambda: _study("verbalizer"),
}
"""Name of a part -> what makes its lines."""
