#!/usr/bin/env bash
# Expected: pyloudnorm reads the calibration sine of ITU-R BS.1770, 997 Hz at full scale in one channel, as -3.01 LUFS.
# Happens:  the default filter class "K-weighting" reads about -3.05; the class "DeMan" reads -3.01.
# Seen:     pyloudnorm 0.2.0, NumPy 2.4, Python 3.11, on 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyloudnorm==0.2.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import platform
from importlib.metadata import version
import numpy as np
import pyloudnorm
print({"Python": platform.python_version(), **{name: version(name) for name in ("pyloudnorm", "numpy")}})
sine = np.sin(2 * np.pi * 997 * np.arange(48_000 * 10) / 48_000)
found = {kind: pyloudnorm.Meter(48_000, filter_class=kind).integrated_loudness(sine) for kind in ("K-weighting", "DeMan")}
print(found)
assert abs(found["DeMan"] + 3.01) < 0.01
assert abs(found["K-weighting"] + 3.05) < 0.01, "this has changed"
PY
