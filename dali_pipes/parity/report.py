"""The comparison as one HTML file, with its pictures inside: nothing is fetched from elsewhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from typing import Any

from dali_pipes.parity.against import Explanation
from dali_pipes.parity.compare import Verdict
from dali_pipes.parity.pictures import side_by_side
from dali_pipes.parity.tally import Difference, Worst

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child,.words{text-align:left}img{max-width:100%;image-rendering:pixelated}
.good{color:#06662f}.bad{color:#a01313}svg text{font:11px sans-serif}figure{margin:1em 0}"""


def as_html(
    verdict: Verdict, explanations: Sequence[Explanation], facts: dict[str, Any], name: Callable[[int], str]
) -> str:
    """Return the whole report.

    Args:
        verdict: of the backends.
        explanations: of the comparisons with torchvision, if any.
        facts: of the machine and its libraries.
        name: of a sample by its position, for those that are shown.
    """
    kept = _mark(verdict.kept, f'The promise of parity="{verdict.parity}" is kept', "The promise is broken")
    where = f" The first difference arises in {verdict.first_difference}." if verdict.first_difference else ""
    parts = [
        f"<h1>Parity of {html.escape(', '.join(verdict.backends))}</h1>",
        f"<p>{kept}: {verdict.samples} samples, {verdict.failed} could not be decoded.{where}</p>",
        *(_stage(verdict, i, name) for i in range(len(verdict.stages))),
        *(_explanation(each, name) for each in explanations),
        "<h2>Machine</h2><table>",
        *(f"<tr><td>{html.escape(fact)}<td class=words>{html.escape(str(value))}" for fact, value in facts.items()),
        "</table>",
    ]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Parity</title><style>{_STYLE}</style>'
    return "\n".join([head, *parts, "</html>\n"])


def _stage(verdict: Verdict, place: int, name: Callable[[int], str]) -> str:
    stage = verdict.stages[place]
    lines = [f"<h2>{stage.name}</h2>", f"<p>{html.escape(stage.note)}</p>" if stage.note else ""]
    if stage.differences:
        lines.append(_table(stage.differences))
    for difference, worst in zip(stage.differences, stage.worst):
        if worst is not None:
            lines += [_histogram(difference), _figure(difference, worst, name)]
    return "\n".join(lines)


def _explanation(explanation: Explanation, name: Callable[[int], str]) -> str:
    lines = [
        f"<h2>torchvision, {html.escape(explanation.pipeline)}</h2>",
        f"<p>{explanation.samples} samples compared, {explanation.skipped} that torchvision cannot load.</p>",
        f"<p>{html.escape(explanation.note)}</p>" if explanation.note else "",
        _table([explanation.total]),
    ]
    for cause in explanation.causes:
        lines += [f"<h3>{cause.name}</h3><p>{html.escape(cause.words)}</p>", _table([cause.difference])]
        lines.append(_histogram(cause.difference))
        if cause.worst is not None:
            lines.append(_figure(cause.difference, cause.worst, name))
    if not explanation.causes:
        lines.append("<p>No part differs.</p>")
    return "\n".join(lines)


def _table(differences: Sequence[Difference]) -> str:
    head = "<tr><th>compared<th>samples<th>differ<th>missing<th>values that differ<th>largest<th>mean"
    rows = [
        f"<tr><td>{html.escape(each.backend)} with {html.escape(each.reference)}: "
        f"{_mark(each.identical, 'identical', 'different')}<td>{each.compared}<td>{each.samples}<td>{each.missing}"
        f"<td>{each.values}<td>{each.largest:.6g}<td>{each.mean:.3g}"
        for each in differences
    ]
    return "\n".join(["<table>", head, *rows, "</table>"])


def _histogram(difference: Difference) -> str:
    """How many values lie how far apart, as bars on a logarithmic scale."""
    bars = []
    most = max((count for _, count in difference.histogram), default=1)
    for row, (edge, count) in enumerate(difference.histogram):
        length = 4 + 400 * len(bin(count)) / len(bin(most))
        y = 18 * row
        bars.append(
            f'<text x="0" y="{y + 13}">from {edge:g}</text><rect x="80" y="{y + 2}" width="{length:.0f}" height="14" '
            f'fill="#4878a8"/><text x="{90 + length:.0f}" y="{y + 13}">{count}</text>'
        )
    height = 18 * len(difference.histogram)
    return f'<svg width="600" height="{height}" role="img" aria-label="histogram">{"".join(bars)}</svg>'


def _figure(difference: Difference, worst: Worst, name: Callable[[int], str]) -> str:
    buffer = io.BytesIO()
    side_by_side(worst).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    both = f"{html.escape(difference.reference)}, {html.escape(difference.backend)}, and the difference"
    caption = f"{html.escape(name(worst.index))}: {both}"
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    )


def _mark(good: bool, yes: str, no: str) -> str:
    return f'<span class="{"good" if good else "bad"}">{html.escape(yes if good else no)}</span>'
