"""What every test may use: the flags of settings.ini as markers, and the corpus where there is one."""
import os
import re
from configparser import ConfigParser
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
settings = ConfigParser(delimiters=['='])
settings.read(root/'settings.ini', encoding='utf-8')
FLAGS = set(settings['DEFAULT']['tst_flags'].split())

def pytest_addoption(parser):
    parser.addoption('--flags', default='', help=f'run flagged tests and notebook cells too, of: {" ".join(sorted(FLAGS))}')

def pytest_configure(config):
    asked = set(config.getoption('--flags').split())
    if asked - FLAGS: raise pytest.UsageError(f'unknown flags {sorted(asked - FLAGS)}: choose from {sorted(FLAGS)}')
    config.run_flags = asked | ({'data'} if os.environ.get('CLIPSONIC_POCKETAV') else set())
    for flag in FLAGS: config.addinivalue_line('markers', f'{flag}: runs only with `pytest --flags {flag}`'
                                                + (' or where CLIPSONIC_POCKETAV is set' if flag == 'data' else ''))

def why_skipped(flag):
    "The remedy to print beside a skipped test."
    if flag == 'data': return 'set CLIPSONIC_POCKETAV to the folder of the pocketav corpus to run what needs it'
    return f'`pytest --flags {flag}` runs it'

def pytest_collection_modifyitems(config, items):
    for item in items:
        for flag in sorted(FLAGS - config.run_flags):
            if item.get_closest_marker(flag): item.add_marker(pytest.mark.skip(reason=why_skipped(flag)))

def said(stderr):
    "The lines of what a program said on stderr, without its progress bars: a run of more than a second shows them, and which runs are depends on the machine."
    return [line for line in re.split('[\r\n]+', stderr) if line.strip() and not re.search(r'\[[\d:]+[<,]', line)]

@pytest.fixture(scope='session')
def pocketav():
    "The folder of the pocketav corpus; the test is skipped where there is none."
    folder = os.environ.get('CLIPSONIC_POCKETAV')
    if not folder: pytest.skip(why_skipped('data'))
    return Path(folder)
