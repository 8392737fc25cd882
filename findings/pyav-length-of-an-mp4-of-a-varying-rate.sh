#!/usr/bin/env bash
# Expected: of an mp4 whose pictures come at a varying rate (a screen recording, 0 to 6.4 s), the length is 6.4 s, in
#           the mp4 and in an mkv with the same packets, as it is without B-frames.
# Happens:  with B-frames the mp4 is 5 s long and the mkv 8.5 s. An mp4 stores the steps between times of decoding, and
#           its length is their sum; what FFmpeg gives as `packet.duration` is the time until the next packet is
#           *decoded*. The picture of 4.5 s is decoded before a pause of 4 s, gets these as its duration, and seems to
#           end at 8.5 s. In both files all pictures come at their times; only who trusts the length or the durations
#           goes wrong.
# Seen:     PyAV 18.1.0 (FFmpeg 8.1.2) and 19.0.2 (FFmpeg 9.0.2), Python 3.11 and 3.13, on 2026-11-27.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import platform
from fractions import Fraction
import av, numpy as np
print({"Python": platform.python_version(), "av": av.__version__, "FFmpeg": av.ffmpeg_version_info})

TIMES = 0, 100, 200, 300, 400, 4400, 4500, 4600, 4700, 4800, 6300  # in milliseconds

def film(path, b_frames):
    with av.open(path, "w") as file:
        options = {"bf": str(b_frames)}
        stream = file.add_stream("libx264", rate=10, width=64, height=48, pix_fmt="yuv420p", options=options)
        stream.codec_context.time_base = Fraction(1, 1000)
        for n, time in enumerate(TIMES):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * n, np.uint8), "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            frame.duration = (*TIMES, 6400)[n + 1] - time
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))

def copied(path, copy):
    with av.open(path) as old, av.open(copy, "w") as new:
        stream = new.add_stream_from_template(old.streams[0])
        for packet in old.demux():
            if packet.dts is None: continue  # the end
            packet.stream = stream
            new.mux(packet)

found = {}
for b_frames in 0, 3:
    film("film.mp4", b_frames)
    copied("film.mp4", "film.mkv")
    for path in "film.mp4", "film.mkv":
        with av.open(path) as file:
            found[b_frames, path] = round(file.duration / av.time_base, 1)
            times = [round(1000 * picture.time) for picture in file.decode(video=0)]
        assert times == list(TIMES)
        print(f"at most {b_frames} B-frames, {path}: pictures at {times[0]} to {times[-1]} ms, "
              f"length {found[b_frames, path]} s")
assert found == {(0, "film.mp4"): 6.4, (0, "film.mkv"): 6.4,
                 (3, "film.mp4"): 5.0, (3, "film.mkv"): 8.5}, "this has changed"
PY
