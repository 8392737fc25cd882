#!/usr/bin/env bash
# Expected: a Python function behind `torch.library.custom_op`, called in eager mode without gradients, costs some
#           microseconds more than the function itself.
# Happens:  the first call imports the whole compiler (torch._dynamo, and with it sympy): 500 modules and about a second,
#           half of what `import torch` takes, in a program that compiles nothing. The function itself needs none of it.
# Seen:     torch 2.13.0 and 2.11.0, Python 3.11, on 2026-11-27.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$work/seen.py" <<'PY'
import platform
import sys
import time
import torch

def double(x: torch.Tensor) -> torch.Tensor: return x * 2

wrapped = torch.library.custom_op("finding::double", double, mutates_args=())
print({"Python": platform.python_version(), "torch": torch.__version__})

def look(name, function):
    "Calls it, and counts what was imported meanwhile."
    before, start = len(sys.modules), time.perf_counter()
    with torch.no_grad(): function(torch.ones(3))
    print(f"{name}: {1000 * (time.perf_counter() - start):.2f} ms, {len(sys.modules) - before} modules imported")
    return "torch._dynamo" in sys.modules

assert not look("the function", double)
assert look("the operator, first call", wrapped), "this has changed"
look("the operator, second call", wrapped)
PY
"$work/venv/bin/python" "$work/seen.py"
