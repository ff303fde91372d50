"""The report as a page: a headline and a table."""

import time

from tasks.maintenance.spec import GIB, Item, MaintenanceReport

ROWS = 200
_PLURALS = {
    "run": "runs", "checkpoint": "checkpoints", "cache": "cached results", "partial": "results without a manifest",
    "unfinished": "remains of killed processes", "copy": "local copies",
}  # fmt: skip


def headline(report: MaintenanceReport) -> str:
    """One sentence: what went or would go."""
    if not report.items:
        return "Nothing is old enough to go." if report.dry_run else "Nothing was old enough to go."
    done = [item for item in report.items if item.removed or report.dry_run]
    verb = "would go, which would free" if report.dry_run else "went, which freed"
    sentence = f"{_folders(len(done))} {verb} {report.bytes_freed / GIB:.2f} GiB."
    if stayed := len(report.items) - len(done):
        sentence += f" {_folders(stayed)} stayed: see why in the table."
    return f"Dry run: {sentence}" if report.dry_run else sentence


def markdown(report: MaintenanceReport) -> str:
    """The headline, notes, what stays, and a table of at most 200 rows, the largest first."""
    parts = [f"# {headline(report)}", f"Workspace `{report.workspace}`, store `{report.store}`.", *report.notes]
    if report.dry_run and report.items:
        parts.append("Nothing was removed. Run it again with `dry_run: false` to remove what the table lists.")
    if report.items:
        parts.append(table(report))
    if report.kept:
        parts.append("Kept: " + ", ".join(f"{k.count} {_PLURALS[k.kind]} ({_size(k.bytes)})" for k in report.kept) + ".")
    return "\n\n".join(parts) + "\n"


def table(report: MaintenanceReport) -> str:
    """The items as a Markdown table."""
    lines = ["| folder | what | size | last used (UTC) | why | removed |", "|---|---|---:|---|---|---|"]
    ordered = sorted(report.items, key=lambda item: (-item.bytes, item.key))
    lines += [_row(item) for item in ordered[:ROWS]]
    if (more := len(ordered) - ROWS) > 0:
        lines += ["", f"And {more} more, {_size(sum(item.bytes for item in ordered[ROWS:]))} together."]
    return "\n".join(lines)


def _row(item: Item) -> str:
    moment = time.strftime("%Y-%m-%d %H:%M", time.gmtime(item.last_used))
    cells = (f"`{item.key}`", item.kind, _size(item.bytes), moment, item.reason, "yes" if item.removed else "no")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _folders(count: int) -> str:
    return "1 folder" if count == 1 else f"{count} folders"


def _size(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.2f} MiB"
