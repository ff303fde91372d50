"""The figures of data, training and steps: each takes contract values and returns one inline SVG, "" where there is none."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.contracts import DatasetSplits, Ledger, PreparedData, StepRecord, TokenizedDataset
from tasks.reporting import wording
from tasks.reporting.drawing import COLOURS, WIDTH, box, draw, panel, ribbon, sheet

History = Sequence[Mapping[str, Any]]
_MOST_REASONS = 8
_FLOW = 210  # px for all rows
_TOP = 34
_LEFT, _MIDDLE, _RIGHT, _NODE = 104, 340, 560, 12  # px


def of_data(data: PreparedData) -> dict[str, tuple[str, str]]:
    """The figures of prepared data as SVG, each with its finding."""
    ledger = data.ledger
    return {
        "ledger": (row_ledger(ledger, data.splits), ledger_finding(ledger, data.splits)),
        "tokens": (token_use(data.tokenized), tokens_finding(data.tokenized)),
    }


def row_ledger(ledger: Ledger, splits: DatasetSplits) -> str:
    """Every row from the input to its split, or to the reason it went."""
    total = ledger.rows_in + ledger.synthetic
    if total == 0:
        return ""
    dropped = _folded(ledger)
    scale = _FLOW / total
    kept = ledger.kept * scale
    places = _stack([rows * scale for _, rows in dropped], _TOP + kept + 30, 22)
    height = max([_TOP + _FLOW, *[top + tall for top, tall in places]]) + 18

    def paint(figure: Any) -> None:
        axes = sheet(figure)
        _paint_input(axes, ledger)
        _paint_kept(axes, ledger, splits, kept)
        _paint_dropped(axes, dropped, places, kept, scale)

    return draw("ledger", ledger_finding(ledger, splits), height, paint)


def ledger_finding(ledger: Ledger, splits: DatasetSplits) -> str:
    """The ledger in one sentence."""
    reasons = ", ".join(f"{wording.name(c.reason)} {wording.count(c.rows)}" for c in ledger.dropped if c.rows)
    made = f" and {wording.count(ledger.synthetic)} synthetic" if ledger.synthetic else ""
    gone = sum(c.rows for c in ledger.dropped)
    return (
        f"Of {wording.some(ledger.rows_in, 'row')} in{made}, {wording.count(ledger.kept)} were kept and "
        f"{wording.count(gone)} dropped{f' ({reasons})' if reasons else ''}; train has {wording.count(splits.train.rows)}, "
        f"validation {wording.count(splits.validation.rows)}, test {wording.count(splits.test.rows)}."
    )


def _folded(ledger: Ledger) -> list[tuple[str, int]]:
    """Reasons from the largest on, the smallest put together."""
    found = sorted(((wording.name(c.reason), c.rows) for c in ledger.dropped if c.rows), key=lambda pair: -pair[1])
    if len(found) <= _MOST_REASONS:
        return found
    head, tail = found[: _MOST_REASONS - 1], found[_MOST_REASONS - 1 :]
    return [*head, (f"{len(tail)} other reasons", sum(rows for _, rows in tail))]


def _stack(heights: Sequence[float], top: float, least: float) -> list[tuple[float, float]]:
    """(top, height) of boxes below one another, each with room for a line of text."""
    places = []
    for height in heights:
        seen = max(2.0, height)
        places.append((top + max(0.0, least - seen) / 2, seen))
        top += max(seen, least) + 4
    return places


def _paint_input(axes: Any, ledger: Ledger) -> None:
    box(axes, _LEFT, _TOP, _NODE, _FLOW, "soft")
    axes.text(_LEFT - 10, _TOP + 12, wording.count(ledger.rows_in), ha="right", va="center", fontsize=20, fontweight="bold")
    axes.text(_LEFT - 10, _TOP + 33, "rows in", ha="right", va="center", color=COLOURS["soft"])
    if ledger.synthetic:
        note = f"+ {wording.count(ledger.synthetic)} synthetic"
        axes.text(_LEFT - 10, _TOP + 53, note, ha="right", va="center", fontsize=12, color=COLOURS["soft"])


def _paint_kept(axes: Any, ledger: Ledger, splits: DatasetSplits, kept: float) -> None:
    if not ledger.kept:
        return
    ribbon(axes, (_LEFT + _NODE, _TOP, kept), (_MIDDLE, _TOP, kept), "blue")
    box(axes, _MIDDLE, _TOP, _NODE, kept, "blue")
    axes.text(_MIDDLE, _TOP - 14, f"{wording.count(ledger.kept)} kept", va="center", fontweight="bold", color=COLOURS["blue"])
    parts = [("Train", splits.train.rows), ("Validation", splits.validation.rows), ("Test", splits.test.rows)]
    total = max(1, sum(rows for _, rows in parts))
    heights = [kept * rows / total for _, rows in parts]
    start = float(_TOP)
    for (label, rows), height, (top, tall) in zip(parts, heights, _stack(heights, _TOP - 12, 24), strict=True):
        ribbon(axes, (_MIDDLE + _NODE, start, height), (_RIGHT, top, tall), "green")
        box(axes, _RIGHT, top, _NODE, tall, "green")
        _paint_label(axes, _RIGHT, top + tall / 2, rows, label, max(rows for _, rows in parts))
        start += height


def _paint_dropped(
    axes: Any, dropped: Sequence[tuple[str, int]], places: Sequence[tuple[float, float]], kept: float, scale: float
) -> None:
    start = _TOP + kept
    for (reason, rows), (top, tall) in zip(dropped, places, strict=True):
        ribbon(axes, (_LEFT + _NODE, start, rows * scale), (_MIDDLE, top, tall), "orange")
        box(axes, _MIDDLE, top, _NODE, tall, "orange")
        _paint_label(axes, _MIDDLE, top + tall / 2, rows, wording.cut(reason, 40), dropped[0][1])
        start += rows * scale


def _paint_label(axes: Any, left: float, middle: float, rows: int, label: str, most: int) -> None:
    """A number, right-aligned in a column as wide as `most` needs, and what it counts."""
    edge = left + _NODE + 10 + 8.6 * len(wording.count(most))
    axes.text(edge, middle, wording.count(rows), va="center", ha="right", fontweight="bold")
    axes.text(edge + 9, middle, label, va="center", color=COLOURS["soft"])


def loss_curve(history: History, best_step: int) -> str:
    """Training and validation loss by step, the kept step marked, the learning rate below."""
    trained = _points(history, "loss")
    validated = _points(history, "validation_loss")
    rates = _points(history, "learning_rate")
    if not trained and not validated:
        return ""

    def paint(figure: Any) -> None:
        axes = panel(figure, 58, 44, WIDTH - 78, 226)
        axes.grid(axis="y", linewidth=0.8)
        axes.set_axisbelow(True)
        _paint_losses(axes, trained, validated)
        _paint_best(axes, validated, best_step)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.02), ncols=3, frameon=False, borderaxespad=0)
        below = axes
        if rates:
            axes.tick_params(labelbottom=False)
            below = _paint_rates(figure, rates, axes)
        below.set_xlabel("optimizer step", fontsize=12)

    return draw("loss", loss_finding(history, best_step), 380 if rates else 316, paint)


def loss_finding(history: History, best_step: int) -> str:
    """The curve in one sentence."""
    trained, validated = _points(history, "loss"), _points(history, "validation_loss")
    words = []
    if trained:
        words.append(f"Training loss went from {trained[0][1]:.4f} to {trained[-1][1]:.4f} in {trained[-1][0]:g} steps")
    if validated:
        at_best = dict(validated).get(best_step)
        kept = f"; the weights of step {best_step} were kept" + (f" ({at_best:.4f})" if at_best is not None else "")
        words.append(f"validation loss from {validated[0][1]:.4f} to {validated[-1][1]:.4f}{kept}")
    text = ", ".join(words)
    return text[:1].upper() + text[1:] + "." if text else "No loss was recorded."


def _points(history: History, key: str) -> list[tuple[float, float]]:
    return [(float(point["step"]), float(point[key])) for point in history if point.get(key) is not None]


def _paint_losses(axes: Any, trained: Sequence[tuple[float, float]], validated: Sequence[tuple[float, float]]) -> None:
    if trained:
        marker = "o" if len(trained) < 3 else ""
        axes.plot(*zip(*trained, strict=True), color=COLOURS["grey"], linewidth=1.6, marker=marker, label="training loss")
    if validated:
        axes.plot(
            *zip(*validated, strict=True), color=COLOURS["blue"], linewidth=2.4, marker="o", markersize=5,
            label="validation loss",
        )  # fmt: skip
    axes.margins(x=0.02)


def _paint_best(axes: Any, validated: Sequence[tuple[float, float]], best_step: int) -> None:
    loss = dict(validated).get(best_step)
    if loss is None:
        return
    axes.axvline(best_step, color=COLOURS["orange"], linewidth=1.2, linestyle=(0, (3, 3)), zorder=1)
    axes.plot(
        [best_step], [loss], color=COLOURS["orange"], marker="D", markersize=9, linestyle="none", zorder=5,
        label=f"kept: step {best_step}, {loss:.4f}",
    )  # fmt: skip


def _paint_rates(figure: Any, rates: Sequence[tuple[float, float]], above: Any) -> Any:
    axes = panel(figure, 58, 284, WIDTH - 78, 44)
    axes.fill_between(*zip(*rates, strict=True), color=COLOURS["purple"], alpha=0.25, linewidth=0)
    axes.plot(*zip(*rates, strict=True), color=COLOURS["purple"], linewidth=1.2)
    axes.set_xlim(above.get_xlim())
    top = max(rate for _, rate in rates) or 1.0
    axes.set_ylim(0, top * 1.1)
    axes.set_yticks([0, top], ["0", f"{top:.0e}".replace("e-0", "e-")])
    axes.text(0.995, 0.95, "learning rate", transform=axes.transAxes, ha="right", va="top", fontsize=12, color=COLOURS["soft"])
    return axes


def token_use(tokenized: TokenizedDataset) -> str:
    """What the tokens of each split are: context, learned, or cut off."""
    parts = [(s, getattr(tokenized, s)) for s in ("train", "validation", "test")]
    rows = [
        (split, [part.tokens - part.supervised_tokens, part.supervised_tokens, part.truncated_tokens])
        for split, part in parts
        if part.tokens
    ]
    if not rows:
        return ""

    def paint(figure: Any) -> None:
        axes = sheet(figure)
        left = 0
        for colour, label in (("soft", "context, read only"), ("blue", "learned"), ("orange", "cut off, lost")):
            box(axes, 100 + left, 10, 13, 13, colour)
            axes.text(120 + left, 17, label, va="center", color=COLOURS["soft"])
            left += 170
        for at, (split, numbers) in enumerate(rows):
            _paint_tokens(axes, 40 + 46 * at, split, numbers)

    return draw("tokens", tokens_finding(tokenized), 40 + 46 * len(rows), paint)


def _paint_tokens(axes: Any, top: float, split: str, numbers: Sequence[int]) -> None:
    total, left, room = sum(numbers), 100.0, WIDTH - 110
    axes.text(8, top + 15, split, va="center")
    for number, colour in zip(numbers, ("soft", "blue", "orange"), strict=True):
        width = room * number / total
        if not number:
            continue
        box(axes, left, top, max(width, 1.5), 30, colour)
        text = f"{wording.count(number)}  {wording.percent(number / total)}"
        if width > 8 * len(text):
            axes.text(left + 10, top + 15, text, va="center", color=COLOURS["on"], fontsize=12)
        left += width


def tokens_finding(tokenized: TokenizedDataset) -> str:
    """The tokens in one sentence."""
    parts = (tokenized.train, tokenized.validation, tokenized.test)
    tokens, learned = sum(part.tokens for part in parts), sum(part.supervised_tokens for part in parts)
    lost, rows = sum(part.truncated_tokens for part in parts), sum(part.truncated_rows for part in parts)
    cut = f"{wording.some(lost, 'token')} of {wording.some(rows, 'row')} were cut off" if lost else "nothing was cut off"
    share = wording.percent(learned / tokens) if tokens else "0%"
    return f"Of {wording.some(tokens, 'token')}, {wording.count(learned)} ({share}) are learned and the rest is context; {cut}."


def step_seconds(steps: Sequence[StepRecord]) -> str:
    """Where the time went, step by step; hatched where the result came from the cache."""
    if not steps:
        return ""
    longest = max(step.seconds for step in steps) or 1.0

    def paint(figure: Any) -> None:
        axes = sheet(figure)
        for at, record in enumerate(steps):
            _paint_step(axes, 6 + 30 * at, record, longest)

    return draw("steps", steps_finding(steps), 12 + 30 * len(steps), paint)


def _paint_step(axes: Any, top: float, record: StepRecord, longest: float) -> None:
    from matplotlib.patches import Rectangle

    width = max(14.0 if record.cached else 2.0, 400 * record.seconds / longest)
    patch = Rectangle((170, top), width, 20, facecolor=COLOURS["blue"], linewidth=0)
    if record.cached:
        patch = Rectangle((170, top), width, 20, facecolor="none", edgecolor=COLOURS["grey"], hatch="////", linewidth=1.2)
    axes.add_patch(patch)
    axes.text(160, top + 10, wording.cut(record.step, 22), va="center", ha="right")
    text = wording.duration(record.seconds) + (", cached" if record.cached else "")
    axes.text(170 + width + 10, top + 10, text, va="center", color=COLOURS["soft"])


def steps_finding(steps: Sequence[StepRecord]) -> str:
    """Where the time went in one sentence."""
    if not steps:
        return "No step was recorded."
    total, cached = sum(step.seconds for step in steps), sum(step.cached for step in steps)
    longest = max(steps, key=lambda step: step.seconds)
    return (
        f"{wording.some(len(steps), 'step')} took {wording.duration(total)}, {cached} of them from the cache; the longest "
        f"was {longest.step} with {wording.duration(longest.seconds)}."
    )
