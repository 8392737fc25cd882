#!/usr/bin/env bash
# Expected: the loudness range (EBU Tech 3342) of a steady tone is 0 LU, however short the tone is.
# Happens:  pyloudnorm's `loudness_range` appends 1.5 s of silence and counts the blocks that reach into it, so that a
#           short steady tone seems to fade: 2.4 LU at 4 s, 1 LU at 10 s, 0 from about 20 s on, where the few such
#           blocks lie below the 10 % that are left out. FFmpeg's filter `ebur128` says 0 for all of them.
# Seen:     pyloudnorm 0.2.0, NumPy 2.4.6, SciPy 1.17.1, PyAV 18.1.0 (for FFmpeg), Python 3.11, on 2026-11-27.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    pyloudnorm==0.2.0 numpy==2.4.6 scipy==1.17.1 av==18.1.0
"$work/venv/bin/python" - <<'PY'
import platform
from importlib.metadata import version
import av, numpy as np, pyloudnorm
print({"Python": platform.python_version()} | {name: version(name) for name in ("pyloudnorm", "numpy", "scipy", "av")})

RATE = 48000

def by_ffmpeg(tone):
    "The loudness range that FFmpeg's ebur128 arrives at."
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=RATE, format="flt", layout="mono", time_base="1/48000")
    graph.link_nodes(source, graph.add("ebur128", "metadata=1"), graph.add("abuffersink")).configure()
    for start in range(0, len(tone), 4800):
        part = tone[None, start:start + 4800].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(part, format="flt", layout="mono")
        frame.sample_rate, frame.pts = RATE, start
        graph.push(frame)
        said = graph.pull().metadata
    return float(said["lavfi.r128.LRA"])

found = {}
for seconds in (4, 10, 20):
    tone = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(seconds * RATE) / RATE)
    found[seconds] = round(float(pyloudnorm.Meter(RATE).loudness_range(tone)), 1), by_ffmpeg(tone)
    print(f"a tone of {seconds} s: pyloudnorm {found[seconds][0]} LU, FFmpeg {found[seconds][1]} LU")
assert found == {4: (2.4, 0.0), 10: (1.0, 0.0), 20: (0.0, 0.0)}, "this has changed"
PY
