"""Small listening tests, made by hand in the format of `clipsonic.listening`."""
import hashlib
import io
import json

import numpy as np
import soundfile

from clipsonic.listening import Plan

NAMES = 'kowabe', 'lumiro', 'nasetu', 'pidoga', 'rufani', 'tegobi', 'vosaka', 'zemuli'   # of stimuli
QUESTIONS = {
    'mos': [dict(id='fidelity', text='How good is the quality of the sound?', show_prompt=False),
            dict(id='relevance', text='How well does the sound correspond to the prompt?', show_prompt=True)],
    'ab': [dict(id='quality', text='Which sound has the better quality?', show_prompt=True)],
    'mushra': [dict(id='quality', text='Rate the basic audio quality of each sound.', show_prompt=False)]}
LABELS = {'mos': ['1 bad', '2 poor', '3 fair', '4 good', '5 excellent'], 'ab': ['A', 'no difference', 'B'],
          'mushra': ['bad', 'poor', 'fair', 'good', 'excellent']}

def tone(number, seconds):
    "A quiet tone as the bytes of a wav at 16 kHz."
    file, time = io.BytesIO(), np.arange(round(16_000 * seconds)) / 16_000
    soundfile.write(file, 0.1 * np.sin(2 * np.pi * 220 * (number + 1) * time), 16_000, format='WAV', subtype='PCM_16')
    return file.getvalue()

def write_test(folder, method='mos', n_trials=2, n_lists=3, seconds=0.2, title='Tones'):
    "A test with one training trial, of four sounds (A/B: pairs of them; MUSHRA: three and the reference) per item."
    (folder/'page'/'sounds').mkdir(parents=True)
    stimuli = {}
    for number, name in enumerate(NAMES):
        path = folder/'page'/'sounds'/f'{name}.wav'
        path.write_bytes(tone(number, seconds))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        system = ['PD', 'ZS', 'reference', 'anchor'][number % 4]
        stimuli[name] = dict(file=f'sounds/{name}.wav', item='i00', sha256=sha256, system=system)
    def trial(number, turn):
        own = [NAMES[(number + turn + i) % 4] for i in range(4)]
        size, reference = {'mos': (1, None), 'ab': (2, None), 'mushra': (4, NAMES[2])}[method]
        return dict(id=f't{turn:02d}{number:02d}', item='i00', stimuli=own[:size], reference=reference,
                    questions=[each['id'] for each in QUESTIONS[method]], check='', expect=None)
    questions = [dict(low='bad', high='excellent', labels=LABELS[method], **each) for each in QUESTIONS[method]]
    lists = [[trial(number, turn) for number in range(n_trials)] for turn in range(n_lists)]
    plan = Plan(title=title, method=method, seed=0, seconds=seconds, questions=questions, stimuli=stimuli,
                items=[dict(id='i00', key='bell', prompt='a <bell> & "birds"', query=None)], lists=lists,
                training=[trial(0, turn=99)], rules={}, protocol={})
    (folder/'plan.json').write_text(json.dumps(plan.to_dict()))
    return plan
