#!/usr/bin/env bash
# Expected: after `container.seek(t)`, whose default is `backward=True` ("if there is not a (key)frame at the given
#           offset, look backwards for it"), decoding begins with the last key frame at or before t.
# Happens:  so it is in mp4 and mkv. In an MPEG transport stream, which has no index, the seek goes to a packet near t,
#           and decoding begins with the first key frame *after* t: here up to 8 s late, and behind the last key frame
#           there is no picture at all and no error.
# Seen:     PyAV 18.1.0 (FFmpeg 8.1.2) and 19.0.2 (FFmpeg 9.0.2), Python 3.11 and 3.13, on 2026-11-27.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import platform
import av, numpy as np
print({"Python": platform.python_version(), "av": av.__version__, "FFmpeg": av.ffmpeg_version_info})

def film(path):
    "30 s of pictures, 25 a second, with a key frame every 10 s."
    with av.open(path, "w") as file:
        options = {"g": "250", "sc_threshold": "0"}
        stream = file.add_stream("libx264", rate=25, width=64, height=48, pix_fmt="yuv420p", options=options)
        for n in range(750):
            picture = np.full((48, 64, 3), n // 4, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode(None))

found = {}
for path in "film.mp4", "film.mkv", "film.ts":
    film(path)
    with av.open(path) as file:
        stream = file.streams.video[0]
        for wanted in 5, 12, 25:
            file.seek(stream.start_time + round(wanted / stream.time_base), stream=stream)
            first = next(file.decode(stream), None)
            found[path, wanted] = first and round((first.pts - stream.start_time) * stream.time_base)
            print(f"{path}: after seek to {wanted} s, the first picture decoded has time {found[path, wanted]}")
assert all(found[path, wanted] == wanted // 10 * 10 for path in ("film.mp4", "film.mkv") for wanted in (5, 12, 25))
assert [found["film.ts", wanted] for wanted in (5, 12, 25)] == [10, 20, None], "this has changed"
PY
