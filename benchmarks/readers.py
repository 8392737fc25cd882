"""How media readers cope with files that are not simple: ours, PyAV used plainly, ffmpeg, librosa, torchcodec, OpenCV.

    pip install -e . torchcodec opencv-python-headless    # librosa comes along
    apt-get install ffmpeg                                # the program, and the libraries that torchcodec loads
    python benchmarks/readers.py --out nbs/results/readers.json

Every file is made here, and all have one content: second k shows one gray and sounds as one chirp, so that a decoded
span tells its time. A row is one file and one question; its cells say "right", by how much it is wrong, or that the
file was refused. What a reader does not do is "-" (librosa: images), and a library that is missing is "not installed".
The others are used as their documents show, with times, not counts. It takes a minute."""
import argparse
import io
import json
import re
import subprocess
import tempfile
from fractions import Fraction
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

RATE = 48000
SECONDS = FPS = 8

# the film

def chirp(start=0., seconds=SECONDS, rate=RATE, level=.4):
    "The sound of a span of the film: second k climbs from 300 + 150·k Hz by 120 Hz."
    t = np.round(start * rate) / rate + np.arange(round(seconds * rate)) / rate
    k, within = np.floor(t + 1e-9), (t + 1e-9) % 1
    return (level * np.sin(2*np.pi * ((300 + 150*k) * within + 60 * within**2))).astype(np.float32)

def gray(k): return 30 + 22 * int(k)

def frame_of(image, n, pixels="yuv420p", rate=FPS):
    "An array as the frame at n/rate s."
    kind = "rgba" if image.shape[2] == 4 else "rgb24"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), kind).reformat(format=pixels)
    frame.pts, frame.time_base = n, Fraction(1) / rate
    return frame

def sound_frames(wave, stream, layout="mono", rate=RATE):
    "The frames of a wave (time, channel), as an encoder wants them."
    context = stream.codec_context
    resampler = av.AudioResampler(context.format, layout, rate, frame_size=context.frame_size or 1024)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave).reshape(1, -1), "flt", layout)
    frame.sample_rate, frame.pts = rate, 0
    yield from resampler.resample(frame)
    yield from resampler.resample(None)

def write(path, frames=(), wave=None, picture="libx264", sound="aac", pixels="yuv420p", size=(96, 64), rate=FPS,
          layout="mono", sample_rate=RATE, keep=lambda kind, time: True, tags={}, container=None, more=(), **codec):
    "A file of frames and a wave, but for packets that `keep` leaves out; `more` are further sounds, each in a track."
    with av.open(str(path), "w", options=dict(container or {})) as file:
        packets = []
        if frames:
            stream = file.add_stream(picture, rate=rate, width=size[0], height=size[1], pix_fmt=pixels,
                                     options={name: str(value) for name, value in codec.items()})
            for name, value in tags.items(): setattr(stream.codec_context, name, value)
            packets.append((stream, frames))
        for wave in ([wave] if wave is not None else []) + list(more):
            stream = file.add_stream(sound, rate=sample_rate, layout=layout)
            packets.append((stream, sound_frames(wave, stream, layout, sample_rate)))
        file.start_encoding()
        ready = [packet for stream, frames in packets for frame in chain(frames, [None])
                 for packet in stream.encode(frame)]
        for packet in sorted(ready, key=lambda p: p.dts * p.time_base):
            if keep(packet.stream.type, float(packet.pts * packet.time_base)): file.mux(packet)
    return path

def grays(times=None, rate=FPS, size=(96, 64), pixels="yuv420p"):
    "The film's pictures at these numbers of 1/rate s; all of them by default."
    times = range(SECONDS * rate) if times is None else times
    return [frame_of(np.full((size[1], size[0], 3), gray(n / rate), np.uint8), n, pixels, rate) for n in times]

def film(path, **options): return write(path, grays(), chirp(), **options)

def shifted(source, path, seconds):
    "A copy whose clock starts later."
    with av.open(str(source)) as old, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as new:
        streams = {s.index: new.add_stream_from_template(s) for s in old.streams}
        for packet in old.demux():
            if packet.dts is None: continue
            packet.pts, packet.dts = (t + round(seconds / packet.time_base) for t in (packet.pts, packet.dts))
            packet.stream = streams[packet.stream.index]
            new.mux(packet)
    return path

def joined(path, *parts):
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path

def cut(path, share):
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    return path

def yuv(pixels, values, size, rate=FPS):
    "A frame whose planes have these values; a list goes from left to right."
    frame = av.VideoFrame(*size, pixels)
    for plane, value in zip(frame.planes, values):
        kind = np.uint16 if "10" in pixels else np.uint8
        full = np.zeros((plane.height, plane.line_size // kind().itemsize), kind)
        wide = isinstance(value, list)
        full[:, :plane.width] = np.repeat(value, plane.width // len(value)) if wide else value
        plane.update(full.tobytes())
    frame.pts, frame.time_base = 0, Fraction(1) / rate
    return frame

def still(path, frame, n=2 * FPS, **options):
    "A film of one frame."
    def frames():
        for at in range(n):
            frame.pts, frame.time_base = at, Fraction(1, FPS)
            yield frame
    tags = options.get("tags", {})
    for name, value in tags.items():
        if name.startswith("color"): setattr(frame, name, value)
    return write(path, frames(), pixels=frame.format.name, size=(frame.width, frame.height), **options)

# the readers: the sound of a span as (time) floats at 16 kHz, and the pictures at the middle of some seconds

class Ours:
    name = "clipsonic"
    def __init__(self): import_module("clipsonic.video")
    def sound(self, path, start, seconds):
        from clipsonic.video import read_audio
        return read_audio(path, 16000, start, seconds).waveform[0].numpy()
    def pictures(self, path, start, n):
        from clipsonic.video import read_frames
        times, images = read_frames(path, 1., start, n)
        found = {round(time - .5): np.asarray(image) for time, image in zip(times, images)}
        return [found.get(k) for k in range(n)]

class PyAV:
    name = "PyAV, plainly"
    def sound(self, path, start, seconds):
        with av.open(str(path)) as file:
            if start: file.seek(round(start * 1e6))
            resampler, parts = av.AudioResampler("flt", "mono", 16000), []
            for frame in file.decode(audio=0):
                if frame.time is not None and frame.time + frame.samples / frame.sample_rate <= start: continue
                parts += [out.to_ndarray()[0] for out in resampler.resample(frame)]
            parts += [out.to_ndarray()[0] for out in resampler.resample(None)]
        wave = np.concatenate(parts)
        return wave if seconds is None else wave[:round(16000 * seconds)]
    def pictures(self, path, start, n):
        images = []
        for k in range(n):
            with av.open(str(path)) as file:
                file.seek(round((start + k + .5) * 1e6))
                later = (f for f in file.decode(video=0) if f.time >= start + k + .5)
                images.append(next((f.to_ndarray(format="rgb24") for f in later), None))
        return images

class FFmpeg:
    name = "ffmpeg"
    def __init__(self):
        try: self.run("-version")
        except FileNotFoundError: raise ImportError
    def run(self, *args):
        quiet = "-hide_banner", "-loglevel", "error", "-nostdin"
        done = subprocess.run(["ffmpeg", *quiet, *map(str, args)], capture_output=True)
        if done.returncode: raise OSError(done.stderr.decode(errors="replace").strip().splitlines()[-1])
        return done.stdout
    def sound(self, path, start, seconds):
        span = ([] if not start else ["-ss", start]) + ([] if seconds is None else ["-t", seconds])
        data = self.run(*span, "-i", path, "-ac", 1, "-ar", 16000, "-f", "wav", "-")
        return soundfile.read(io.BytesIO(data), dtype="float32")[0]
    def pictures(self, path, start, n):
        images = []
        for k in range(n):
            data = self.run("-ss", start + k + .5, "-i", path, "-frames:v", 1, "-c:v", "png", "-f", "image2pipe", "-")
            if data:
                image = Image.open(io.BytesIO(data)).convert("RGBA")   # a png keeps what is transparent
                data = np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))
            images.append(data if len(data) else None)
        return images

class Librosa:
    name = "librosa"
    def __init__(self): import_module("librosa")
    def sound(self, path, start, seconds):
        import librosa
        return librosa.load(path, sr=16000, offset=start, duration=seconds)[0]
    pictures = None

class TorchCodec:
    name = "torchcodec"
    def __init__(self):
        try: import_module("torchcodec.decoders")
        except (RuntimeError, OSError) as error: raise ImportError from error   # no FFmpeg that it knows
    def sound(self, path, start, seconds):
        from torchcodec.decoders import AudioDecoder
        decoder = AudioDecoder(path, sample_rate=16000, num_channels=1)
        end = None if seconds is None else start + seconds
        return decoder.get_samples_played_in_range(start, end).data[0].numpy()
    def pictures(self, path, start, n):
        from torchcodec.decoders import VideoDecoder
        times = [start + k + .5 for k in range(n)]
        return list(VideoDecoder(path, dimension_order="NHWC").get_frames_played_at(times).data.numpy())

class OpenCV:
    name = "OpenCV"
    def __init__(self): import_module("cv2")
    sound = None
    def pictures(self, path, start, n):
        import cv2
        capture, images = cv2.VideoCapture(str(path)), []
        if not capture.isOpened(): raise OSError("not opened")
        for k in range(n):
            capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * (start + k + .5))
            there, image = capture.read()
            images.append(image[..., ::-1] if there else None)
        if all(image is None for image in images): raise OSError("no picture")
        return images

READERS = Ours, PyAV, FFmpeg, Librosa, TorchCodec, OpenCV

# the questions: each asks a reader, and says "right" or what is wrong

def found(part, wave):
    "Where in a wave a part of the film is heard, in samples, and how loud in dB; None where it is not."
    n = len(wave) + len(part)
    alike = np.fft.irfft(np.fft.rfft(wave, n) * np.fft.rfft(part, n).conj(), n)[:max(len(wave), 1)]
    at = int(np.abs(alike).argmax())
    energy, there = np.square(part).sum(), np.square(wave[at:at + len(part)]).sum()
    if there < 1e-6 * energy or abs(alike[at]) < .6 * np.sqrt(there * energy): return None
    return at, 20 * np.log10(abs(alike[at]) / energy)

def sound(start=0., seconds=None, silent=(), level=0., about=.03):
    "Is the film's sound heard at its time, to `about` s, `level` dB louder, silent where it is, and as long?"
    whole = SECONDS - start if seconds is None else seconds
    def judge(reader, path):
        wave, wanted = np.asarray(reader.sound(path, start, seconds)), chirp(start, whole, 16000)
        late, gains = [], []
        lost = loud = 0
        for k in range(int(whole)):
            if start + k in silent:
                middle = wave[16000*k + 800:16000*(k + 1) - 800]
                loud += len(middle) > 0 and np.sqrt(np.square(middle).mean()) > .02
            elif heard := found(wanted[16000*k:16000*(k + 1)], wave):
                late.append(heard[0] / 16000 - k)
                gains.append(heard[1] - level)
            else: lost += 1
        off, longer = max(late, key=abs, default=0.), len(wave) / 16000 - whole
        if lost: return f"{lost} of {int(whole) - len(silent)} s not heard"
        if loud: return f"{loud} s heard that are not there"
        if abs(off) > about: return f"{abs(off):.2f} s {'late' if off > 0 else 'early'}"
        if abs(np.median(gains)) > 1: return f"{np.median(gains):+.1f} dB"
        if abs(longer) > about: return f"{abs(longer):.3f} s too {'long' if longer > 0 else 'short'}"
        return "right"
    judge.asks = "sound"
    return judge

def pictures(start, n, wanted=None):
    "Is second k of the film seen at k + 0.5 s?"
    def judge(reader, path):
        found = reader.pictures(path, start, n)
        lost = sum(image is None for image in found)
        if lost: return f"{lost} of {n} pictures missing"
        seconds = wanted or range(int(start), int(start) + n)
        worst = max(((image.mean() - 30) / 22 - k for k, image in zip(seconds, found)), key=abs)
        return "right" if abs(worst) < .3 else f"{abs(worst):.0f} s {'ahead' if worst > 0 else 'behind'}"
    judge.asks = "pictures"
    return judge

def colors(*wanted, about=6):
    "Has the first picture these colors from left to right, to within `about` of 255?"
    def judge(reader, path):
        [image] = reader.pictures(path, 0., 1)
        if image is None: return "no picture"
        row = image[image.shape[0] // 2]
        found = np.array([row[int((k + .5) * len(row) / len(wanted))] for k in range(len(wanted))], float)
        off = np.abs(found - np.asarray(wanted, float)).max()
        return "right" if off <= about else f"off by {off:.0f} of 255"
    judge.asks = "pictures"
    return judge

def shape(width, height):
    def judge(reader, path):
        [image] = reader.pictures(path, 0., 1)
        found, wanted = image.shape[1] / image.shape[0], width / height
        if abs(found / wanted - 1) < .03: return "right"
        return f"{image.shape[1]} × {image.shape[0]}, not {width} × {height}"
    judge.asks = "pictures"
    return judge

def corners(*wanted):
    "Has the first picture these grays in its corners, row by row?"
    def judge(reader, path):
        [image] = reader.pictures(path, 0., 1)
        height, width = image.shape[:2]
        found = [image[int(y * height), int(x * width)].mean() for y in (.2, .8) for x in (.2, .8)]
        return "right" if np.abs(np.subtract(found, wanted)).max() < 20 else "turned wrongly"
    judge.asks = "pictures"
    return judge

def refused(asks, what):
    "Is the file refused? What else a reader makes of it is wrong."
    def judge(reader, path):
        got = reader.sound(path, 0., None) if asks == "sound" else reader.pictures(path, 0., 1)
        return what(got)
    judge.asks, judge.refuse = asks, True
    return judge

# the hazards: a name, how the file is made, the questions

def undecodable_first(folder):
    "Two tracks; the codec of the first, a silent one, has a name that nobody knows."
    path = write(folder/"tracks.mp4", grays(), np.zeros(SECONDS * RATE, np.float32), more=[chirp()])
    data = path.read_bytes()
    for name in b"mp4a", b"esds": data = data.replace(name, b"nope", 1)
    path.write_bytes(data)
    return path

def other_rates(folder):
    half = SECONDS // 2
    parts = [write(folder/f"{rate}.aac", wave=chirp(at, half, rate), sample_rate=rate)
             for at, rate in ((0, 44100), (half, 32000))]
    return joined(folder/"rates.aac", *parts)

def two_oggs(folder):
    for k in 0, 4: soundfile.write(folder/f"{k}.ogg", chirp(k, 4), RATE)
    return joined(folder/"two.ogg", folder/"0.ogg", folder/"4.ogg")

def two_recordings(folder):
    whole = [grays(range(8 * k, 8 * (k + 4))) for k in (0, 4)]
    for frames in whole:
        for n, frame in enumerate(frames): frame.pts = n
    parts = [write(folder/f"{k}.ts", frames, chirp(k, 4), g=8) for k, frames in zip((0, 4), whole)]
    return joined(folder/"two.ts", *parts)

def variable(folder):
    "Two frames a second for 4 s, then 24."
    return write(folder/"variable.mkv", grays([*range(0, 96, 12), *range(96, 192)], 24), chirp(), rate=24, g=200)

def mirrored(folder):
    image = np.full((64, 96, 3), 40, np.uint8)
    image[:32, :48] = 220
    path = still(folder/"mirrored.mp4", frame_of(image, 0, "yuv444p"))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    flipped = -1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30
    data[at:at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in flipped)
    path.write_bytes(data)
    return path

def clear(folder, name, codec, pixels, **options):
    image = np.zeros((64, 96, 4), np.uint8)
    image[:, :48], image[:, 48:] = (200, 0, 0, 255), (0, 0, 200, 0)
    return still(folder/name, frame_of(image, 0, pixels), picture=codec, **options)

def webp(folder):
    images = [Image.new("RGB", (96, 64), (gray(k),) * 3) for k in range(SECONDS)]
    images[0].save(folder/"moving.webp", save_all=True, append_images=images[1:], duration=1000, lossless=True)
    return folder/"moving.webp"

def pq(nits):
    power = (np.asarray(nits) / 10000) ** .1593017578125
    return ((.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375

HDR = np.array([0., 2, 20, 100, 203, 600])
def hdr(folder):
    values = [int(v) for v in np.round(64 + 876 * pq(HDR))]
    frame = yuv("yuv420p10le", [values, 512, 512], (192, 64))
    tags = dict(color_trc=16, color_primaries=9, colorspace=9, color_range=1)
    return still(folder/"hdr.mkv", frame, picture="libx265", tags=tags, **{"x265-params": "log-level=none"})
LIGHT = HDR / 203 * (1 + HDR / 203 / (1000/203)**2) / (1 + HDR / 203)
SCREEN = 255 * np.where(LIGHT <= .0031308, 12.92 * LIGHT, 1.055 * LIGHT**(1/2.4) - .055)

RED = (200, 60, 30)
def matrix(red, blue):
    r, g, b = (v / 255 for v in RED)
    y = red*r + (1 - red - blue)*g + blue*b
    return [round(16 + 219*y), round(128 + 112*(b - y)/(1 - blue)), round(128 + 112*(r - y)/(1 - red))]

def surround(path, codec):
    wave = np.zeros((SECONDS * RATE, 6), np.float32)
    wave[:, 2] = chirp()
    return write(path, wave=wave, sound=codec, layout="5.1")

def opposite(folder):
    wave = chirp()
    soundfile.write(folder/"opposite.wav", np.stack([wave, -wave], 1), RATE)
    return folder/"opposite.wav"

def out_of_scale(folder):
    soundfile.write(folder/"integers.wav", chirp() * 32767, RATE, subtype="FLOAT")
    return folder/"integers.wav"

def gsm(folder):
    soundfile.write(folder/"gsm.wav", chirp(rate=8000), 8000, subtype="GSM610")
    return folder/"gsm.wav"

def playlist(folder):
    film(folder/"other.ts")
    path = folder/"list.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:8\n#EXTINF:8,\nother.ts\n#EXT-X-ENDLIST\n")
    return path

def center_of_wav(folder): return surround(folder/"center.wav", "pcm_s16le")

def cut_mp4(folder): return cut(film(folder/"cut.mp4", container={"movflags": "faststart"}), .6)

def cut_flv(folder): return cut(write(folder/"cut.flv", grays(), chirp(rate=44100), sample_rate=44100), .6)

def anamorphic(folder):
    frame = frame_of(np.full((64, 96, 3), 99, np.uint8), 0)
    return still(folder/"wide.mp4", frame, tags={"sample_aspect_ratio": Fraction(16, 11)})

def tagged(folder):
    frame = yuv("yuv444p", matrix(.2126, .0722), (96, 64))
    return still(folder/"709.mkv", frame, picture="ffv1", tags=dict(colorspace=1, color_range=1))

def untagged(folder):
    return still(folder/"720.mkv", yuv("yuv444p", matrix(.2126, .0722), (1280, 720)), picture="ffv1", n=FPS)

def hole(kind, time): return kind == "video" or not 3 <= time < 5

def late(kind, time): return kind == "audio" or time >= 2

def shorter(wave): return f"{len(wave) / 16000:.1f} s of {SECONDS}, without a word"

def silence(wave): return "silence, without a word" if np.abs(wave).max() < 1e-3 else "right"

def louder(wave): return f"{20 * np.log10(np.abs(wave).max() / .4):+.0f} dB, without a word"

def other(wave): return "opens the other file"

WHITE = (255, 255, 255)
HAZARDS = [
    ("a clip out of a transport stream, one key frame in 8 s", lambda f: film(f/"stream.ts", g=1000, bf=2),
     [sound(5., 2.), pictures(5., 2)]),
    ("two recordings joined into one transport stream", two_recordings, [sound(about=.08), pictures(5., 2)]),
    ("a hole in the sound, 3 to 5 s", lambda f: film(f/"hole.mkv", keep=hole), [sound(silent=(3, 4))]),
    ("Matroska whose clock starts at 1000 s", lambda f: shifted(film(f/"zero.mp4"), f/"clock.mkv", 1000),
     [sound(2., 3.), pictures(2., 3)]),
    ("another sample rate from the middle on", other_rates, [sound(about=.08)]),
    ("two sounds one after the other in an ogg", two_oggs, [sound(about=.05)]),
    ("a first track that nothing can decode", undecodable_first, [sound()]),
    ("pictures that begin at 2 s", lambda f: film(f/"late.mkv", g=8, keep=late), [pictures(3., 3)]),
    ("a last picture that stays for 3 s", lambda f: write(f/"last.mp4", grays(range(0, 41)), chirp()),
     [pictures(6., 2, [5, 5])]),
    ("a frame rate that varies", variable, [pictures(1., 6)]),
    ("MPEG layer 3 in a wav", lambda f: write(f/"mpeg.wav", wave=chirp(), sound="libmp3lame"), [sound(about=.08)]),
    ("GSM in a wav", gsm, [sound()]),
    ("an m4a: what the encoder added", lambda f: write(f/"added.m4a", wave=chirp(rate=44100), sample_rate=44100),
     [sound(about=.001)]),
    ("an mp3: what the encoder added",
     lambda f: write(f/"added.mp3", wave=chirp(rate=44100), sound="libmp3lame", sample_rate=44100),
     [sound(about=.001)]),
    ("speech in the center of 5.1 (AAC), by BS.775", lambda f: surround(f/"center.m4a", "aac"), [sound(level=-10.7)]),
    ("speech in the center of 5.1 (16 bits), by BS.775", center_of_wav, [sound(level=-10.7)]),
    ("stereo in opposite phase", opposite, [refused("sound", silence)]),
    ("floats that are 32767 times too large", out_of_scale, [refused("sound", louder)]),
    ("an mp4 that is cut off, its index first", cut_mp4, [refused("sound", shorter)]),
    ("an flv that is cut off", cut_flv, [refused("sound", shorter)]),
    ("a playlist that names another file", playlist, [refused("sound", other)]),
    ("mirrored, as front cameras film", mirrored, [corners(40, 220, 40, 40)]),
    ("pixels that are not square", anamorphic, [shape(140, 64)]),
    ("transparency: ProRes 4444", lambda f: clear(f, "clear.mov", "prores_ks", "yuva444p10le", profile=4),
     [colors((200, 0, 0), WHITE)]),
    ("transparency: VP9", lambda f: clear(f, "clear.webm", "libvpx-vp9", "yuva420p"), [colors((200, 0, 0), WHITE)]),
    ("an animated WebP", webp, [pictures(1., 4)]),
    ("colors of BT.709, tagged", tagged, [colors(RED)]),
    ("colors of BT.709 in 720p, not tagged", untagged, [colors(RED)]),
    ("HDR (PQ), to within 25", hdr, [colors(*[(value,) * 3 for value in SCREEN], about=25)]),
]

def installed():
    "The readers that are there; names of those that are not."
    there, gone = [], []
    for kind in READERS:
        try: there.append(kind())
        except ImportError: gone.append(kind.name)
    return there, gone

def ask(judge, reader, path):
    "A cell of the table: what kind it is of, and in words."
    if getattr(reader, judge.asks) is None: return ["-", ""]
    try: said = judge(reader, path)
    except Exception as error:
        said = re.sub(r"\S*/\S+", "…", f"{type(error).__name__}: {error}".splitlines()[0])[:120]   # without paths
        return ["right" if getattr(judge, "refuse", False) else "refused", said]
    return ["right", ""] if said == "right" else ["wrong", said]

def versions():
    found = {}
    for name in "av", "librosa", "torchcodec", "opencv-python-headless":
        try: found[name] = version(name)
        except PackageNotFoundError: pass
    try: said = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True).stdout
    except FileNotFoundError: return found
    found["ffmpeg"] = said.split()[2].split("-")[0]
    return found

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", help="write the table here, as json")
    p.add_argument("--only", default="", help="hazards whose name holds this")
    args = p.parse_args()
    av.logging.set_level(av.logging.PANIC)
    there, gone = installed()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n, (name, make, questions) in enumerate(HAZARDS):
            if args.only not in name: continue
            place = Path(folder)/str(n)
            place.mkdir()
            path = make(place)
            for judge in questions:
                cells = {reader.name: ask(judge, reader, path) for reader in there}
                cells |= {reader: ["not installed", ""] for reader in gone}
                rows.append({"hazard": name, "asks": judge.asks, "cells": cells})
                print(f"{name} ({judge.asks})")
                for reader, cell in cells.items(): print(f"    {reader:14} {' '.join(cell)}", flush=True)
    table = {"versions": versions(), "rows": rows}
    if args.out: Path(args.out).write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")

if __name__ == "__main__": main()
