"""The table of what faults did, as a page of the docs."""

import os
from typing import NamedTuple

HEAD = """# Faults, and what the machine did

Each row is one fault put into running processes: `composed` is all nodes in one process, `separate` a process each. A
consumer beside them obeys as a twist_mux lock and a conveyor drive do: it may move while the last `stop` said False and
is younger than {lock_timeout} s. It asks for speed 50 times a second, all the time.

- **held after**: from the fault to the machine being held; **bound**: what the parameters allow for that, with nothing
  added for a busy machine.
- **commands to move**: `stop` False, `conveyor/run` True and `cmd_vel_out` other than zero that were sent from then on
  until the fault was gone.

| fault | mode | held by | held after | bound | commands to move | released by |
|---|---|---|---|---|---|---|
"""
FOOT = """
Made on {cpus} virtual CPUs by

    scripts/test test/faults --faults-table docs/faults.md

The wall clock is stepped for the processes under test only, by a preloaded library; a full disk is a limit of 0 bytes
for files of the process. Processes talk by UDP (docs/dds.md says why). `cmd_vel_in`, the pictures and the broker's
connection go on as before in every row.
A decision that is paused between its look at the clock and the message it was about to send sends that message when it
wakes up: at most one heartbeat, in one waking of many (`commands to move` of its SIGSTOP). It stops with the next one.
"""


class Row(NamedTuple):
    """What one fault did.

    Attributes:
        fault: What was done.
        mode: composed or separate.
        held_by: What held the machine.
        held_after: s; None where it was not held.
        bound: s; None where there is none.
        moves: Commands to move given meanwhile.
        released_by: What let it go on.

    """

    fault: str
    mode: str
    held_by: str
    held_after: float | None
    bound: float | None
    moves: int
    released_by: str

    def line(self):
        """The row in Markdown."""
        held_after, bound = (f'{s:.2f} s' if s is not None else '–' for s in (self.held_after, self.bound))
        cells = (self.fault, self.mode, self.held_by, held_after, bound, str(self.moves), self.released_by)
        return f'| {" | ".join(cells)} |'


def page(rows, lock_timeout):
    """Lay the rows out, a fault's two modes below each other."""
    order = list(dict.fromkeys(row.fault for row in rows))
    lines = [row.line() for row in sorted(rows, key=lambda row: (order.index(row.fault), row.mode))]
    return HEAD.format(lock_timeout=lock_timeout) + '\n'.join(lines) + '\n' + FOOT.format(cpus=os.cpu_count())
