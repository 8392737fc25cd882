"""Media files as they come: odd names, odd containers, damage."""
import math
import multiprocessing
import os
import resource
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image, ImageCms
from torchaudio.functional import resample

from clipsonic.core import Audio, ClipsonicError, InputError, MediaError
from clipsonic.video import (_by_pyav, _by_soundfile, _sound_frames, probe, read_audio, read_frames, read_image,
                             rgb_image, write_soundtrack, write_video)
from conftest import naming
from films import cut, film, heard, joined, ladder, pitch, remux, seen, song, steps, tone

@pytest.fixture(scope='module')
def good(tmp_path_factory):
    "Four seconds, red, yellow, lime, white."
    return film(tmp_path_factory.mktemp('video')/'good.mp4', 4.)

def reason(function, *args, **kwargs):
    with pytest.raises(MediaError) as error: function(*args, **kwargs)
    assert str(args[0]) in str(error.value)
    return error.value.reason

def colour(image): return tuple(round(value / 255) for value in image.getpixel((20, 20)))

@pytest.mark.parametrize('name', ['-abc def.mp4', '-i', 'a:b {1..3} #?%20.mp4', 'http:', 'ünï.mp4'])
def test_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.replace(film(tmp_path/'x.mp4', 1.), name)
    assert probe(name).seconds == pytest.approx(1, abs=.1)
    assert len(read_frames(name)[1]) == 1 and read_audio(name).seconds == pytest.approx(1, abs=.1)

def test_frames_are_those_on_screen(good):
    times, images = read_frames(good)
    assert times == [.5, 1.5, 2.5, 3.5]
    assert [colour(image) for image in images] == [(1, 0, 0), (1, 1, 0), (0, 1, 0), (1, 1, 1)]
    times, images = read_frames(good, rate=2, start=.9, seconds=1.2)
    assert times == [.25, .75] and [colour(image) for image in images] == [(1, 1, 0)] * 2
    assert read_frames(good, start=1., seconds=.4)[0] == [.2]  # shorter than a frame's turn: its middle

def test_a_forked_process_sees_pictures_too(good):
    "As `prepare` does. PyAV keeps what converts frames, with threads, of which a forked process has none."
    with av.open(str(good)) as file: next(file.decode(video=0)).to_image()
    worker = multiprocessing.get_context('fork').Process(target=read_frames, args=(good,))
    worker.start()
    worker.join(100)
    worker.kill()
    assert worker.exitcode == 0

def test_a_frame_rate_below_the_one_asked_for_repeats_frames(tmp_path):
    slow = film(tmp_path/'slow.mp4', 4., rate=1, audio=None)
    times, images = read_frames(slow, rate=4.)
    assert len(times) == 16 and [colour(image) for image in images[::4]] == [(1, 0, 0), (1, 1, 0), (0, 1, 0), (1, 1, 1)]

def test_picture_ends_before_the_sound(tmp_path):
    path = film(tmp_path/'short.mp4', 1., audio=tone(4.))
    times, images = read_frames(path)
    assert times == [.5, 1.5, 2.5, 3.5] and {colour(image) for image in images} == {(1, 0, 0)}
    assert read_audio(path).seconds == pytest.approx(4, abs=.1)

def test_broken_files(tmp_path):
    (tmp_path/'page.mp4').write_text('<html>Video unavailable</html>')
    (tmp_path/'titles.mp4').write_text('1\n00:00:00,000 --> 00:00:01,000\nhello\n')
    (tmp_path/'notes.txt').write_text('a list of things\n' * 50)
    (tmp_path/'list.mp4').write_text(
        '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n')
    (tmp_path/'empty.mp4').touch()
    os.mkfifo(tmp_path/'pipe.mp4')
    wanted = {'page.mp4': 'not a video', 'titles.mp4': 'not a video', 'notes.txt': 'not a video',
              'list.mp4': 'not a video',
              'empty.mp4': 'unreadable', 'pipe.mp4': 'not a video', 'gone.mp4': 'missing', '.': 'not a video'}
    for read in probe, read_audio, read_frames:
        assert {name: reason(read, tmp_path/name) for name in wanted} == wanted

@pytest.mark.parametrize('container, options', [('mp4', {}), ('mp4', {'movflags': 'faststart'}), ('mkv', {})])
def test_truncated(good, tmp_path, container, options):
    path = cut(remux(good, tmp_path/f'film.{container}', **options), .6)
    assert reason(read_audio, path) == 'truncated'

def test_a_span_before_the_cut_is_good(good, tmp_path):
    path = cut(remux(good, tmp_path/'film.mp4', movflags='faststart'), .6)
    assert read_audio(path, seconds=1.).seconds == 1
    assert reason(read_audio, path, start=1., seconds=3.) == 'truncated'

def test_random_bytes_in_the_middle_do_not_end_it(good, tmp_path):
    path = tmp_path/'noise.mp4'
    data = bytearray(good.read_bytes())
    at = data.index(b'mdat') + 2000
    data[at:at + 50] = os.urandom(50)
    path.write_bytes(data)
    for read in read_audio, read_frames:
        try: read(path)
        except MediaError: pass  # anything else would be a fault of ours

def test_missing_tracks(tmp_path):
    assert reason(read_audio, film(tmp_path/'mute.mp4', 1., audio=None)) == 'no audio track'
    tone(1.).save(tmp_path/'tone.wav')
    for path in tmp_path/'tone.wav', song(tmp_path/'song.mp3'):
        assert reason(read_frames, path) == 'no video'
        assert probe(path).video is None and probe(path).audio
        assert pitch(read_audio(path).waveform) == pytest.approx(440, abs=3)

def test_channels_are_averaged(tmp_path):
    path = film(tmp_path/'stereo.mkv', 1., audio=tone(1., level=.9, channels=2))
    sound = read_audio(path)
    assert sound.waveform.shape[0] == 1 and .8 < sound.waveform.abs().max() < 1

def hiss(path, channels=1, rate=44100, **options):
    "A second of noise in any format of libsndfile's."
    soundfile.write(path, (np.random.default_rng(channels).standard_normal((rate, channels)) * .2).clip(-1, 1), rate,
                    **options)
    return path

SUBTYPES = {'a.wav': ['PCM_U8', 'PCM_16', 'PCM_24', 'PCM_32', 'FLOAT', 'DOUBLE', 'ULAW'],
            'a.flac': ['PCM_S8', 'PCM_16', 'PCM_24'], 'a.ogg': ['VORBIS']}

@pytest.mark.parametrize('name, subtype', [(name, s) for name, several in SUBTYPES.items() for s in several])
def test_whole_sounds_are_the_same_by_libsndfile_and_by_ffmpeg(tmp_path, name, subtype):
    for channels in 1, 2, 6, 8:
        for rate in 16000, 48000:
            path = hiss(tmp_path/name, channels, rate, subtype=subtype)
            [(slow, *same)], both = _by_pyav(path, 0., None, []), _by_soundfile(path)
            if subtype == 'VORBIS' and channels > 2: assert both is None   # its channels come in another order
            else:
                quick, *about = both
                assert about == same == [0., rate] and quick.shape == slow.shape == (rate,)
                assert np.abs(quick - slow).max() < 1e-6
            assert np.abs(read_audio(path, None).waveform[0].numpy() - slow).max() < 1e-6
            # the second is ffmpeg's
            assert (read_audio(path, 22050).waveform - read_audio(path, 22050, seconds=2.).waveform).abs().max() < 1e-6

@pytest.mark.parametrize('options', [dict(file='a.wav'), dict(file='a.wav', subtype='FLOAT'),
                                     dict(file='a.wav', format='WAVEX', subtype='PCM_24', channels=6),
                                     dict(file='a.flac'), dict(file='a.ogg')])
def test_a_sound_that_is_cut_off_is_no_shorter_sound(tmp_path, options):
    whole = hiss(tmp_path/options.pop('file'), **options)
    data = whole.read_bytes()
    for n in [len(data) - 1, len(data) - 100, *(int(len(data) * share) for share in (.9, .5, .2))]:
        whole.write_bytes(data[:n])
        for rate in None, 16000: assert reason(read_audio, whole, rate) == 'truncated'
    whole.write_bytes(data + b'and something else' * 9)
    assert read_audio(whole, None).waveform.shape == (1, 44100)

def test_a_damaged_flac_has_no_gaps(tmp_path):
    data = bytearray(hiss(tmp_path/'a.flac').read_bytes())
    data[30000:30100] = bytes(100)
    (tmp_path/'a.flac').write_bytes(data)
    assert reason(read_audio, tmp_path/'a.flac', None) == 'truncated'

def test_lengths_that_nobody_wrote_down(tmp_path):
    wav, flac, ogg, other = (hiss(tmp_path/name).read_bytes() for name in ('a.wav', 'a.flac', 'a.ogg', 'b.ogg'))
    unknown = {'pipe.wav': wav[:40] + b'\xff' * 4 + wav[44:], 'zero.wav': wav[:40] + bytes(4) + wav[44:],
               'sox.wav': wav[:40] + b'\0\xf0\xff\x7f' + wav[44:],
               'pipe.flac': flac[:21] + bytes([flac[21] & 0xf0]) + bytes(4) + flac[26:],
               'most.flac': flac[:21] + bytes([flac[21] | 0xf]) + flac[22:], 'wav.mp3': wav, 'wav.raw': wav}
    for name, data in unknown.items():
        (tmp_path/name).write_bytes(data)
        assert read_audio(tmp_path/name, None).waveform.shape == (1, 44100), name
    (tmp_path/'two.ogg').write_bytes(ogg + other)  # one after the other
    assert read_audio(tmp_path/'two.ogg', None).seconds == pytest.approx(2, abs=.02)

def test_sound_that_starts_late_stays_in_time(good, tmp_path):
    sound = read_audio(remux(good, tmp_path/'late.mkv', audio_delay=1.)).waveform[0]
    assert sound[:15000].abs().max() < .01 and sound[17000:18000].abs().max() > .2
    assert read_audio(tmp_path/'late.mkv', start=.5, seconds=1.).waveform[0, :7000].abs().max() < .01

def test_a_clock_that_does_not_start_at_zero(good, tmp_path):
    path = remux(good, tmp_path/'broadcast.ts')
    with av.open(str(path)) as file: assert file.start_time > 0
    assert [colour(image) for image in read_frames(path, start=2.)[1]] == [(0, 1, 0), (1, 1, 1)]
    assert read_audio(path, start=2., seconds=1.).seconds == 1

def test_no_duration_in_the_header(good, tmp_path):
    path = remux(good, tmp_path/'live.mkv', live='1')
    with av.open(str(path)) as file: assert not file.duration
    assert probe(path).seconds == pytest.approx(4, abs=.2)
    assert len(read_frames(path)[0]) == 4

def everything(path, **span):
    "The steps heard and seen in a file, and what had to be put right."
    repairs = []
    return heard(read_audio(path, repairs=repairs, **span)), seen(read_frames(path, repairs=repairs, **span)), [what
        for what, _ in repairs]

STEPS = [0, 1, 2, 3], {.5: 0, 1.5: 1, 2.5: 2, 3.5: 3}, []

@pytest.mark.parametrize('name, codecs', [('a.ts', {}), ('ten hours.ts', {}), ('counts anew.ts', {}),
                                          ('a.m2ts', dict(g='12')), ('b.ts', dict(video='mpeg4', audio='mp2', g='12')),
                                          ('a.mpg', dict(video='mpeg2video', audio='mp2', fps=25, bf='2')),
                                          ('a.vob', dict(video='mpeg2video', audio='ac3', rate=48000, fps=25)),
                                          ('a.mkv', {})])
def test_any_moment_of_a_film_is_found(tmp_path, name, codecs):
    """MPEG streams have no index: FFmpeg seeks to any packet, and pictures begin at the next key frame, here the only
    one."""
    path = steps(tmp_path/name, 5., **codecs)
    # 33 bits of 1/90000 s are full after 95443.7 s
    if name in (late := {'ten hours.ts': 36000., 'counts anew.ts': 95440.}):
        path = remux(path, tmp_path/'late.ts', audio_delay=late[name], video_delay=late[name])
    assert probe(path).seconds == pytest.approx(5, abs=.15)
    sound = read_audio(path).waveform
    for start in 0., .1, .25, 1., 2.6, 4.25:
        times, images = read_frames(path, 2., start, .5)
        assert times == [.25] and seen((times, images)) == {.25: int(start + .25)}, start
        part = read_audio(path, start=start, seconds=.5).waveform
        off = (part - sound[:, round(start * 16000):round(start * 16000) + 8000]).abs().max()
        assert off < (.1 if name == 'a.mkv' else 2e-3)   # whose times are rounded to 1 ms
    assert reason(read_frames, path, start=9.) == reason(read_audio, path, start=9.) == 'too short'

@pytest.mark.parametrize('name, ending, codecs', [('a.mp4', 'mkv', {}), ('a.mp4', 'mp4', {}),
                                                  ('a.ts', 'ts', dict(audio='mp2')),
                                                  ('a.webm', 'webm', dict(video='libvpx', audio='libopus',
                                                                          rate=48000))])
def test_a_hole_in_the_sound_is_silent(tmp_path, name, ending, codecs):
    source = steps(tmp_path/name, 6., **codecs)
    with av.open(str(source)) as file: zero = (file.start_time or 0) / 1e6
    path = remux(source, tmp_path/f'hole.{ending}', keep=lambda kind, now: kind == 'video' or not 2.1 < now - zero < 5.)
    assert everything(path) == ([0, 1, None, None, None, 5], {.5: 0, 1.5: 1, 2.5: 2, 3.5: 3, 4.5: 4, 5.5: 5},
                                ['holes filled'])
    part = read_audio(path, start=1., seconds=3.)
    assert part.waveform.shape == (1, 48000) and heard(part) == [1, None, None], 'the sound goes on later'
    assert heard(read_audio(path, start=4., seconds=2.)) == [None, 5]
    assert reason(read_audio, path, start=2.6, seconds=2.) == 'silent'

def test_a_pause_while_nobody_speaks_on_the_telephone(tmp_path):
    path = remux(steps(tmp_path/'a.opus', 6., video=None, audio='libopus', rate=48000), tmp_path/'dtx.opus',
                 keep=lambda kind, now: not 2. < now < 5.)
    repairs = []
    assert heard(read_audio(path, repairs=repairs)) == [0, 1, None, None, None, 5]
    assert [what for what, _ in repairs] == ['holes filled']

def test_a_hole_in_an_ogg_is_silent(tmp_path):
    ladder(6., 44100).save(tmp_path/'a.ogg')
    path, repairs = remux(tmp_path/'a.ogg', tmp_path/'hole.ogg', keep=lambda kind, now: not 2. < now < 5.), []
    assert heard(read_audio(path, repairs=repairs)) == [0, 1, None, None, None, 5]
    assert [what for what, _ in repairs] == ['holes filled']

def test_times_that_tremble_make_no_clicks(tmp_path):
    source = steps(tmp_path/'a.mp4', 4.)
    smooth, shaken = (read_audio(remux(source, tmp_path/name, late=late)).waveform for name, late in
                      [('smooth.mkv', lambda now: 0.),
                       ('shaken.mkv', lambda now: .009 * math.sin(50 * now) * (now > .3))])
    n = min(smooth.shape[1], shaken.shape[1])
    assert n > 63000 and (smooth[:, :n] - shaken[:, :n]).abs().max() < 1e-6

def test_sound_that_is_there_twice_is_heard_once(tmp_path):
    path, repairs = remux(steps(tmp_path/'a.mp4', 4.), tmp_path/'overlap.mkv', late=lambda now: 0. if now < 1.1
                          else -.05), []
    with av.open(str(path)) as file: *_, last = file.decode(audio=0)
    assert read_audio(path, repairs=repairs).seconds == pytest.approx(last.time + last.samples / 16000, abs=.002)
    assert [what for what, _ in repairs] == ['overlaps dropped']

def test_an_mp4_in_fragments(tmp_path):
    """It has no list of edits: the encoder's run-up is heard as silence or as what it is, and everything after it in
    time with the pictures."""
    whole = steps(tmp_path/'a.mp4', 4.)
    path = remux(whole, tmp_path/'fragments.mp4', movflags='frag_keyframe+empty_moov+default_base_moof')
    assert everything(path)[:2] == STEPS[:2] and probe(path).seconds == pytest.approx(4.25, abs=.1)
    with av.open(str(path)) as file: late = next(file.decode(video=0)).time
    a, b = (read_audio(p).waveform[0] for p in (whole, path))
    assert (a[16000:48000] - b[16000 + round(late * 16000):][:32000]).abs().max() < 1e-3

@pytest.mark.parametrize('ending, codecs, options', [('mkv', {}, {}), ('mkv', {}, {'live': '1'}),
                                                     ('mp4', {}, {'movflags': 'frag_keyframe+delay_moov+frag_discont'}),
                                                     ('flv', {}, {}),
                                                     ('webm', dict(video='libvpx', audio='libopus', rate=48000), {}),
                                                     ('ts', {}, {})])
def test_a_clock_that_begins_anywhere(tmp_path, ending, codecs, options):
    "The header says there when the film ends, and not how long it is."
    source = steps(tmp_path/('a.webm' if ending == 'webm' else 'a.mp4'), 4., **codecs)
    path = remux(source, tmp_path/f'late.{ending}', audio_delay=1000., video_delay=1000., **options)
    with av.open(str(path)) as file: assert file.start_time > 999e6
    assert probe(path).seconds == pytest.approx(4.1, abs=.1)
    assert everything(path)[:2] == STEPS[:2]
    assert heard(read_audio(path, start=2., seconds=1.)) == [2]
    assert seen(read_frames(path, start=2., seconds=1.)) == {.5: 2}
    if ending == 'mkv' and not options:
        assert reason(read_audio, cut(path, .6)) == reason(read_frames, path) == 'truncated'

def test_a_clock_that_begins_anywhere_beside_a_header_that_says_how_long(tmp_path):
    "As mkvmerge writes it."
    path = remux(steps(tmp_path/'a.mp4', 4.), tmp_path/'late.mkv', audio_delay=1000., video_delay=1000.)
    data = path.read_bytes()
    at = data.index(b'\x44\x89\x88') + 3
    assert struct.unpack('>d', data[at:at + 8])[0] == pytest.approx(1004000, abs=100)
    path.write_bytes(data[:at] + struct.pack('>d', 4060.) + data[at + 8:])
    assert probe(path).seconds == pytest.approx(4.05, abs=.05) and everything(path) == STEPS

@pytest.mark.parametrize('late', ['audio', 'video'])
@pytest.mark.parametrize('ending', ['mkv', 'mp4', 'ts'])
def test_a_track_that_begins_later_stays_in_time(tmp_path, ending, late):
    path = remux(steps(tmp_path/'a.mp4', 4.), tmp_path/f'late.{ending}', **{f'{late}_delay': 2.})
    first, last = {.5: 0, 1.5: 1, 2.5: 2, 3.5: 3}, {2.5: 0, 3.5: 1, 4.5: 2, 5.5: 3}
    if late == 'audio':
        assert everything(path) == ([None, None, 0, 1, 2, 3], first | {4.5: 3, 5.5: 3}, ['last frame held'])
    else: assert everything(path) == ([0, 1, 2, 3], last, ['video begins late'])
    assert heard(read_audio(path, start=3., seconds=1.)) == [1 if late == 'audio' else 3]
    assert seen(read_frames(path, start=3., seconds=1.)) == {.5: 3 if late == 'audio' else 1}
    if late == 'video':
        assert heard(read_audio(path, start=1., seconds=1.)) == [1]
        assert reason(read_frames, path, start=.5, seconds=1.) == 'no video'
    if ending != 'ts':
        copy = tmp_path/'copy.mp4'
        write_soundtrack(path, copy, ladder(6., first=2))
        assert heard(read_audio(copy)) == [2, 3, 4, 5, 6, 7]
        assert seen(read_frames(copy)) == (first | {4.5: 3, 5.5: 3} if late == 'audio' else last)

def test_the_format_changes_in_the_middle(tmp_path):
    options = [dict(rate=48000, channels=2), dict(rate=32000, first=3)]
    for name, codecs in [('a.aac', {}), ('a.mp3', dict(audio='libmp3lame')), ('a.mp2', dict(audio='mp2')),
                         ('a.ac3', dict(audio='ac3'))]:
        path = joined(tmp_path/name, *(steps(tmp_path/f'{n}{name}', 3., video=None, **codecs, **about)
                                       for n, about in enumerate(options)))
        assert heard(read_audio(path)) == [0, 1, 2, 3, 4, 5], name
        assert read_audio(path, None).sample_rate == 48000
        assert heard(read_audio(path, start=2., seconds=3.)) == [2, 3, 4]

def test_recordings_that_were_joined(tmp_path):
    "The second sets the clock back, and changes the format."
    path = joined(tmp_path/'joined.ts', steps(tmp_path/'a.ts', 3., audio='mp2', rate=48000),
                  steps(tmp_path/'b.ts', 3., audio='mp2', rate=32000, channels=2, first=3))
    assert probe(path).seconds == pytest.approx(6.2, abs=.1)
    sounds, pictures, repairs = everything(path)
    assert sounds == [0, 1, 2, 3, 4, 5] and pictures == dict(zip(np.arange(.5, 6), range(6)))
    assert sorted(set(repairs)) == ['clock set back', 'format changes']
    assert heard(read_audio(path, start=4., seconds=2.)) == [4, 5]
    assert seen(read_frames(path, start=4., seconds=2.)) == {.5: 4, 1.5: 5}
    with pytest.raises(InputError, match=naming(path, 'clock', 'ffmpeg -i')):
        write_soundtrack(path, tmp_path/'copy.mp4', ladder(6.))

def several(path, *sources, default):
    "The first's pictures and the sound of each, one of which is marked default."
    files = [av.open(str(source)) for source in sources]
    with av.open(str(path), 'w') as new:
        tracks = [(files[0].streams.video[0], new.add_stream_from_template(files[0].streams.video[0]))]
        tracks += [(file.streams.audio[0], new.add_stream_from_template(file.streams.audio[0])) for file in files]
        for n, (_, track) in enumerate(tracks[1:]): track.disposition = int(n == default)
        for old, track in tracks:
            if old.type == 'audio': old.container.seek(0)
            for packet in old.container.demux(old):
                if packet.size: packet.stream = track; new.mux(packet)
    for file in files: file.close()
    return path

def test_the_track_that_is_marked_default_is_heard(tmp_path):
    sources = steps(tmp_path/'a.mp4', 2.), steps(tmp_path/'b.mp4', 2., first=4)
    for ending in 'mkv', 'mp4':
        assert everything(several(tmp_path/f'first.{ending}', *sources, default=0)) == ([0, 1], {.5: 0, 1.5: 1}, [])
        second = several(tmp_path/f'second.{ending}', *sources, default=1)
        assert everything(second) == ([4, 5], {.5: 0, 1.5: 1}, ['track chosen'])

def unknown(path, codec, config):
    "Give a codec in an mp4 a name that nobody knows."
    data = path.read_bytes()
    at = data.index(codec, data.index(b'stsd'))
    path.write_bytes(data[:at] + b'zzzz' + data[at + 4:].replace(config, b'x' + config[1:], 1))
    return path

def test_tracks_without_a_decoder(tmp_path):
    path = unknown(several(tmp_path/'two.mp4', steps(tmp_path/'a.mp4', 2.), steps(tmp_path/'b.mp4', 2., first=4),
                           default=0), b'mp4a', b'esds')
    assert probe(path).audio == 'aac' and everything(path) == ([4, 5], {.5: 0, 1.5: 1}, ['track chosen'])
    write_soundtrack(path, tmp_path/'copy.mp4', ladder(2.))
    mute = unknown(steps(tmp_path/'mute.mp4', 2.), b'mp4a', b'esds')
    blind = unknown(steps(tmp_path/'blind.mp4', 2.), b'avc1', b'avcC')
    assert (probe(mute).audio, probe(mute).video, probe(mute).undecodable) == (None, 'h264', ('audio',))
    assert (probe(blind).audio, probe(blind).video, probe(blind).undecodable) == ('aac', None, ('video',))
    assert reason(read_audio, mute) == reason(read_frames, blind) == reason(write_soundtrack, blind,
        tmp_path/'copy.mp4', ladder(2.)) == 'no decoder'
    assert seen(read_frames(mute)) == {.5: 0, 1.5: 1} and heard(read_audio(blind)) == [0, 1]

def test_a_song_with_a_still(tmp_path):
    for ending in 'mp4', 'mkv':
        path = film(tmp_path/f'still.{ending}', 1/8, audio=tone(4.))
        times, images = read_frames(path)
        assert times == [.5, 1.5, 2.5, 3.5] and {colour(image) for image in images} == {(1, 0, 0)}
        assert read_frames(path, start=3., seconds=1.)[0] == [.5]

def test_a_varying_frame_rate(tmp_path):
    "Copied to Matroska, such pictures are promised for longer than they are: they are not cut off for that."
    with av.open(str(tmp_path/'a.mp4'), 'w') as file:
        stream = file.add_stream('libx264', rate=8, width=64, height=48, pix_fmt='yuv420p',
                                 options={'bf': '3', 'b-adapt': '0'})
        for n in [*range(16), *range(48, 55)]:  # between 2 and 6 s the picture stands
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 + 25 * (n // 8), np.uint8), 'rgb24')
            frame.pts, frame.time_base = n, Fraction(1, 8)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    write_soundtrack(tmp_path/'a.mp4', tmp_path/'copy.mkv', ladder(6.))
    wanted = {.5: 0, 1.5: 1, 2.5: 1, 3.5: 1, 4.5: 1, 5.5: 1}
    for path in tmp_path/'a.mp4', tmp_path/'copy.mkv':
        assert {time: step for time, step in seen(read_frames(path)).items() if time < 6} == wanted
        assert seen(read_frames(path, start=3., seconds=1.)) == {.5: 1}

def test_pictures_of_a_film_that_was_cut_off_are_not_held(good, tmp_path):
    for ending, options in ('mp4', {'movflags': 'faststart'}), ('mkv', {}):
        path = cut(remux(good, tmp_path/f'film.{ending}', **options), .6)
        assert reason(read_frames, path) == 'truncated' and len(read_frames(path, seconds=1.)[0]) == 1

def test_a_bare_stream_of_pictures(tmp_path):
    path = steps(tmp_path/'a.h264', 4., audio=None)
    assert probe(path).seconds == pytest.approx(4) and seen(read_frames(path)) == STEPS[1]
    assert seen(read_frames(path, start=2., seconds=1.)) == {.5: 2}
    with pytest.raises(InputError, match=naming(path, 'times', 'ffmpeg -framerate 25')):
        write_soundtrack(path, tmp_path/'copy.mp4', ladder(4.))

def edited(path, *edits):
    "Have an mp4's first track play (from, seconds) one after the other; from None: a pause."
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as file: base = file.streams[0].time_base
    at = data.index(b'elst')
    begin = int.from_bytes(data[at + 16:at + 20], 'big')
    clock = int.from_bytes(data[data.index(b'mvhd') + 16:][:4], 'big')
    new = b''.join(struct.pack('>IiI', round(clock * seconds), -1 if start is None else begin + round(start / base),
                               1 << 16) for start, seconds in edits)
    more = len(new) - 12 * int.from_bytes(data[at + 8:at + 12], 'big')
    data[at + 8:at + 12 + len(new) - more] = len(edits).to_bytes(4, 'big') + new
    for box in b'elst', b'edts', b'trak', b'moov':
        at = data.rindex(box, 0, at + 4)
        data[at - 4:at] = (int.from_bytes(data[at - 4:at], 'big') + more).to_bytes(4, 'big')
    path.write_bytes(data)
    return path

def test_what_an_mp4_plays_is_what_its_edits_say(tmp_path):
    twice = edited(steps(tmp_path/'twice.mp4', 6., audio=None), (1., 2.), (4., 2.))
    assert seen(read_frames(twice)) == {.5: 1, 1.5: 2, 2.5: 4, 3.5: 5}
    with pytest.raises(InputError, match=naming(twice, 'edits', 'ffmpeg -i')):
        write_soundtrack(twice, tmp_path/'copy.mp4', ladder(4.))
    late = edited(steps(tmp_path/'late.mp4', 3.), (None, 1.), (0., 2.))
    assert seen(read_frames(late, seconds=3.)) == {1.5: 0, 2.5: 1}
    write_soundtrack(late, tmp_path/'copy.mkv', ladder(3.))
    assert seen(read_frames(tmp_path/'copy.mkv')) == {1.5: 0, 2.5: 1}
    alone = edited(steps(tmp_path/'alone.mp4', 5., audio=None), (None, 1.), (2., 2.))
    assert probe(alone).seconds == pytest.approx(2), 'time 0 is where the pictures begin'
    assert seen(read_frames(alone)) == {.5: 2, 1.5: 3}, 'time 0 is where the pictures begin'
    pause = edited(steps(tmp_path/'pause.mp4', 6.), (0., 2.), (None, 1.), (2., 3.))
    assert reason(read_frames, pause) == reason(read_audio, pause) == 'unreadable'

def turned(path):
    "Note a quarter turn clockwise in an mp4."
    data = bytearray(path.read_bytes())
    at = data.index(b'tkhd') + 44
    matrix = [0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]
    data[at:at + 36] = b''.join(value.to_bytes(4, 'big', signed=True) for value in matrix)
    path.write_bytes(data)
    return path

def test_a_telephone_held_upright(tmp_path):
    frames = [Image.new('RGB', (64, 48), 'blue') for _ in range(8)]
    for frame in frames: frame.paste('red', (0, 0, 20, 48))  # red on the left
    write_video(tmp_path/'turned.mp4', frames, 8)
    image = read_frames(turned(tmp_path/'turned.mp4'))[1][0]
    assert image.size == (48, 64)
    assert image.getpixel((24, 5))[0] > 200 and image.getpixel((24, 55))[2] > 200  # left has become top

def test_spans_are_checked(good):
    for name, value in ('start', -1.), ('seconds', 0.), ('start', float('nan')):
        for read in read_audio, read_frames:
            with pytest.raises(InputError, match=naming(name, value)): read(good, **{name: value})
    with pytest.raises(InputError, match=naming('rate', 0)): read_frames(good, rate=0)
    assert reason(read_audio, good, start=60.) == reason(read_frames, good, start=60.) == 'too short'

def test_writing(tmp_path):
    path = tmp_path/'odd.mp4'
    write_video(path, [Image.new('RGB', (33, 17))] * 4, 4)
    assert (probe(path).width, probe(path).height, probe(path).audio) == (34, 18, None)
    with pytest.raises(InputError, match=naming('one frame')): write_video(tmp_path/'none.mp4', [], 4)
    with pytest.raises(InputError, match=naming('frame 1', '(10, 8)', '(8, 8)')):
        write_video(tmp_path/'two.mp4', [Image.new('RGB', (8, 8)), Image.new('RGB', (8, 10))], 4)
    with pytest.raises(InputError, match=naming('frame_rate', 0)):
        write_video(tmp_path/'two.mp4', [Image.new('RGB', (8, 8))], 0)
    with pytest.raises(InputError, match=naming(tmp_path/'nowhere', 'folder')):
        write_video(tmp_path/'nowhere'/'x.mp4', [Image.new('RGB', (8, 8))], 4)
    assert [p.name for p in tmp_path.iterdir()] == ['odd.mp4']

def encoded(path, codec, **options):
    "Three seconds of moving noise by any codec, with a title."
    with av.open(str(path), 'w') as file:
        stream = file.add_stream(codec, rate=8, width=64, height=48, pix_fmt='yuv420p', options=options)
        file.metadata['title'] = 'a walk'
        for n in range(24):
            pixels = np.random.default_rng(n).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels // 4 + 8 * np.uint8(n), 'rgb24')
            frame.pts, frame.time_base = n, Fraction(1, 8)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path

def decoded(path):
    "Times of all frames from the first on, how they are turned, the frames, and the file's title."
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
        return ([frame.time - frames[0].time for frame in frames], {frame.rotation for frame in frames},
                np.stack([frame.to_ndarray() for frame in frames]), file.metadata.get('title'))

def sweep(seconds=3., rate=44100, channels=1):
    "A tone that climbs."
    t = torch.arange(round(seconds * rate)) / rate
    return Audio((.3 * torch.sin(2*math.pi * (200*t + 300*t**2))).repeat(channels, 1), rate)

def is_copy(path, source, audio):
    "Has a film the pictures of another, bit for bit, and this sound, in time?"
    for ours, theirs in zip(decoded(path), decoded(source)):
        assert np.allclose(ours, theirs, atol=1e-3) if isinstance(ours, list) else np.array_equal(ours, theirs)
    back = read_audio(path)
    expected = resample(audio.waveform.mean(0), audio.sample_rate, 16000)
    n = len(expected) + back.waveform.shape[1]
    alike = torch.fft.irfft(torch.fft.rfft(back.waveform[0] / back.waveform.norm(), n)
                            * torch.fft.rfft(expected / expected.norm(), n).conj(), n)
    at = int(alike.argmax())
    assert min(at, n - at) / 16000 < .03 and alike[at] > .98
    return probe(path)

@pytest.mark.parametrize('codec, name, endings', [('libx264', 'film.mp4', ['.mp4', '.MOV', '.mkv']),
                                                  ('libx264', 'film.mkv', ['.mp4', '.mkv']),
                                                  ('libx264', 'film.ts', ['.mp4', '.mkv']),
                                                  ('libvpx-vp9', 'film.webm', ['.webm', '.mp4', '.mkv']),
                                                  ('libvpx', 'film.webm', ['.webm']),
                                                  ('mpeg4', 'film.avi', ['.mov', '.mkv'])])
def test_another_soundtrack(tmp_path, codec, name, endings):
    source = encoded(tmp_path/name, codec, **({'bf': '2'} if codec == 'libx264' else {}))
    if codec == 'libx264':
        with av.open(str(source)) as file:
            assert any(p.pts != p.dts for p in file.demux() if p.size and p.dts is not None), 'it has B-frames'
    for ending in endings:
        # the last is a rate that neither AAC nor Opus knows
        for audio in sweep(), sweep(rate=16000, channels=2), sweep(rate=20000):
            path = tmp_path/f'copy{ending}'
            write_soundtrack(source, path, audio)
            info = is_copy(path, source, audio)
            assert (info.audio, info.channels) == ('opus' if ending == '.webm' else 'aac', len(audio.waveform))
            if audio.sample_rate != 20000 and ending != '.webm': assert info.sample_rate == audio.sample_rate

def test_a_soundtrack_in_place_of_its_own(good, tmp_path):
    film, link = tmp_path/'film.mp4', tmp_path/'link.mp4'
    film.write_bytes(good.read_bytes())
    link.symlink_to(film)
    write_soundtrack(film, link, sweep(1.))  # onto itself
    assert link.is_symlink() and is_copy(film, good, sweep(1.)).seconds == pytest.approx(4)
    late = remux(good, tmp_path/'late.mkv', audio_delay=1.)
    write_soundtrack(late, tmp_path/'longer.mp4', sweep(6.))
    assert is_copy(tmp_path/'longer.mp4', good, sweep(6.)).seconds == pytest.approx(6, abs=.1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['film.mp4', 'late.mkv', 'link.mp4', 'longer.mp4']

@pytest.mark.parametrize('ending', ['.mp4', '.mov', '.mkv'])
def test_what_is_known_of_the_pictures_goes_along(tmp_path, ending):
    source = turned(encoded(tmp_path/'film.mp4', 'libx264'))
    assert decoded(source)[1] == {-90} and decoded(source)[3] == 'a walk'
    write_soundtrack(source, tmp_path/f'copy{ending}', sweep())
    is_copy(tmp_path/f'copy{ending}', source, sweep())

def test_a_title_that_is_no_text_is_no_fault_of_the_film(tmp_path):
    source = encoded(tmp_path/'film.mp4', 'libx264')
    source.write_bytes(source.read_bytes().replace(b'a walk', b'\xff walk'))
    assert b'\xff walk' in source.read_bytes()
    write_soundtrack(source, tmp_path/'copy.mp4', sweep())
    assert probe(source).seconds == probe(tmp_path/'copy.mp4').seconds == pytest.approx(3, abs=.1)

def test_pictures_that_an_mp4_hides_stay_hidden(tmp_path):
    source = encoded(tmp_path/'film.mp4', 'libx264')
    data = bytearray(source.read_bytes())
    at = data.index(b'elst') + 12  # milliseconds of the film that are shown, and where they begin
    shown, begin = (int.from_bytes(data[at + k:at + k + 4], 'big') for k in (0, 4))
    with av.open(str(source)) as file: frame = int(1 / 8 / file.streams.video[0].time_base)
    data[at:at + 8] = (shown - 625).to_bytes(4, 'big') + (begin + 5 * frame).to_bytes(4, 'big')
    source.write_bytes(data)
    assert len(decoded(source)[0]) == 19
    for ending in '.mp4', '.mov':
        write_soundtrack(source, tmp_path/f'copy{ending}', sweep(2.))
        is_copy(tmp_path/f'copy{ending}', source, sweep(2.))

def test_a_soundtrack_that_cannot_be_written_leaves_nothing_behind(good, tmp_path):
    folder = tmp_path/'copies'
    folder.mkdir()
    (folder/'before.mp4').write_text('what was there')
    (tmp_path/'page.mp4').write_text('<html>Video unavailable</html>')
    tone(1.).save(tmp_path/'tone.wav')
    cut(remux(good, tmp_path/'fast.mp4', movflags='faststart'), .6)
    cut(remux(good, tmp_path/'cut.mkv'), .6)
    wanted = {'tone.wav': 'no video', 'page.mp4': 'not a video', 'gone.mp4': 'missing', 'fast.mp4': 'truncated',
              'cut.mkv': 'truncated'}
    assert {name: reason(write_soundtrack, tmp_path/name, folder/'before.mp4', sweep()) for name in wanted} == wanted
    vp9 = encoded(tmp_path/'film.webm', 'libvpx-vp9')
    wmv = encoded(tmp_path/'film.wmv', 'wmv2')
    for source, path, audio, says in [
            (vp9, 'x.mov', sweep(), f'vp9 {vp9} .mov .mkv'), (good, 'x.webm', sweep(), f'h264 {good} .webm .mkv'),
            (wmv, 'x.mkv', sweep(), f'wmv2 {wmv} .mkv H.264'),
            (good, 'x.gif', sweep(), "'x.gif' .mp4 .mov .mkv .webm"),
            (good, 'x.mp4', sweep(channels=6), 'channels 1 2 6'), (good, 'no/x.mp4', sweep(), f'{folder}/no folder')]:
        with pytest.raises(InputError, match=naming(*says.split())): write_soundtrack(source, folder/path, audio)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for limit in 0, 3000, 15000:  # the disk takes no more
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            with pytest.raises(ClipsonicError, match=naming(folder/'x.webm', 'File too large')):
                write_soundtrack(vp9, folder/'x.webm', sweep())
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in folder.iterdir()] == ['before.mp4']
    assert (folder/'before.mp4').read_text() == 'what was there'

def test_images(tmp_path):
    Image.new('RGBA', (8, 4), (255, 0, 0, 0)).save(tmp_path/'clear.png')
    assert read_image(tmp_path/'clear.png').getpixel((0, 0)) == (255, 255, 255)
    turned = Image.new('RGB', (8, 4))
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path/'turned.jpg', exif=turned.getexif())
    assert read_image(tmp_path/'turned.jpg').size == (4, 8)
    ramp = np.arange(0, 65536, 256, dtype=np.uint16)[None].repeat(4, 0)
    Image.fromarray(ramp).save(tmp_path/'deep.png')
    grays = [read_image(tmp_path/'deep.png').getpixel((x, 0))[0] for x in (0, 100, 255)]
    assert grays == [0, 100, 255], 'gray in 16 bits'
    Image.effect_noise((64, 64), 50).save(tmp_path/'noise.png')
    for path, says in (cut(tmp_path/'noise.png', .5), 'truncated'), (tmp_path/'gone.jpg', 'file'), (tmp_path, 'file'):
        with pytest.raises(InputError, match=naming(path, 'image', says)): read_image(path)

# what a player plays and shows

def test_a_wav_that_holds_mp3_is_whole(tmp_path):
    path = sounding(tmp_path/'a.wav', tone(2., rate=44100), 'libmp3lame')
    assert soundfile.info(path).subtype == 'MPEG_LAYER_III'
    sound = read_audio(path)
    assert sound.seconds == pytest.approx(2, abs=.06) and pitch(sound.waveform) == pytest.approx(440, abs=1)
    assert read_audio(path, start=.5, seconds=1.).seconds == 1
    assert reason(read_audio, cut(path, .6)) == 'truncated'

TELEPHONES = 'GSM610', 'MS_ADPCM', 'IMA_ADPCM', 'G721_32', 'NMS_ADPCM_16', 'NMS_ADPCM_32', 'ALAW'

@pytest.mark.parametrize('subtype', TELEPHONES)
def test_what_telephones_put_into_a_wav(tmp_path, subtype):
    path, wave = tmp_path/'a.wav', sweep(2., rate=8000).waveform[0]
    soundfile.write(path, wave.numpy(), 8000, subtype=subtype)
    sound = read_audio(path, None).waveform[0]
    assert 16000 <= len(sound) < 16400 and torch.corrcoef(torch.stack([sound[:16000], wave]))[0, 1] > .99
    part = read_audio(path, None, start=.75, seconds=1.).waveform[0]
    close = 1e-6 if subtype in ('ALAW', 'G721_32') else .02   # ffmpeg's decoders warm up
    assert len(part) == 8000 and (part - sound[6000:14000]).abs().max() < close
    assert reason(read_audio, path, start=60.) == 'too short'

def sounding(path, audio, codec, **options):
    "A file with nothing but a sound, in any codec."
    with av.open(str(path), 'w', options=options) as file:
        stream = file.add_stream(codec, rate=audio.sample_rate, layout='mono')
        context = stream.codec_context
        resampler = av.AudioResampler(context.format, 'mono', audio.sample_rate, frame_size=context.frame_size)
        frame = av.AudioFrame.from_ndarray(audio.waveform.numpy(), 'fltp', 'mono')
        frame.sample_rate, frame.pts = audio.sample_rate, 0
        for part in [*resampler.resample(frame), *resampler.resample(None)]: file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return path

@pytest.mark.parametrize('name, codec', [('a.m4a', 'aac'), ('a.mov', 'aac'), ('b.mp4', 'libopus'),
                                         ('c.mp4', 'libmp3lame'), ('a.webm', 'libopus'), ('a.mp3', 'libmp3lame')])
def test_what_an_encoder_adds_is_not_heard(tmp_path, name, codec):
    audio = sweep(1.006, rate=48000)   # not a whole number of frames, but of milliseconds, in which an mp4 counts
    path = sounding(tmp_path/name, audio, codec)
    sound, wave = read_audio(path, None).waveform[0], audio.waveform[0]
    assert len(sound) == len(wave)
    assert torch.corrcoef(torch.stack([sound, wave]))[0, 1] > .99
    part = read_audio(path, None, start=.5).waveform[0]
    slack = 24 if name == 'a.webm' else 0   # Matroska's clock counts milliseconds
    assert abs(len(part) - (len(wave) - 24000)) <= slack

def surround(path, layout, sounding, rate=16000, level=.5, codec='pcm_f32le'):
    "A sound whose one channel sounds, by ffmpeg's name of it."
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    wave = np.zeros((len(names), rate), np.float32)
    wave[names.index(sounding)] = level * np.sin(2*np.pi * 440 * np.arange(rate) / rate)
    with av.open(str(path), 'w') as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.T).reshape(1, -1), 'flt', layout)
        frame.sample_rate, frame.pts = rate, 0
        context = stream.codec_context
        resampler = av.AudioResampler(context.format, layout, rate, frame_size=context.frame_size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]: file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return path

def share(path): return (read_audio(path, None).waveform.abs().max() / .5).item()

def test_channels_are_mixed_by_bs_775_whoever_reads_them(tmp_path):
    left, total = .5**.5, 2 * .5**.5 + 1 + 2 * .5   # of 5.1
    cases = [('stereo', 'FL', .5), ('5.1', 'FC', 1 / total), ('5.1', 'FL', left / total), ('5.1', 'BR', .5 / total),
             ('5.1(side)', 'SL', .5 / total), ('quad', 'FR', left / (2*left + 1)), ('3.0', 'FC', 1 / (2*left + 1)),
             ('7.1', 'SR', .5 / (total + 1)), ('5.1.2', 'TFL', 1 / 8)]   # BS.775 knows no heights
    for layout, name, wanted in cases:
        for file, codec in ('a.wav', 'pcm_f32le'), ('a.w64', 'pcm_f32le'), ('a.flac', 'flac'):
            if file == 'a.flac' and layout == '5.1.2': continue   # a flac has no heights
            path = surround(tmp_path/file, layout, name, codec=codec)
            assert share(path) == pytest.approx(wanted, abs=1e-4), (layout, name, file)
    wave = np.zeros((16000, 6))
    wave[:, 2] = .5
    soundfile.write(tmp_path/'b.wav', wave, 16000, subtype='FLOAT')   # names no channels
    assert share(tmp_path/'b.wav') == pytest.approx(1 / 6, abs=1e-4)
    soundfile.write(tmp_path/'c.wav', np.ones((16000, 6)), 16000, format='WAVEX', subtype='FLOAT')
    assert read_audio(tmp_path/'c.wav', None).peak <= 1 + 1e-6, 'nothing clips'

def test_what_would_vanish_or_drown_all_else_is_named(tmp_path):
    wave = tone(1.).waveform.T.numpy()
    soundfile.write(tmp_path/'opposite.wav', np.concatenate([wave, -wave], 1), 16000)
    soundfile.write(tmp_path/'silent.wav', np.zeros((16000, 2)), 16000)
    soundfile.write(tmp_path/'side.wav', np.concatenate([wave, -.9 * wave], 1), 16000)
    soundfile.write(tmp_path/'integers.wav', wave * 32767, 16000, subtype='FLOAT')
    soundfile.write(tmp_path/'hot.wav', wave * 20, 16000, subtype='FLOAT')
    soundfile.write(tmp_path/'nan.wav', np.where(wave > .2, np.nan, wave), 16000, subtype='FLOAT')
    surround(tmp_path/'bass.wav', '5.1', 'LFE')
    for span in {}, {'start': .25, 'seconds': .5}:   # libsndfile, and ffmpeg
        names = 'opposite.wav', 'bass.wav', 'integers.wav', 'nan.wav'
        reasons = [reason(read_audio, tmp_path/name, **span) for name in names]
        assert reasons == ['opposite phase', 'opposite phase', 'out of scale', 'not finite']
        assert read_audio(tmp_path/'silent.wav', **span).peak == 0
        assert read_audio(tmp_path/'side.wav', **span).peak == pytest.approx(.015, abs=1e-3)
        assert read_audio(tmp_path/'hot.wav', **span).peak == pytest.approx(6, abs=.01)

def test_a_file_that_names_others_opens_none_of_them(tmp_path, good):
    remux(good, tmp_path/'part.ts')
    (tmp_path/'part.mp4').write_bytes(good.read_bytes())
    concat = 'ffconcat version 1.0\nfile part.mp4\n'
    texts = {
        'list.m3u8': '#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\npart.ts\n#EXT-X-ENDLIST\n',
        'master.m3u8': '#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9\nlist.m3u8\n',
        'list.ffconcat': concat, 'list.concat': concat, 'list.txt': concat,
        'talk.sdp': 'v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n'
                    'a=rtpmap:96 H264/90000\n',
        'dash.mpd': '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
                    'mediaPresentationDuration="PT4S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
                    '<AdaptationSet><Representation id="1" bandwidth="9"><BaseURL>part.mp4</BaseURL></Representation>'
                    '</AdaptationSet></Period></MPD>'}
    for name, text in texts.items(): (tmp_path/name).write_text(text)
    for read in probe, read_audio, read_frames:
        assert {name: reason(read, tmp_path/name) for name in texts} == dict.fromkeys(texts, 'not a video')
    with pytest.raises(MediaError, match=naming(tmp_path/'list.m3u8', 'playlist')): probe(tmp_path/'list.m3u8')
    Image.new('RGB', (8, 8), 'red').save(tmp_path/'a%d.png')
    Image.new('RGB', (8, 8), 'blue').save(tmp_path/'a0.png')
    assert colour(read_frames(tmp_path/'a%d.png')[1][0].resize((40, 40))) == (1, 0, 0), 'a name is no pattern'

def test_where_ffmpeg_cannot_seek_it_is_read_from_the_beginning(good, tmp_path):
    "It refuses to in a Matroska file whose pictures have lost their key frames."
    path = tmp_path/'keyless.mkv'
    with av.open(str(good)) as old, av.open(str(path), 'w') as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is None or packet.stream.type == 'video' and packet.is_keyframe: continue
            packet.stream = streams[packet.stream.index]
            new.mux(packet)
    whole = read_audio(path).waveform[0, 32000:48000]
    assert (read_audio(path, start=2., seconds=1.).waveform[0] - whole).abs().max() < .01

def test_an_flv_that_is_cut_off_is_no_shorter_film(good, tmp_path):
    "Its header says how long all tracks together last."
    whole = remux(good, tmp_path/'film.flv')
    assert read_audio(whole).seconds == pytest.approx(4, abs=.1) and len(read_frames(whole)[0]) == 4
    cut(whole, .6)
    assert reason(read_audio, whole) == reason(read_frames, whole) == 'truncated'
    assert read_audio(whole, seconds=1.).seconds == 1 and len(read_frames(whole, seconds=1.)[0]) == 1
    early = remux(film(tmp_path/'early.mp4', 1., audio=tone(4., rate=44100)), tmp_path/'early.flv')
    assert len(read_frames(early)[0]) == 4, 'the pictures end early, the file does not'
    assert read_audio(early).seconds == pytest.approx(4, abs=.1)

def test_songs_and_files_that_say_only_how_long_all_lasts(good, tmp_path):
    song = remux(sounding(tmp_path/'a.mp4', tone(3., rate=44100), 'aac'), tmp_path/'song.m4a', movflags='faststart')
    plain = remux(good, tmp_path/'plain.mkv')
    plain.write_bytes(plain.read_bytes().replace(b'DURATION', b'NOTATION'))   # mkvmerge names it otherwise
    for path, whole in (song, 3), (plain, 4):
        assert read_audio(path).seconds == pytest.approx(whole, abs=.1)
        assert reason(read_audio, cut(path, .6)) == 'truncated'
        assert read_audio(path, seconds=1.).seconds == 1

# what a picture looks like

def encoded_frames(path, frame, codec, tags={}, aspect=None, n=4, format=None, **options):
    "A film of one frame, n times, whose stream and frames have these tags."
    with av.open(str(path), 'w', format=format) as file:
        stream = file.add_stream(codec, rate=8, width=frame.width, height=frame.height, pix_fmt=frame.format.name,
                                 options=options)
        if aspect: stream.codec_context.sample_aspect_ratio = aspect
        for thing in stream.codec_context, frame:
            for name, value in tags.items(): setattr(thing, name, value)
        for at in range(n):
            frame.pts, frame.time_base = at, Fraction(1, 8)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path

def planes(pixels, values, size=(16, 16)):
    "A frame whose planes have these values: a number for all, or one for each column."
    frame = av.VideoFrame(*size, pixels)
    for plane, value in zip(frame.planes, values):
        deep = np.uint16 if pixels.endswith('10le') else np.uint8
        wide = np.zeros((plane.height, plane.line_size // deep().itemsize), deep)
        wide[:, :plane.width] = value
        plane.update(wide.tobytes())
    return frame

# the shares of red and blue in luma: BT.709, BT.601 twice, BT.2020
MATRICES = {1: (.2126, .0722), 5: (.299, .114), 6: (.299, .114), 9: (.2627, .0593)}

def as_yuv(rgb, matrix, full):
    "8-bit Y, U and V of an RGB color, by the standards' formulas."
    red, blue = MATRICES[matrix]
    r, g, b = (value / 255 for value in rgb)
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / 2 / (1 - blue), (r - y) / 2 / (1 - red)
    return [round(x) for x in ((255*y, 255*u + 128, 255*v + 128) if full else (16 + 219*y, 128 + 224*u, 128 + 224*v))]

def is_near(image, *colors):
    "Has the middle row of an image these colors, from left to right?"
    wide = image.width / len(colors)
    found = [image.getpixel((round((k + .5) * wide), image.height // 2)) for k in range(len(colors))]
    assert np.abs(np.subtract(found, colors)).max() <= 4, found
    return True

def test_colors_are_those_of_the_tags(tmp_path):
    rgb = (200, 60, 30)
    for matrix in MATRICES:
        for full in False, True:
            tags = {'colorspace': matrix, 'color_range': 1 + full}
            frame = planes('yuv444p', as_yuv(rgb, matrix, full))
            assert is_near(read_frames(encoded_frames(tmp_path/'a.mkv', frame, 'ffv1', tags))[1][0], rgb)
    for size, matrix in ((704, 576), 6), ((1280, 544), 1), ((720, 720), 1):   # no tag: by the size
        frame = planes('yuv444p', as_yuv(rgb, matrix, False), size)
        assert is_near(read_frames(encoded_frames(tmp_path/'a.mkv', frame, 'ffv1'))[1][0], rgb)

def test_pixels_are_made_square(tmp_path):
    frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), 'rgb24').reformat(format='yuv420p')
    for name, codec, aspect, size in [('a.mp4', 'mpeg4', Fraction(16, 11), (93, 48)),
                                      ('c.mp4', 'mpeg4', None, (64, 48)),
                                      ('a.mkv', 'libx264', Fraction(4, 3), (85, 48)),
                                      ('b.mkv', 'libx264', Fraction(1, 2), (64, 96))]:
        path = encoded_frames(tmp_path/name, frame, codec, aspect=aspect)
        assert read_frames(path)[1][0].size == size
        assert min(read_frames(path, short_side=24)[1][0].size) == 24
    path = turned(encoded_frames(tmp_path/'d.mp4', frame, 'mpeg4', aspect=Fraction(16, 11)))
    assert read_frames(path)[1][0].size == (48, 93)

@pytest.mark.parametrize('matrix, corners', [
    ((1, 0, 0, 1), 'rgbw'), ((-1, 0, 0, 1), 'grwb'), ((1, 0, 0, -1), 'bwrg'), ((-1, 0, 0, -1), 'wbgr'),
    ((0, 1, -1, 0), 'brwg'), ((0, -1, 1, 0), 'gwrb'), ((0, 1, 1, 0), 'rbgw'), ((0, -1, -1, 0), 'wgbr')])
def test_turned_and_mirrored(tmp_path, matrix, corners):
    colors = dict(r=(255, 0, 0), g=(0, 255, 0), b=(0, 0, 255), w=(255, 255, 255))
    image = np.array([[colors['r'], colors['g']], [colors['b'], colors['w']]], np.uint8).repeat(24, 0).repeat(32, 1)
    frame = av.VideoFrame.from_ndarray(image, 'rgb24').reformat(format='yuv444p')
    path = encoded_frames(tmp_path/'a.mp4', frame, 'libx264')
    data, (a, b, c, d) = bytearray(path.read_bytes()), (value << 16 for value in matrix)
    at = data.index(b'tkhd') + 44
    data[at:at + 36] = b''.join(value.to_bytes(4, 'big', signed=True) for value in (a, b, 0, c, d, 0, 0, 0, 1 << 30))
    path.write_bytes(data)
    seen = read_frames(path)[1][0]
    assert seen.size == ((48, 64) if b else (64, 48))
    for (x, y), name in zip(((.2, .2), (.8, .2), (.2, .8), (.8, .8)), corners):
        found = seen.getpixel((int(x * seen.width), int(y * seen.height)))
        assert np.abs(np.subtract(found, colors[name])).max() < 12

# red, and a blue that is transparent
CLEAR = np.array([[(200, 0, 0, 255), (0, 0, 200, 0)]], np.uint8).repeat(48, 0).repeat(32, 1)

@pytest.mark.parametrize('name, codec, pixels', [
    ('a.mov', 'png', 'rgba'), ('b.mov', 'prores_ks', 'yuva444p10le'), ('c.mov', 'qtrle', 'argb'),
    ('a.mkv', 'ffv1', 'yuva420p'), ('a.webm', 'libvpx-vp9', 'yuva420p')])
def test_what_is_transparent_lies_on_white(tmp_path, name, codec, pixels):
    frame = av.VideoFrame.from_ndarray(CLEAR, 'rgba').reformat(format=pixels)
    options = {'profile': '4'} if codec == 'prores_ks' else {'lossless': '1'} if codec == 'libvpx-vp9' else {}
    path = encoded_frames(tmp_path/name, frame, codec, **options)
    assert is_near(read_frames(path)[1][0], (200, 0, 0), (255, 255, 255))

def test_moving_gif_and_webp(tmp_path):
    images = [Image.new('RGBA', (40, 40), color) for color in ('red', 'lime', (0, 0, 255, 0))]
    for name in 'a.webp', 'a.png', 'a.gif':
        # where nothing is drawn a gif keeps what was there
        if name == 'a.gif': images[2] = Image.new('RGB', (40, 40), 'white')
        options = {'lossless': True} if name == 'a.webp' else {}
        path = tmp_path/name
        images[0].save(path, save_all=True, append_images=images[1:], duration=[1000, 2000, 1000],
                       loop=0, **options)
        times, seen = read_frames(path)
        assert [colour(image) for image in seen] == [(1, 0, 0), (0, 1, 0), (0, 1, 0), (1, 1, 1)], name
        assert colour(read_image(path)) == (1, 0, 0)
    assert probe(tmp_path/'a.webp').seconds == pytest.approx(4)
    assert reason(probe, cut(tmp_path/'a.webp', .5)) == 'unreadable'

def pq(nits):
    "The code of SMPTE ST 2084 for a luminance."
    power = (np.asarray(nits) / 10000) ** .1593017578125
    return ((.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375

def hlg(nits):
    "The code of ARIB STD-B67 for a gray of a luminance on a screen of 1000 cd/m²."
    scene = (np.asarray(nits) / 1000) ** (1 / 1.2)
    bright = .17883277 * np.log(np.maximum(12 * scene - .28466892, 1e-9)) + .55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)

@pytest.mark.parametrize('transfer, coded', [(16, pq), (18, hlg)])
def test_hdr_is_mapped_to_what_a_screen_shows(tmp_path, transfer, coded):
    nits = np.array([0, 2, 20, 100, 203, 600, 1000])
    columns = np.repeat(64 + 876 * coded(nits), 16).round().astype(np.uint16)
    frame = planes('yuv444p10le', [columns, 512, 512], (len(columns), 16))
    tags = dict(color_trc=transfer, color_primaries=9, colorspace=9, color_range=1)
    path = encoded_frames(tmp_path/'a.mkv', frame, 'ffv1', tags)
    light = nits / 203 * (1 + nits / 203 / (1000 / 203)**2) / (1 + nits / 203)   # Reinhard's curve
    wanted = 255 * np.where(light <= .0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - .055)
    image = read_frames(path)[1][0]
    grays = np.array([image.getpixel((16 * k + 8, 8)) for k in range(len(nits))])
    assert np.abs(grays - wanted[:, None]).max() < 7, grays

def test_a_wide_gamut_is_brought_to_srgb(tmp_path):
    "The red of sRGB in BT.2020's primaries (ITU-R BT.2087)."
    inverse = lambda x: x ** (1 / 2.4)
    red = [round(255 * inverse(x)) for x in (.6274, .0691, .0164)]
    frame = planes('yuv444p', as_yuv(red, 9, False))
    tags = dict(color_trc=14, color_primaries=9, colorspace=9, color_range=1)
    image = read_frames(encoded_frames(tmp_path/'a.mkv', frame, 'ffv1', tags))[1][0]
    assert image.getpixel((8, 8))[0] > 245 and max(image.getpixel((8, 8))[1:]) < 45

def test_numbers_of_which_nothing_says_what_is_white(tmp_path):
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None].repeat(4, 0)
    Image.fromarray(ramp).save(tmp_path/'float.tif')
    assert [read_image(tmp_path/'float.tif').getpixel((x, 0))[0] for x in (0, 100, 255)] == [0, 100, 255]
    for name, array, says in [('large.tif', ramp * 255, '0 255'), ('below.tif', ramp - .5, '-0.5 0.5'),
                              ('none.tif', ramp * np.nan, 'nan'),
                              ('whole.tif', (ramp * 2**30).astype(np.int32), '32 bits')]:
        Image.fromarray(array).save(tmp_path/name)
        with pytest.raises(InputError, match=naming(tmp_path/name, *says.split())): read_image(tmp_path/name)
    Image.fromarray((ramp * 65535).astype(np.uint16)).save(tmp_path/'deep.tif')
    assert read_image(tmp_path/'deep.tif').getpixel((100, 0))[0] == 100
    assert rgb_image(Image.fromarray(CLEAR)).getpixel((50, 20)) == (255, 255, 255)

def test_a_picture_has_the_colors_of_its_profile(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    swapped = srgb.replace(b'rXYZ', b'tmp_', 1).replace(b'bXYZ', b'rXYZ', 1).replace(b'tmp_', b'bXYZ', 1)
    swapped = swapped.replace('sRGB'.encode('utf-16-be'), 'rgbS'.encode('utf-16-be'))
    red, clear = Image.new('RGB', (8, 8), (255, 0, 0)), Image.new('RGBA', (8, 8), (255, 0, 0, 0))
    # a profile whose red is blue, one that changes nothing, one that cannot be read
    for image, profile, wanted in [(red, swapped, (0, 0, 1)), (red, srgb, (1, 0, 0)), (red, b'no profile', (1, 0, 0)),
                                   (red.quantize(4), swapped, (0, 0, 1)), (clear, swapped, (1, 1, 1))]:
        image.save(tmp_path/'a.png', icc_profile=profile)
        assert tuple(round(value / 255) for value in read_image(tmp_path/'a.png').getpixel((4, 4))) == wanted

def test_no_global_state(good):
    state = torch.get_rng_state()
    read_audio(good), read_frames(good)
    assert torch.equal(state, torch.get_rng_state())

def test_after_a_jump_into_flac_in_an_ogg_the_sound_stays_at_its_time(tmp_path):
    "With noise, of which a page of the ogg ends within a frame."
    sound = ladder(8., 48000)
    sound = Audio(sound.waveform + .1 * torch.rand(sound.waveform.shape, generator=torch.Generator().manual_seed(0)),
                  48000)
    path = tmp_path/'a.ogg'
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('flac', rate=48000, layout='mono')
        for frame in [*_sound_frames(sound), None]: file.mux(stream.encode(frame))
    assert heard(read_audio(path, start=3., seconds=3.)) == [3, 4, 5]
    assert read_audio(path, start=7.3, seconds=2.).seconds == pytest.approx(.7, abs=.03)

def test_oggs_one_after_the_other_in_parts(tmp_path):
    for name, first in ('a.ogg', 0), ('b.ogg', 4): ladder(4., 44100, first=first).save(tmp_path/name)
    path = joined(tmp_path/'two.ogg', tmp_path/'a.ogg', tmp_path/'b.ogg')
    assert probe(path).seconds == pytest.approx(8, abs=.02)
    assert heard(read_audio(path, start=3., seconds=3.)) == [3, 4, 5]

def test_oggs_of_different_kinds_one_after_the_other_are_named(tmp_path):
    for name, rate in ('a.ogg', 44100), ('b.ogg', 22050): ladder(2., rate).save(tmp_path/name)
    path = joined(tmp_path/'two.ogg', tmp_path/'a.ogg', tmp_path/'b.ogg')
    with pytest.raises(MediaError, match=naming(path, 'oggs')): read_audio(path)
    assert reason(probe, path) == 'unreadable'

def test_the_length_of_a_song_without_a_header_is_no_guess(tmp_path):
    "A quiet beginning has a low bit rate, by which FFmpeg guesses."
    hiss = torch.rand(1, 64000, generator=torch.Generator().manual_seed(0)) - .5
    write_video(tmp_path/'a.mp4', [np.zeros((48, 64, 3), np.uint8)], 1., Audio(torch.cat([0 * hiss, hiss], 1), 16000))
    with av.open(str(tmp_path/'a.mp4')) as old, av.open(str(tmp_path/'a.aac'), 'w') as new:
        sound = new.add_stream_from_template(old.streams.audio[0])
        for packet in old.demux(old.streams.audio[0]):
            if packet.dts is None: continue
            packet.stream = sound
            new.mux(packet)
    with av.open(str(tmp_path/'a.aac')) as file: assert abs(file.duration / 1e6 - 8) > 1
    assert probe(tmp_path/'a.aac').seconds == pytest.approx(8, abs=.1)

def test_a_clock_that_begins_below_zero(tmp_path):
    path = remux(steps(tmp_path/'a.mp4', 4.), tmp_path/'early.mkv', -.5, -.5, avoid_negative_ts='disabled')
    with av.open(str(path)) as file: assert file.start_time < -4e5
    assert 4 <= probe(path).seconds < 4.15   # with what the encoder filled up, which Matroska does not tell apart
    assert everything(path)[:2] == STEPS[:2]

def test_a_sound_that_ends_with_the_span_has_no_hole(tmp_path):
    path, repairs = remux(steps(tmp_path/'a.mp4', 4.), tmp_path/'a.mkv', late=lambda now: .009 * (now > 2)), []
    with av.open(str(path)) as file: *_, last = file.decode(audio=0)
    seconds = last.time + last.samples / 16000 - .001
    assert read_audio(path, seconds=seconds, repairs=repairs).waveform.shape == (1, round(16000 * seconds))
    assert not repairs

def test_the_frame_rate_of_a_camcorder(tmp_path):
    with av.open(str(tmp_path/'a.dv'), 'w') as file:
        pictures = file.add_stream('dvvideo', rate=25, width=720, height=576, pix_fmt='yuv420p')
        sound = file.add_stream('pcm_s16le', rate=48000, layout='stereo')
        for n in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((576, 720, 3), np.uint8), 'rgb24')
            frame.pts, frame.time_base = n, Fraction(1, 25)
            file.mux(pictures.encode(frame))
            quiet = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 1920), np.int16), 's16', 'stereo')
            quiet.sample_rate, quiet.pts = 48000, 1920 * n
            file.mux(sound.encode(quiet))
    assert probe(tmp_path/'a.dv').frame_rate == 25

def test_recordings_joined_whose_clock_goes_back_by_minutes(tmp_path):
    "Where that is below the first time, FFmpeg adds 26.5 hours."
    whole = steps(tmp_path/'a.mp4', 4.), steps(tmp_path/'b.mp4', 4., first=4)
    parts = [remux(film, tmp_path/f'{delay}.ts', delay, delay) for film, delay in zip(whole, (300., 0.))]
    path, repairs = joined(tmp_path/'joined.ts', *parts), []
    assert probe(path).seconds == pytest.approx(8, abs=.5)
    assert heard(read_audio(path, repairs=repairs)) == list(range(8)) == list(seen(read_frames(path)).values())
    assert heard(read_audio(path, start=3., seconds=3.)) == [3, 4, 5]
    assert [what for what, _ in repairs] == ['clock set back'] and repairs[0][1].startswith('by 30')

@pytest.mark.parametrize('name', ['a.avi', 'a.aiff', 'a.au', 'a.flac', 'a.rf64'])
def test_a_cut_file_of_an_older_kind(tmp_path, name):
    path = tmp_path/name
    if name == 'a.avi': steps(path, 8., video='mpeg4', audio='libmp3lame')
    else: soundfile.write(path, ladder(8.).waveform[0].numpy(), 16000, format=path.suffix[1:].upper(), subtype='PCM_16')
    if name == 'a.flac': path.write_bytes(b'ID3\3\0\0\0\0\0\x0a' + bytes(10) + path.read_bytes())
    assert heard(read_audio(path)) == list(range(8))
    cut(path, .7)
    assert heard(read_audio(path, start=2., seconds=2.)) == [2, 3]
    assert reason(read_audio, path) == reason(read_audio, path, start=4.5, seconds=2.) == 'truncated'
