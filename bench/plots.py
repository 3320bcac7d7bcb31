"""``python -m bench plots``: charts of the results of ``python -m bench peers``, as SVG and PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from .standings import Document, Entry, median, number

CHARTS = Path(__file__).parent / "charts"

# Okabe and Ito: told apart by all kinds of colour vision; pyqueue is darker than all else, too.
OURS, RAW, OTHERS = "#0072B2", "#E69F00", "#BBBBBB"
LOST, DOUBLED = "#D55E00", "#56B4E9"
INK = "#333333"
STYLE = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.family": "sans-serif",
    "font.size": 9,
    "grid.color": "#DDDDDD",
    "savefig.bbox": "tight",
    "svg.fonttype": "none",
    "svg.hashsalt": "pyqueue",
}


def _colour(entry: Entry) -> str:
    if entry["module"] in ("pyqueue", "workers"):
        return OURS
    return RAW if entry["module"] in ("raw", "streams", "tutorial") else OTHERS


def _axes(document: Document, title: str, entries: Sequence[Entry], name: str = "name") -> Axes:
    axes: Axes = plt.subplots(figsize=(7.5, 1.3 + 0.22 * len(entries)), layout="constrained")[1]
    server = document["facts"]["server"]
    axes.set_title(f"{title}\n{server['name']} {server['version']}", color=INK)
    axes.set_axisbelow(True)
    axes.set_yticks(range(len(entries)), [entry[name] for entry in entries])
    for label, entry in zip(axes.get_yticklabels(), entries, strict=True):
        if _colour(entry) == OURS:
            label.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    # The first is at the top.
    axes.set_ylim(len(entries) - 0.4, -0.6)
    facts = document["facts"]
    under = f"{facts['processor']}, {facts['cores']} cores, {facts['at']}, commit {facts['commit']}"
    axes.set_xlabel(under, loc="right", fontsize=6, color="#777777")
    return axes


def _bars(
    document: Document,
    title: str,
    figure: str,
    *,
    log: bool = False,
    least: bool = False,
) -> Axes | None:
    """A bar for each subject with its quartiles; the best is at the top."""
    found = [entry for entry in document["subjects"] if median(entry, figure) is not None]
    if not found:
        return None
    found.sort(key=lambda entry: entry[figure][0], reverse=not least)
    axes = _axes(document, title, found)
    middles = [entry[figure][0] for entry in found]
    spread = [
        [middle - entry[figure][1] for middle, entry in zip(middles, found, strict=True)],
        [entry[figure][2] - middle for middle, entry in zip(middles, found, strict=True)],
    ]
    colours = [_colour(entry) for entry in found]
    axes.barh(
        range(len(found)), middles, color=colours, xerr=spread, error_kw={"ecolor": INK, "lw": 0.8}
    )
    for place, entry in enumerate(found):
        text = f" {number(entry[figure][0])}"
        axes.text(entry[figure][2], place, text, va="center", fontsize=8, color=INK)
    if log:
        axes.set_xscale("log")
    axes.legend(
        handles=[
            Patch(color=OURS, label="pyqueue"),
            Patch(color=RAW, label="raw commands, tutorial"),
            Patch(color=OTHERS, label="other libraries"),
        ],
        loc="upper right" if least else "lower right",
        fontsize=8,
        framealpha=1,
    )
    return axes


def _throughput(document: Document) -> Axes | None:
    title = "Items worked off per second by one worker process (no-op work)"
    return _bars(document, title, "work", log=True)


def _cpu(document: Document) -> Axes | None:
    title = "Server CPU per item worked off, µs (less is better)"
    return _bars(document, title, "work_cpu", log=True, least=True)


def _bytes(document: Document) -> Axes | None:
    title = "Bytes of the server for a waiting item of 64 bytes (less is better)"
    return _bars(document, title, "bytes_used", least=True)


def _idle(document: Document) -> Axes | None:
    title = "Commands that one idle worker sends per second (less is better)"
    return _bars(document, title, "idle_sent", least=True)


def _points(
    document: Document,
    title: str,
    series: Sequence[tuple[str, str, Callable[[Entry], float | None]]],
    *,
    least: bool,
    name: str = "name",
) -> Axes | None:
    """Several figures of each subject on one line; the best of the first is at the top."""
    _, _, first = series[0]
    found = [entry for entry in document["subjects"] if first(entry) is not None]
    if not found:
        return None
    found.sort(key=lambda entry: first(entry) or 0, reverse=not least)
    axes = _axes(document, title, found, name)
    for place, entry in enumerate(found):
        values = [value for _, _, of in series if (value := of(entry)) is not None]
        axes.plot([min(values), max(values)], [place, place], color=_colour(entry), lw=2, zorder=1)
    for label, marker, of in series:
        points = [(x, place) for place, entry in enumerate(found) if (x := of(entry)) is not None]
        colours = [_colour(found[place]) for _, place in points]
        xs, ys = [x for x, _ in points], [place for _, place in points]
        axes.scatter(xs, ys, c=colours, marker=marker, s=34, edgecolors=INK, lw=0.6, zorder=2)
        axes.scatter([], [], c="white", marker=marker, s=34, edgecolors=INK, lw=0.6, label=label)
    axes.set_xscale("log")
    # The best are at the top: there is room below them on the right, or above on the left.
    axes.legend(loc="upper right" if least else "lower right", fontsize=8, framealpha=1)
    return axes


def _push(document: Document) -> Axes | None:
    return _points(
        document,
        "Items pushed per second",
        (
            ("one by one", "o", lambda entry: median(entry, "push")),
            ("from many tasks", "s", lambda entry: median(entry, "push_tasks")),
            ("in bulk", "D", lambda entry: median(entry, "push_bulk")),
        ),
        least=False,
        name="producer",
    )


def _latency(document: Document) -> Axes | None:
    return _points(
        document,
        "From the push to an idle worker's handler, µs (less is better)",
        (
            ("p50", "o", lambda entry: entry["wake"]["p50"] if "wake" in entry else None),
            ("p99", "D", lambda entry: entry["wake"]["p99"] if "wake" in entry else None),
        ),
        least=True,
    )


def _killed(document: Document) -> Axes | None:
    """Two bars for each subject: as it is, and with the setting that shortens its redelivery."""
    found = [entry for entry in document["subjects"] if entry["killed"]]
    if not found:
        return None
    found.sort(key=lambda entry: _worst(entry, "lost"))
    some = next(iter(found[0]["killed"].values()))
    title = f"Items lost and doubled after {some['kills']:.0f} workers were killed (SIGKILL)"
    axes = _axes(document, title, found)
    for way, place, hatch in (("default", -0.2, ""), ("tuned", 0.2, "////")):
        for row, entry in enumerate(found):
            counts = entry["killed"].get(way)
            if counts is None:
                continue
            lost, doubled = counts["lost"], counts["doubled"]
            for left, count, colour in ((0, lost, LOST), (lost, doubled, DOUBLED)):
                axes.barh(
                    row + place,
                    count,
                    0.36,
                    left=left,
                    color=colour,
                    hatch=hatch,
                    edgecolor="white",
                    lw=0,
                )
            text = f" {lost:.0f} lost, {doubled:.0f} doubled" if lost or doubled else " none"
            axes.text(lost + doubled, row + place, text, va="center", fontsize=6, color=INK)
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(0)
    plt.gcf().legend(
        handles=[
            Patch(color=LOST, label=f"lost: not worked off in {some['limit']:.0f} s"),
            Patch(color=DOUBLED, label="doubled: worked off twice"),
            Patch(facecolor="#888888", label="as it is"),
            Patch(
                facecolor="#888888", hatch="////", edgecolor="white", label="redelivery after 5 s"
            ),
        ],
        loc="outside lower center",
        ncols=4,
        fontsize=7,
        frameon=False,
    )
    return axes


def _worst(entry: Entry, what: str) -> float:
    return max(float(counts[what]) for counts in entry["killed"].values())


PLOTS: dict[str, Callable[[Document], Axes | None]] = {
    "throughput": _throughput,
    "push": _push,
    "latency": _latency,
    "bytes": _bytes,
    "cpu": _cpu,
    "idle": _idle,
    "killed": _killed,
}


def draw(document: Document, folder: Path) -> list[Path]:
    """All charts of a result for which it has figures; returns the files."""
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with plt.rc_context(STYLE):
        for name, plot in PLOTS.items():
            axes = plot(document)
            if axes is None:
                continue
            for kind in ("svg", "png"):
                path = folder / f"{name}-{document['facts']['server']['name']}.{kind}"
                # Without the date: the same figures make the same file.
                metadata = {"Date": None} if kind == "svg" else {"Software": None}
                plt.savefig(path, dpi=72, metadata=metadata)
                written.append(path)
            plt.close()
    return written
