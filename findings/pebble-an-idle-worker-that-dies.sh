#!/usr/bin/env bash
# Expected: a worker of Pebble's ProcessPool that dies between two tasks is replaced, as one that dies within a task is:
#           that costs one task a ProcessExpired, and the pool goes on.
# Happens:  where no task runs, the pool is broken from then on: the next task is refused by a RuntimeError.
# Seen:     Pebble 5.2.3, Python 3.11, on 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pebble==5.2.3
cd "$work"
"$work/venv/bin/python" - <<'PY'
import multiprocessing, os, platform, signal, time
from importlib.metadata import version
from pebble import ProcessExpired, ProcessPool
print({"Python": platform.python_version(), "Pebble": version("pebble")})

def pid(): return os.getpid()
def die(): os.kill(os.getpid(), signal.SIGKILL)

def outcome(pool, function):
    "What a task gives: its value, or the name of its error."
    try: return pool.schedule(function).result(timeout=20)
    except Exception as error: return type(error).__name__

with ProcessPool(1, context=multiprocessing.get_context("fork")) as pool:
    within = [outcome(pool, pid), outcome(pool, die), outcome(pool, pid)]
with ProcessPool(1, context=multiprocessing.get_context("fork")) as pool:
    first = outcome(pool, pid)
    os.kill(first, signal.SIGKILL)
    time.sleep(2)
    between = [first, outcome(pool, pid)]
print("a worker that dies within a task: ", within)
print("a worker that dies between two:   ", between)
assert within[1] == "ProcessExpired" and isinstance(within[2], int)
assert between[1] == "RuntimeError", "this has changed"
PY
