"""Rows of figures as markdown: what ran, and the bars. Pure."""

import statistics

import bars
import chip
import machine


def report(header, limits, rows, wanted):
    """The whole report: `header` is its first lines, `wanted` the bars."""
    text = [*header]
    if limits:
        text += [limits_line(limits), ""]
    if disturbed := sum(row["foreign_cores"] > machine.MAX_FOREIGN_CORES for row in rows):
        text += [
            f"DISTURBED: others used more than {machine.MAX_FOREIGN_CORES} cores during {disturbed} of "
            f"{len(rows)} figures; these count in no bar.",
            "",
        ]
    online = [row for row in rows if row["part"] == "online"]
    offline = [row for row in rows if row["part"] == "offline"]
    if offline:
        text += ["Offline, medians of the runs:", "", *offline_table(offline), ""]
    if online:
        text += ["Online, medians of the runs, times in ms:", "", *online_table(online), ""]
    text += ["The bars:", "", *bars_table(wanted, rows)]
    return "\n".join(text) + "\n"


def bars_table(wanted, rows):
    """Each bar, the best peer, how far Quire is from it, and how near the machine's limit."""
    columns = ["bar", "best peer", "peer", "Quire", "ratio", "wanted", "verdict", "of the chip"]
    lines = []
    for bar in wanted:
        for found in bars.judge(bar, rows):
            share = chip.share(bar, rows)
            lines.append(
                [
                    bar.text,
                    found.peer or "-",
                    "-" if found.peer_value is None else bar.figure.text(found.peer_value),
                    "-" if found.ours is None else bar.figure.text(found.ours),
                    "-" if found.ratio is None else f"{found.ratio:.2f}×",
                    bar.wanted(),
                    found.state,
                    "-" if share is None else f"{share:.0%}",
                ]
            )
    return markdown(columns, lines, num_text=2)


def online_table(rows):
    columns = ["users", "server", "runs", "out tok/s", "TTFT mean", "TTFT p99", "ITL mean"]
    columns += ["ITL p99", "E2E mean", "peak MiB", "idle", "ready s", "failed", "others' cores"]
    lines = []
    for (users, name, scout), own in groups(rows, "users", "name", "scout"):
        m = median_row(own)
        times = [m["ttft"], m["ttft99"], m["itl"], m["itl99"], m["e2e"], m["memory"]]
        line = [users, f"{name}, scout" if scout else name, len(own), f"{m['rate']:.1f}"]
        line += ["-" if value is None else f"{value:.0f}" for value in times]
        line += ["-" if m["idle"] is None else f"{m['idle']:.2%}", f"{m['ready']:.2f}"]
        lines.append([*line, sum(row["failures"] for row in own), others(own)])
    return markdown(columns, lines, num_text=2)


def offline_table(rows):
    columns = ["file", "phase", "batch", "engine", "runs", "tok/s"]
    columns += ["of bandwidth", "of arithmetic", "others' cores"]
    lines = []
    for (file, phase, batch, name), own in groups(rows, "file", "phase", "batch", "name"):
        m = median_row(own)
        shares = [m.get("memory_share"), m.get("arithmetic_share")]
        shares = ["-" if share is None else f"{share:.0%}" for share in shares]
        lines.append([file, phase, batch, name, len(own), f"{m['rate']:.1f}", *shares, others(own)])
    return markdown(columns, lines, num_text=4)


def groups(rows, *keys):
    """Rows that agree in `keys`, in the order of their levels; scouts after all others of a level."""
    found = {}
    for row in rows:
        found.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return found.items()


def median_row(rows):
    """Figure by figure, of the rows that count when there are any."""
    rows = [row for row in rows if bars.is_valid(row)] or rows
    medians = {}
    for key in {key for row in rows for key in row}:
        values = [row[key] for row in rows if isinstance(row.get(key), int | float)]
        medians[key] = statistics.median(values) if values else None
    return medians


def others(rows):
    return f"{max(row['foreign_cores'] for row in rows):.2f}"


def one_line(row):
    """A row as it is printed when it is measured."""
    name = f"{row['name']}, scout" if row.get("scout") else row["name"]
    note = "  DISTURBED" if row["foreign_cores"] > machine.MAX_FOREIGN_CORES else ""
    note += f"  {row['failures']} FAILED" if row.get("failures") else ""
    if row["part"] == "offline":
        what = f"{row['file']} {row['phase']} {row['batch']}"
        return f"{what:22} {name:28} {row['rate']:8.1f} tok/s{note}"
    memory = f"{row['memory']:6.0f} MiB" if row["memory"] else ""
    times = f"TTFT p99 {row['ttft99']:6.0f} ms  {memory}  ready {row['ready']:.2f} s"
    return f"{row['users']:3} users{'':13} {name:28} {row['rate']:8.1f} tok/s  {times}{note}"


def limits_line(limits):
    gop_s = {name: limits[f"{name}_gop_s"] for name in ["float32", "bfloat16", "int8"]}
    peaks = ", ".join(f"{name} {value:.0f} Gop/s" for name, value in gop_s.items() if value)
    of = f"{limits['cpu']}, {limits['threads']} threads"
    return f"{of}: reads {limits['read_gb_s']:.1f} GB/s, {peaks}"


def markdown(columns, rows, num_text=1):
    """A table whose first columns are text and whose others are right-aligned."""
    lines = [columns, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]

    def line(cells):
        cells = [
            cell.ljust(width) if column < num_text else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths))
        ]
        return f"| {' | '.join(cells)} |"

    rules = [
        f":{'-' * (width - 1)}" if column < num_text else f"{'-' * (width - 1)}:"
        for column, width in enumerate(widths)
    ]
    return [line(lines[0]), line(rules), *map(line, lines[1:])]
