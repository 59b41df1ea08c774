"""What a run says at its end: a table to read, JSON to keep."""

import json
import os
import platform
import time


def results(rows, peaks, left_out, memory_aim_bytes):
    """All of a run as plain values."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "kernel": platform.release(),
            "cores": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        },
        "rows": [described(row) for row in rows],
        "peak_memory_bytes": peaks,
        "peak_memory_aim_bytes": memory_aim_bytes,
        "left_out": left_out,
    }


def described(row):
    return {
        "name": row.name,
        "title": row.title,
        "unit": row.unit,
        "samples": row.samples,
        "least": {s: row.best(s) for s in row.samples},
        "median": {s: row.median(s) for s in row.samples},
        "to_native": {s: row.speed(s, "native") for s in row.samples if "native" in row.samples},
        "to_best_peer": {
            s: row.speed(s, row.best_peer()) for s in row.samples if s.startswith("larder")
        },
        "aims": [
            {
                "subject": aim.subject,
                "against": aim.against,
                "aim": aim.most if aim.most is not None else aim.ratio,
                "reached": reached,
                "holds": holds,
            }
            for aim, reached, holds in row.judged()
        ],
        "notes": row.notes,
    }


def table(results):
    """The same as a table in Markdown: least figures, and speeds as ratios."""
    lines = ["| row | least (unit) | to native | to best peer | aim | reached |", "|---|---|---|---|---|---|"]
    for row in results["rows"]:
        if not row["samples"]:
            continue
        least = ", ".join(f"{s} {number(v)}" for s, v in row["least"].items())
        native = ", ".join(
            f"{s} {v:.2f}" for s, v in row["to_native"].items() if s.startswith("larder")
        )
        peer = ", ".join(f"{s} {v:.2f}" for s, v in row["to_best_peer"].items() if v)
        aims = "<br>".join(aim_words(a, row["unit"]) for a in row["aims"])
        reached = "<br>".join(
            f"{number(a['reached'])} {'holds' if a['holds'] else '**does not hold**'}"
            for a in row["aims"]
        )
        lines.append(f"| {row['title']} | {least} ({row['unit']}) | {native} | {peer} | {aims} | {reached} |")
    # A volume of a million files has an aim of its own.
    peaks = [p for name, p in results["peak_memory_bytes"].items() if not name.startswith("larder-million")]
    if peaks:
        peak = max(peaks)
        most = results["peak_memory_aim_bytes"]
        lines.append(
            f"| the daemon's memory in all other runs | {peak / 1e6:.0f} (MB) | | | at most "
            f"{most / 1e6:.0f} | {'holds' if peak <= most else '**does not hold**'} |"
        )
    for row in results["rows"]:
        lines += [f"\n{row['title']}: {note}." for note in row["notes"]]
    for words in results["left_out"]:
        lines.append(f"\nLeft out: {words}.")
    return "\n".join(lines)


def aim_words(aim, unit):
    if aim["against"] is None:
        return f"{aim['subject']}: at most {aim['aim']} {unit}"
    return f"{aim['subject']}: {number(aim['aim'])} of {aim['against']}"


def number(value):
    """Three figures that count."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def write(results, path):
    """Keeps the JSON."""
    with open(path, "w", encoding="utf-8") as out:
        json.dump(results, out, indent=1)
        out.write("\n")
