#!/usr/bin/env bash
# Expected: a function whose annotation is a string, because the module it names is imported late, is documented with the
#           string, as `inspect.signature` and `help` show it.
# Happens:  nbdev's `show_doc` (fastcore's renderer) evaluates annotations and catches ValueError and TypeError only. A
#           module that is not imported where the function stands ends the page with NameError.
# Seen:     nbdev 2.4.14, fastcore 1.14.5, Python 3.11, on 2026-11-27.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    nbdev==2.4.14 fastcore==1.14.5 execnb==0.1.18 fastgit==0.0.6 ghapi==1.1.1 
cat > "$work/late.py" <<'PY'
def price(
    amount: "decimal.Decimal",  # in euros
):
    "A module that this file imports nowhere is named in an annotation."
PY
cd "$work"
"$work/venv/bin/python" - <<'PY'
import inspect, platform
from importlib.metadata import version
from late import price
from nbdev.showdoc import show_doc
print({"Python": platform.python_version()} | {name: version(name) for name in ("nbdev", "fastcore")})
print("inspect:", inspect.signature(price))
try: show_doc(price)
except NameError as error: print("show_doc: NameError,", error)
else: raise SystemExit("this has changed")
PY
