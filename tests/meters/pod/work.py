"""A program that uses a known CPU time and memory: the truth that sources are held against.

It says when it is ready, works when it gets a line, tells its own rusage of the work (short-lived
children included, which is what getrusage(2) counts of those waited for), and ends with its input.
Runs with the standard library alone, also in other namespaces and machines.
"""

import json
import os
import resource
import sys

BALLAST_BYTES = 48 << 20
CHILD_S = 0.05


def used_s() -> float:
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def burn(cpu_s: float) -> None:
    """Use CPU time in this process."""
    end_s = used_s() + cpu_s
    while used_s() < end_s:
        sum(range(2000))


def burn_in_child(cpu_s: float) -> None:
    """Use CPU time in a child that ends at once."""
    child = os.fork()
    if child == 0:
        burn(cpu_s)
        os._exit(0)
    os.waitpid(child, 0)


def work(cpu_s: float) -> None:
    """Half in this process, half in short-lived children."""
    end_s = used_s() + cpu_s
    burn(cpu_s / 2)
    while used_s() < end_s:
        burn_in_child(CHILD_S)


def main() -> None:
    cpu_s = float(sys.argv[1])
    ballast = bytearray(os.urandom(1) * BALLAST_BYTES)
    before_s = used_s()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if not sys.stdin.readline():
        return
    work(cpu_s)
    told = {"cpu_s": used_s() - before_s, "bytes": len(ballast)}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
