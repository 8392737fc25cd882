"""What every test may use: the flags of settings.ini as markers, and the corpus where there is one."""
import os
import re
from configparser import ConfigParser
from pathlib import Path

import pytest

from clipsonic.threads import cpu_count   # without torch, which must not be loaded before the environment is set

root = Path(__file__).resolve().parent.parent

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # before torch is loaded: a thread that waits keeps no core busy
if workers := os.environ.get('PYTEST_XDIST_WORKER_COUNT'):  # in one of pytest-xdist's processes
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, cpu_count() // int(workers))))
settings = ConfigParser(delimiters=['='])
settings.read(root/'settings.ini', encoding='utf-8')
FLAGS = set(settings['DEFAULT']['tst_flags'].split())

def pytest_addoption(parser):
    parser.addoption('--flags', default='',
                     help=f'run flagged tests and notebook cells too, of: {" ".join(sorted(FLAGS))}')

def pytest_configure(config):
    asked = set(config.getoption('--flags').split())
    if asked - FLAGS: raise pytest.UsageError(f'unknown flags {sorted(asked - FLAGS)}: choose from {sorted(FLAGS)}')
    config.run_flags = asked | ({'data'} if os.environ.get('CLIPSONIC_POCKETAV') else set())
    for flag in FLAGS: config.addinivalue_line('markers', f'{flag}: runs only with `pytest --flags {flag}`'
                                                + (' or where CLIPSONIC_POCKETAV is set' if flag == 'data' else ''))
    config.addinivalue_line('markers', 'fast: given to all tests but the notebooks and those marked `long`')
    config.addinivalue_line('markers', 'long: takes some seconds, with all its cases')

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    "All tests run in as many processes as there are cores; named ones in this process, unless `-n logical`."
    many = config.args_source is config.ArgsSource.TESTPATHS or config.option.numprocesses == 'logical'
    return min(cpu_count(), 8) if many and cpu_count() > 1 else 0   # at most eight, as a process on each takes 2 GB

def why_skipped(flag):
    "The remedy to print beside a skipped test."
    if flag == 'data': return 'set CLIPSONIC_POCKETAV to the folder of the pocketav corpus to run what needs it'
    return f'`pytest --flags {flag}` runs it'

@pytest.hookimpl(tryfirst=True)  # before `-m fast` chooses
def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.path.stem != 'test_notebooks')  # they take longest: none is left for the end
    for item in items:
        if item.path.stem != 'test_notebooks' and not item.get_closest_marker('long'): item.add_marker('fast')
        for flag in sorted(FLAGS - config.run_flags):
            if item.get_closest_marker(flag): item.add_marker(pytest.mark.skip(reason=why_skipped(flag)))

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    "Every test draws the same numbers, whichever ran before it."
    import torch
    torch.manual_seed(0)

def said(stderr):
    "The lines of what a program said on stderr, without progress bars: a run of more than a second shows one."
    return [line for line in re.split('[\r\n]+', stderr) if line.strip() and not re.search(r'\[[\d:]+[<,]', line)]

def _spelt(word):
    "The pattern of one word: it stands alone, a number in any notation, a name with hyphens or underscores."
    word = str(word)
    try: number = float(word)
    except ValueError:
        text = '[-_]'.join(re.escape(part) for part in re.split('[-_]', word))
        return (r'(?<![^\W_])' if word[:1].isalnum() else '') + text + (r'(?![^\W_])' if word[-1:].isalnum() else '')
    notations = {word, repr(number), f'{number:g}'} | ({str(int(number))} if number.is_integer() else set())
    text = '|'.join(re.escape(each) + '0*' * ('.' in each) for each in sorted(notations))   # 0.2 is 0.200 too
    return rf'(?<![\w.-])({text})(?!\w|\.\d)'

def naming(*words):
    """A pattern for `match=`: the message holds all of these, wherever. They are what the user gave and what it was
    given as, such as naming('steps', 0), and not how the sentence is worded."""
    return '(?s)' + ''.join(f'(?=.*{_spelt(word)})' for word in words)

@pytest.fixture(scope='session')
def runs(tmp_path_factory):
    "Runs of a complete small model with random weights, and `model`, packed of them. Nobody writes here."
    from tiny import tiny_model
    return tiny_model(tmp_path_factory.mktemp('tiny')/'runs').parent

@pytest.fixture(scope='session')
def pocketav():
    "The folder of the pocketav corpus; the test is skipped where there is none."
    folder = os.environ.get('CLIPSONIC_POCKETAV')
    if not folder: pytest.skip(why_skipped('data'))
    return Path(folder)
