"""Media files as they come: odd names, odd containers, damage."""
import os

import av
import numpy as np
import pytest
import torch
from PIL import Image

from clipsonic.core import InputError, MediaError
from clipsonic.video import probe, read_audio, read_frames, read_image, write_video
from films import cut, film, pitch, remux, song, tone

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

def test_a_frame_rate_below_the_one_asked_for_repeats_frames(tmp_path):
    slow = film(tmp_path/'slow.mp4', 4., rate=1, audio=None)
    times, images = read_frames(slow, rate=4.)
    assert len(times) == 16 and [colour(image) for image in images[::4]] == [(1, 0, 0), (1, 1, 0), (0, 1, 0), (1, 1, 1)]

def test_picture_ends_before_the_sound(tmp_path):
    path = film(tmp_path/'short.mp4', 1., audio=tone(4.))
    assert read_frames(path)[0] == [.5] and read_audio(path).seconds == pytest.approx(4, abs=.1)

def test_broken_files(tmp_path):
    (tmp_path/'page.mp4').write_text('<html>Video unavailable</html>')
    (tmp_path/'titles.mp4').write_text('1\n00:00:00,000 --> 00:00:01,000\nhello\n')
    (tmp_path/'notes.txt').write_text('a list of things\n' * 50)
    (tmp_path/'list.mp4').write_text('#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n')
    (tmp_path/'empty.mp4').touch()
    os.mkfifo(tmp_path/'pipe.mp4')
    wanted = {'page.mp4': 'not a video', 'titles.mp4': 'not a video', 'notes.txt': 'not a video', 'list.mp4': 'not a video',
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
        assert reason(read_frames, path) == 'no picture'
        assert probe(path).video is None and probe(path).audio
        assert pitch(read_audio(path).waveform) == pytest.approx(440, abs=3)

def test_channels_are_averaged(tmp_path):
    path = film(tmp_path/'stereo.mkv', 1., audio=tone(1., level=.9, channels=2))
    sound = read_audio(path)
    assert sound.waveform.shape[0] == 1 and .8 < sound.waveform.abs().max() < 1

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

def test_a_telephone_held_upright(tmp_path):
    frames = [Image.new('RGB', (64, 48), 'blue') for _ in range(8)]
    for frame in frames: frame.paste('red', (0, 0, 20, 48))  # red on the left
    write_video(tmp_path/'flat.mp4', frames, 8)
    data = bytearray((tmp_path/'flat.mp4').read_bytes())
    at = data.index(b'tkhd') + 44
    matrix = [0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]  # a quarter turn clockwise
    data[at:at + 36] = b''.join(value.to_bytes(4, 'big', signed=True) for value in matrix)
    (tmp_path/'turned.mp4').write_bytes(data)
    image = read_frames(tmp_path/'turned.mp4')[1][0]
    assert image.size == (48, 64)
    assert image.getpixel((24, 5))[0] > 200 and image.getpixel((24, 55))[2] > 200  # left has become top

def test_spans_are_checked(good):
    for wrong in dict(start=-1.), dict(seconds=0.), dict(start=float('nan')):
        for read in read_audio, read_frames:
            with pytest.raises(InputError): read(good, **wrong)
    with pytest.raises(InputError, match='rate'): read_frames(good, rate=0)
    assert reason(read_audio, good, start=60.) == reason(read_frames, good, start=60.) == 'too short'

def test_writing(tmp_path):
    path = tmp_path/'odd.mp4'
    write_video(path, [Image.new('RGB', (33, 17))] * 4, 4)
    assert (probe(path).width, probe(path).height, probe(path).audio) == (34, 18, None)
    with pytest.raises(InputError, match='at least one'): write_video(tmp_path/'none.mp4', [], 4)
    with pytest.raises(InputError, match='frame 1'): write_video(tmp_path/'two.mp4', [Image.new('RGB', (8, 8)), Image.new('RGB', (8, 10))], 4)
    with pytest.raises(InputError, match='frame_rate'): write_video(tmp_path/'two.mp4', [Image.new('RGB', (8, 8))], 0)
    with pytest.raises(InputError, match='nowhere'): write_video(tmp_path/'nowhere'/'x.mp4', [Image.new('RGB', (8, 8))], 4)
    assert [p.name for p in tmp_path.iterdir()] == ['odd.mp4']

def test_images(tmp_path):
    Image.new('RGBA', (8, 4), (255, 0, 0, 0)).save(tmp_path/'clear.png')
    assert read_image(tmp_path/'clear.png').getpixel((0, 0)) == (255, 255, 255)
    turned = Image.new('RGB', (8, 4))
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path/'turned.jpg', exif=turned.getexif())
    assert read_image(tmp_path/'turned.jpg').size == (4, 8)
    ramp = np.arange(0, 65536, 256, dtype=np.uint16)[None].repeat(4, 0)
    Image.fromarray(ramp).save(tmp_path/'deep.png')
    assert [read_image(tmp_path/'deep.png').getpixel((x, 0))[0] for x in (0, 100, 255)] == [0, 100, 255], 'grey in 16 bits'
    Image.effect_noise((64, 64), 50).save(tmp_path/'noise.png')
    for path, words in [(cut(tmp_path/'noise.png', .5), 'cannot be read'), (tmp_path/'gone.jpg', 'no such'), (tmp_path, 'no such')]:
        with pytest.raises(InputError, match=words): read_image(path)

def test_no_global_state(good):
    state = torch.get_rng_state()
    read_audio(good), read_frames(good)
    assert torch.equal(state, torch.get_rng_state())
