#!/usr/bin/env bash
# Expected: an mp4 whose edit list plays two seconds, pauses one (an empty edit: media time -1 in ISO 14496-12) and goes
#           on gives no pictures in the pause, as FFmpeg gives none where a track begins with an empty edit.
# Happens:  FFmpeg fills the pause with the beginning of the film, decoded anew: a second that nobody put there.
# Seen:     PyAV 18.1.0 (FFmpeg 8.1.2) and 19.0.2 (FFmpeg 9.0.2), Python 3.11 and 3.13, on 2026-11-27.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import platform, struct
from pathlib import Path
import av, numpy as np
print({"Python": platform.python_version(), "av": av.__version__, "FFmpeg": av.ffmpeg_version_info})

def film(path, edits):
    "6 s, 4 pictures a second, lighter every second, of which (from, seconds) are played in turn; from -1: a pause."
    with av.open(path, "w") as file:
        stream = file.add_stream("libx264", rate=4, width=64, height=48, pix_fmt="yuv420p", options={"bf": "0"})
        for n in range(24):
            grey = np.full((48, 64, 3), 20 + 40 * (n // 4), np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
        file.mux(stream.encode(None))
    with av.open(path) as file: ticks = file.streams[0].time_base.denominator
    data = bytearray(Path(path).read_bytes())
    clock = int.from_bytes(data[data.index(b"mvhd") + 16:][:4], "big")  # ticks a second, of the film
    new = b"".join(struct.pack(">IiI", clock * seconds, -1 if start < 0 else ticks * start, 1 << 16)
                   for start, seconds in edits)
    at = data.index(b"elst") + 8
    more = len(new) - 12 * int.from_bytes(data[at:at + 4], "big")
    data[at:at + 4 + len(new) - more] = len(edits).to_bytes(4, "big") + new
    for box in b"elst", b"edts", b"trak", b"moov":                     # which is behind the pictures, so these stay
        at = data.rindex(box, 0, at) - 4
        data[at:at + 4] = (int.from_bytes(data[at:at + 4], "big") + more).to_bytes(4, "big")
    Path(path).write_bytes(data)

def played(path):
    "Which second of the film is on screen, by the time of its first picture there."
    shown = {}
    with av.open(path) as file:
        for picture in file.decode(video=0):
            shown.setdefault(int(picture.time), round((int(picture.to_ndarray(format="rgb24")[24, 32, 0]) - 20) / 40))
    return shown

found = []
for edits in [(0, 2), (3, 2)], [(-1, 1), (3, 2)], [(0, 2), (-1, 1), (3, 2)]:
    film("film.mp4", edits)
    found.append(played("film.mp4"))
    print(f"edits (from, seconds) {edits}: at each second plays that of the film: {found[-1]}")
assert found[:2] == [{0: 0, 1: 1, 2: 3, 3: 4}, {1: 3, 2: 4}]
assert found[2] == {0: 0, 1: 1, 2: 0, 3: 3, 4: 4}, "this has changed"
PY
