"""What this machine does besides the measurement: CPU time of others while something of ours ran."""

import os
import pathlib
import time
from dataclasses import dataclass

TICKS = os.sysconf("SC_CLK_TCK")
# Cores that others may use before a figure is called disturbed; a tick's rounding stays well below.
MAX_FOREIGN_CORES = 0.1


@dataclass(frozen=True)
class Snapshot:
    """CPU seconds since the start of the machine."""

    at: float
    busy: float
    own: float

    @staticmethod
    def take():
        busy = busy_seconds(pathlib.Path("/proc/stat").read_text())
        return Snapshot(time.monotonic(), busy, tree_seconds(running(), os.getpid()))

    def foreign_cores(self, later):
        """Cores that others had in use from here to `later`, on average; stolen time is another's too."""
        foreign = (later.busy - self.busy) - (later.own - self.own)
        return max(0.0, foreign / (later.at - self.at))


class Watch:
    """`with Watch() as watch: …` leaves in `watch.foreign_cores` what others used meanwhile."""

    def __enter__(self):
        self.start = Snapshot.take()
        self.foreign_cores = 0.0
        return self

    def __exit__(self, *_):
        self.foreign_cores = self.start.foreign_cores(Snapshot.take())


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    # Its own and of the children it has waited for.
    seconds: float


def running():
    """All processes."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            found.append(process_of(path.read_text()))
        except OSError:
            continue  # it ended meanwhile
    return found


def process_of(stat):
    """A line of /proc/PID/stat, whose second field (the name) may hold anything."""
    head, tail = stat.rsplit(")", 1)
    fields = tail.split()
    return Process(int(head.split(" ", 1)[0]), int(fields[1]), sum(map(int, fields[11:15])) / TICKS)


def busy_seconds(stat):
    """Of the first line of /proc/stat: user, nice, system and stolen; interrupts belong to nobody."""
    user, nice, system, _idle, _iowait, _irq, _softirq, steal = map(int, stat.split()[1:9])
    return (user + nice + system + steal) / TICKS


def tree_seconds(processes, root):
    """CPU seconds of `root` and all that descend from it."""
    return sum(process.seconds for process in tree(processes, root))


def tree(processes, root):
    """`root` and all that descend from it, those that are there."""
    children, found = {}, []
    for process in processes:
        children.setdefault(process.parent, []).append(process)
        if process.pid == root:
            found.append(process)
    for process in found:  # grows while it is walked
        found += children.get(process.pid, [])
    return found


def thread_nanoseconds(root):
    """CPU nanoseconds of each thread of `root` and its descendants: finer than ticks, for idle servers."""
    found = {}
    for process in tree(running(), root):
        for path in pathlib.Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
            try:
                found[path.parent.name] = int(path.read_text().split()[0])
            except OSError:
                continue  # it ended meanwhile
    return found


def nanoseconds_between(before, after):
    """Of the threads that are there at the end; one that ended takes its time with it."""
    return sum(time - before.get(thread, 0) for thread, time in after.items())


def physical_cores():
    """One a core: siblings share a line of the kernel's list."""
    allowed = os.sched_getaffinity(0)
    folder = pathlib.Path("/sys/devices/system/cpu")
    lists = [folder / f"cpu{cpu}/topology/thread_siblings_list" for cpu in allowed]
    return len({path.read_text() for path in lists if path.exists()}) or len(allowed)
