#!/usr/bin/env bash
# Expected: fastcore's `docments` gives the comments of all fields of a dataclass, of the inherited ones too, for its
#           signature has them all.
# Happens:  the inherited fields are there, with their defaults and without their comments; only the class that is named
#           in `__delwrap__` is read as well.
# Seen:     fastcore 1.14.2, Python 3.11, on 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check fastcore==1.14.2
cd "$work"
cat > configs.py <<'PY'
from dataclasses import dataclass

@dataclass
class Sampling:
    steps: int = 10  # of the sampler

@dataclass
class Request(Sampling):
    prompt: str = ""  # what to make
PY
"$work/venv/bin/python" - <<'PY'
import platform
from importlib.metadata import version
from inspect import signature
from fastcore.docments import docments
from configs import Request, Sampling
print({"Python": platform.python_version(), "fastcore": version("fastcore")})
print("signature:", signature(Request))
found = dict(docments(Request, returns=False))
Request.__delwrap__ = Sampling
named = dict(docments(Request, returns=False))
print("comments:", found, "\nwith __delwrap__:", named)
assert found["prompt"] == named["prompt"] == "what to make" and named["steps"] == "of the sampler"
assert found["steps"] is None, "this has changed"
PY
