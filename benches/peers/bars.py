"""The bars: by how much Quire must beat the best peer, and whether rows of figures meet them. Pure."""

import statistics
from dataclasses import dataclass

import machine

OURS = "Quire"


@dataclass(frozen=True)
class Figure:
    """A column of rows: how it is written, and which end of it is good."""

    key: str
    unit: str
    more_is_better: bool

    def text(self, value):
        if self.unit == "%":
            return f"{value:.2%}"
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
        return f"{value:.{digits}f} {self.unit}"


RATE = Figure("rate", "tok/s", True)
TTFT99 = Figure("ttft99", "ms", False)
MEMORY = Figure("memory", "MiB", False)
IDLE = Figure("idle", "%", False)
READY = Figure("ready", "s", False)


@dataclass(frozen=True)
class Bar:
    """A bar on one figure of the rows that `where` selects.

    `times` holds for our figure over the best peer's: at least that where more is better, at most otherwise.
    `at_most` holds for our figure itself. `recorded` has what peers reached on the machine of the bars.
    """

    text: str
    where: dict
    figure: Figure
    times: float | None = None
    at_most: float | None = None
    recorded: dict | None = None

    def selects(self, row):
        return all(row.get(key) == value for key, value in self.where.items())

    def wanted(self):
        if self.times is None:
            return f"≤ {self.figure.text(self.at_most)}"
        return f"{'≥' if self.figure.more_is_better else '≤'} {self.times:.3g}×"

    def is_met_by(self, ours, ratio):
        if self.times is None:
            return ours <= self.at_most
        return ratio >= self.times if self.figure.more_is_better else ratio <= self.times


@dataclass(frozen=True)
class Verdict:
    """A bar held against rows. Without a figure of ours or of a peer, `state` says what is missing."""

    bar: Bar
    state: str
    peer: str | None = None
    peer_value: float | None = None
    ours: float | None = None
    ratio: float | None = None


def online_bar(users, times, recorded):
    where = {"part": "online", "users": users}
    name = f"{users} user{'s' if users > 1 else ''}, output"
    return Bar(name, where, RATE, times=times, recorded=recorded)


def offline_bar(phase, batch, times, recorded=None, file=None):
    what = "prefill of 512 tokens" if phase == "prefill" else f"decode of {batch}"
    text = f"{what}, offline"
    where = {"part": "offline", "phase": phase, "batch": batch}
    if file:
        text, where = f"{file}: {text}", {**where, "file": file}
    return Bar(text, where, RATE, times=times, recorded=recorded)


AT_32 = {"part": "online", "users": 32}
# Of SmolLM2 135M, peers in any format. `recorded`: one machine, each bar of one day; only quotients are used.
SMALL_MODEL = [
    online_bar(1, 2.5, {"llama.cpp": 169.6, "vLLM": 64.1}),
    online_bar(4, 3.0, {"llama.cpp": 250.5, "vLLM": 218.3}),
    online_bar(16, 3.0, {"llama.cpp": 407.9, "vLLM": 497.2}),
    online_bar(32, 3.0, {"llama.cpp": 417.0, "vLLM": 650.0}),
    online_bar(64, 3.0, {"llama.cpp": 446.0, "vLLM": 805.4}),
    Bar(
        "32 users, TTFT p99",
        AT_32,
        TTFT99,
        times=0.8,
        recorded={"llama.cpp": 1978.0, "vLLM": 1264.0},
    ),
    offline_bar("prefill", 1, 3.3),
    offline_bar("decode", 32, 4.5),
    Bar("32 users, peak memory", AT_32, MEMORY, times=1 / 3),
    Bar("32 users, idle CPU of a core", AT_32, IDLE, at_most=0.005),
    Bar("32 users, ready after", AT_32, READY, at_most=0.3),
]
# Of Qwen2.5-Coder 1.5B Q4_K_M, llama.cpp on the same file.
LARGE_MODEL = [
    offline_bar("prefill", 1, 3.3),
    offline_bar("decode", 1, 1.45),
    offline_bar("decode", 32, 4.0),
]


def of_model(stem):
    """The bars of a model by its file's name; of any other, those of the same file in another type."""
    if stem.startswith("SmolLM2-135M"):
        return SMALL_MODEL
    if stem.startswith("Qwen2.5-Coder-1.5B") and stem.endswith("Q4_K_M"):
        return LARGE_MODEL
    return [offline_bar("decode", 1, 1.3), offline_bar("decode", 32, 3.0)]


def of_types(names):
    """The bars of every type, llama.cpp on the same file."""
    return [
        bar
        for name in names
        for bar in (
            offline_bar("decode", 1, 1.3, file=name),
            offline_bar("decode", 32, 3.0, file=name),
        )
    ]


def judge(bar, rows):
    """One verdict against the best peer in `rows`, and one against each peer that only the record has."""
    rows = [row for row in rows if bar.selects(row) and counts(bar, row)]
    valid = [row for row in rows if is_valid(row)]
    figures = {name: median_of(bar.figure.key, name, valid) for name in names(valid)}
    ours = figures.pop(OURS, None)
    if ours is None:
        state = (
            "not valid: disturbed" if any(row["name"] == OURS for row in rows) else "not measured"
        )
        return [Verdict(bar, state)]
    if not figures:
        is_met = bar.times is None and bar.is_met_by(ours, None)
        state = "no peer measured" if bar.times else verdict(is_met)
        return [Verdict(bar, state, ours=ours)]
    best = (max if bar.figure.more_is_better else min)(figures, key=figures.get)
    found = [against(bar, best, figures[best], ours)]
    for name, value in from_record(bar, figures).items():
        found.append(against(bar, name, value, ours))
    return found


def against(bar, peer, value, ours):
    ratio = ours / value if value else None
    is_met = bar.is_met_by(ours, ratio) if ratio is not None or bar.times is None else False
    return Verdict(bar, verdict(is_met), peer, value, ours, ratio)


def verdict(is_met):
    return "met" if is_met else "NOT MET"


def from_record(bar, figures):
    """What peers that were not run would reach: scaled by the peer that was, and only where that beats it.

    An absolute figure of another day says nothing; the quotient of two peers on one machine does.
    """
    recorded = bar.recorded or {}
    run = {peer: values for peer in recorded if (values := of_peer(peer, figures))}
    estimates = {}
    for peer in recorded:
        if peer in run or "llama.cpp" not in run or "llama.cpp" not in recorded:
            continue
        better = max if bar.figure.more_is_better else min
        here = better(run["llama.cpp"])
        value = here * recorded[peer] / recorded["llama.cpp"]
        if better(here, value) == value:
            estimates[f"{peer}, from the record"] = value
    return estimates


def of_peer(peer, figures):
    return [value for name, value in figures.items() if name.startswith(peer)]


def counts(bar, row):
    """A scout is a shorter run: it takes less memory too, and is no figure of any bar."""
    return row.get(bar.figure.key) is not None and not row.get("scout")


def median_of(key, name, rows):
    return statistics.median(row[key] for row in rows if row["name"] == name)


def is_valid(row):
    """Neither disturbed nor with failed requests."""
    return row["foreign_cores"] <= machine.MAX_FOREIGN_CORES and not row.get("failures")


def names(rows):
    return list(dict.fromkeys(row["name"] for row in rows))
