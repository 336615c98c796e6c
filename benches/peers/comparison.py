"""What is run against what, in which order: rounds of Quire and peers in turn, and which formats are worth a round."""

import sys
import time

import bars
import llama_cpp
import machine
import mistral_rs
import offline
import servers
import vllm
from programs import Failed

# A scout's answers are this long, and each user asks once: enough to tell which format is the fastest.
SCOUT_TOKENS = 64
# Offline, a format may be so much slower than another one and still be the faster server.
NEARLY = 0.85


class Session:
    """One run of the program: its flags, what it keeps, and how far it is."""

    def __init__(self, args, record):
        self.args, self.record = args, record
        self.failures = []
        self.start = time.monotonic()

    def measure(self, identity, take):
        """Keeps the rows of `take`, unless they are there; again when others disturbed them."""
        if self.record.has(**identity):
            return
        for _ in range(self.args.attempts):
            elapsed = int(time.monotonic() - self.start)
            what = described(identity)
            note(f"[{elapsed // 60}:{elapsed % 60:02}] {what} ...")
            try:
                rows, limits = take()
            except Failed as failure:
                note(f"{failure}")
                if identity["name"] == bars.OURS:
                    self.failures.append(f"{what}: {failure}")
                return
            self.record.add([{**identity, **row} for row in rows], limits)
            if all(row["foreign_cores"] <= machine.MAX_FOREIGN_CORES for row in rows):
                break


def described(identity):
    """`llama.cpp Q4_0, 32 users, round 1`."""
    users, file = identity.get("users"), identity.get("file")
    level = f"{file}, offline" if file else f"{users} user{'s' if users > 1 else ''}"
    run = "scout" if identity.get("scout") else f"round {identity['round']}"
    return f"{identity['name']}, {level}, {run}"


def turns(rounds, peers):
    """A B A B …: names with the number of their turn. With one round, A B A."""
    order = []
    for number in range(1, rounds + 1):
        order += [(name, number) for name in [bars.OURS, *peers]]
    if rounds == 1 and peers:
        order.append((bars.OURS, 2))
    return order


# Offline


def compare_offline(session, files):
    """Quire on the model's own file, and llama.cpp on each of `files` (by name)."""
    args = session.args
    for name, number in turns(args.rounds, files):
        path = args.model if name == bars.OURS else files[name]
        file = args.own_format if name == bars.OURS else name.removeprefix("llama.cpp ")
        measure_offline(session, name, file, path, number)


def compare_types(session):
    """Both engines on the same file, of one type after the other."""
    args = session.args
    for kind in args.types:
        if all(session.record.has(name=name, file=kind) for name in (bars.OURS, "llama.cpp")):
            continue
        is_own = kind == args.own_format
        note(f"{kind}: {'the model itself' if is_own else 'quantizing ...'}")
        try:
            path = args.model if is_own else llama_cpp.of_type(args.model, kind)
        except Failed as failure:
            note(f"{failure}")
            continue
        for name, number in turns(args.rounds, ["llama.cpp"]):
            measure_offline(session, name, kind, path, number)
        if not is_own and not args.keep_files:
            path.unlink()


def measure_offline(session, name, file, path, number):
    args = session.args
    identity = {"part": "offline", "name": name, "file": file, "round": number}
    if name == bars.OURS:
        take = lambda: offline.quire(args.binaries, path, args.threads, args.shape)  # noqa: E731
    else:
        take = lambda: (offline.llama(path, args.threads, args.shape), None)  # noqa: E731
    session.measure(identity, take)


# Online


def compare_online(session, files):
    """Quire on the model's own file, and the peers worth it, at each number of users."""
    for users in session.args.users:
        formats = worth_a_round(session, files, users)
        contestants = contestants_at(session.args, files, users)
        others = [name for name in contestants if name not in files and name != bars.OURS]
        for name, number in turns(session.args.rounds, [*formats, *others]):
            measure_online(session, contestants[name], users, number)


def contestants_at(args, files, users):
    """Every server by its name, with room for this many users."""
    found = {bars.OURS: servers.quire(args.binaries, args.model, args.threads)}
    for name, path in files.items():
        found[name] = servers.llama_server(name, path, args.threads, users)
    if args.vllm:
        found["vLLM bf16"] = vllm.contestant(args.vllm, args.threads, users)
    if args.mistral_rs and users == 1:
        server = mistral_rs.contestant(args.model)
        found[server.name] = server
    for name, command in args.others:
        found[name] = servers.Contestant(name, command)
    return found


def worth_a_round(session, files, users):
    """The formats of llama.cpp that are best in a figure of a bar at this level; in a hurry, in output alone."""
    rows, is_quick = session.record.rows, session.args.quick
    formats = near_the_fastest(rows, files, users) if is_quick else list(files)
    if len(formats) == 1:
        return formats
    contestants = contestants_at(session.args, files, users)
    for name in formats:
        measure_online(session, contestants[name], users, 1, scout=True)
    scouts = [row for row in session.record.rows if row.get("scout") and row["users"] == users]
    scouts = [row for row in scouts if not row["failures"]]
    figures = {bars.RATE}
    if not is_quick:
        wanted = [bar for bar in session.record.wanted if bar.where.get("users") == users]
        figures |= {bar.figure for bar in wanted if bar.figure in (bars.TTFT99, bars.MEMORY)}
    return best_of(scouts, figures) or formats


def best_of(rows, figures):
    """Names of the rows that are best in one of the figures."""
    best = {}
    for figure in sorted(figures, key=lambda figure: figure.key):
        pick = max if figure.more_is_better else min
        if rows:
            best[pick(rows, key=lambda row: row[figure.key])["name"]] = True
    return list(best)


def near_the_fastest(rows, names, users):
    """The files that decode nearly as fast as the fastest, offline, at the batch nearest to `users`.

    All of `names` when nothing was measured.
    """
    decodes = [row for row in rows if row.get("phase") == "decode" and row["name"] in names]
    if not decodes:
        return list(names)
    batch = min({row["batch"] for row in decodes}, key=lambda batch: abs(batch - users))
    rates = {row["name"]: row["rate"] for row in decodes if row["batch"] == batch}
    return [name for name in rates if rates[name] >= NEARLY * max(rates.values())]


def measure_online(session, contestant, users, number, scout=False):
    args = session.args
    identity = {"part": "online", "name": contestant.name, "users": users, "round": number}
    identity["scout"] = scout
    load = servers.Load(
        users,
        requests=max(users, 2) if scout else args.requests,
        max_tokens=SCOUT_TOKENS if scout else 128,
        prompt_words=args.prompt_words,
        idle=is_idle_wanted(session.record.wanted, users) and not scout,
    )
    session.measure(identity, lambda: ([servers.measure(contestant, args.binaries, load)], None))


def is_idle_wanted(wanted, users):
    return any(bar.figure is bars.IDLE and bar.where["users"] == users for bar in wanted)


def note(text):
    print(text, file=sys.stderr, flush=True)
