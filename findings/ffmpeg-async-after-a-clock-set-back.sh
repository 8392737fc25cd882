#!/usr/bin/env bash
# Expected: FFmpeg's filter `aresample=async=1`, made for timestamps with gaps and overlaps, keeps a recording whose
#           clock is set back once: at the step a little is trimmed, or a new count begins, and the sound goes on.
# Happens:  it takes all that comes after the step for an overlap. It drops the sound, without a message, until the
#           clock has caught up: after a step of 10 s the next 10 s, after an hour mostly the rest of the file. Without
#           `async` the same filter lets everything through.
# Seen:     PyAV 18.1.0 (FFmpeg 8.1.2) and 19.0.2 (FFmpeg 9.0.2), Python 3.11 and 3.13, on 2026-11-27.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import platform
from fractions import Fraction
import av, numpy as np
print({"Python": platform.python_version(), "av": av.__version__, "FFmpeg": av.ffmpeg_version_info})

RATE = 16000

def filtered(back, options):
    "8 s of sound, a level for each second, through aresample; after 2 s of them the clock is set back by some seconds."
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=RATE, format="flt", layout="mono", time_base=f"1/{RATE}")
    graph.link_nodes(source, graph.add("aresample", options), graph.add("abuffersink")).configure()
    made = []
    for n in range(80):
        frame = av.AudioFrame.from_ndarray(np.full((1, 1600), 1 + n // 10, np.float32), format="flt", layout="mono")
        frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
        frame.pts = 1600 * n + RATE * (100 - (back if n >= 20 else 0))
        graph.push(frame)
        try:
            while True: made.append(graph.pull().to_ndarray())
        except av.BlockingIOError: pass
    sound = np.concatenate(made, 1)[0]
    return [int(level) for level in sound[RATE // 2::RATE].round()]

found = {}
for back in 0, 2, 10:
    for options in "async=0", "async=1":
        found[back, options] = filtered(back, options)
        print(f"clock set back by {back} s, aresample={options}: the seconds {found[back, options]} are heard")
whole = [1, 2, 3, 4, 5, 6, 7, 8]
assert all(found[back, "async=0"] == whole for back in (0, 2, 10)) and found[0, "async=1"] == whole
assert found[2, "async=1"] == [1, 2, 5, 6, 7, 8] and found[10, "async=1"] == [1, 2], "this has changed"
PY
