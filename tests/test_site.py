"""The pages of the site: links, the API on them, and how a browser shows them.

`pytest --flags site tests/test_site.py` opens every page in a headless browser. CLIPSONIC_SITE names a folder with the
pages that `tools/site.py` made with Quarto; without it they are made by `tools/site.py --plain`.
"""
import functools
import http.server
import importlib.util
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import is_dataclass
from inspect import isclass, isfunction
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from fastcore.docments import docments

from browsers import SIZES, WIDE, open_browser, own_errors, resize
from conftest import root

NO_TEXT = 'No description has been provided'   # what nbconvert writes where a figure has no text

@pytest.fixture(scope='module')
def tool():
    "tools/site.py as a module."
    spec = importlib.util.spec_from_file_location('tools_site', root/'tools'/'site.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def notebook(*cells):
    "A notebook of cells, each a type and a source."
    from execnb.nbio import dict2nb, mk_cell
    nb = dict2nb({'cells': [mk_cell(source, kind) for kind, source in cells]})
    nb.path_ = root/'nbs'/'index.ipynb'
    return nb

def test_text_beside_a_title_stays(tool):
    nb = notebook(('markdown', '# Mel\n\n> A line\n\nA paragraph.\n\n- an item: of a list'))
    tool.split_title(nb)
    assert [cell.source for cell in nb.cells] == ['# Mel\n\n> A line', 'A paragraph.\n\n- an item: of a list']

def test_names_become_links_where_they_mean_something(tool):
    stem, page = next((stem, page) for stem, page in tool.pages().items() if page == 'mel.html')
    link = tool.Link(notebook(('code', 'from clipsonic.mel import log_mel')))
    assert link.line(f'in `{stem}`') == f'in [`{stem}`]({page})'
    assert link.line(f'[there]({stem}.ipynb#there)') == f'[there]({page}#there)'
    assert link.line('`log_mel`, `MelConfig`') == '[`log_mel`](mel.html#log_mel), [`MelConfig`](mel.html#melconfig)'
    for line in ('a `stft` of another library', '## `log_mel`', f'[`{stem}`](https://example.org)'):
        assert link.line(line) == line
    fenced = '```python\n`log_mel`\n```'
    assert tool.outside_fences(fenced, link.line) == fenced

@pytest.mark.parametrize('before, source, summary', [
    ('Text.', 'import os\nimport re\nimport sys', 'Imports'),
    ('Text.', 'import os', None),
    ('Text.', 'x = 1\ny = 2\nassert x < y', 'Checks'),
    ('Like this:', 'x = 1\ny = 2\nassert x < y', None),
    ('Text.', 'x = 1\ny = 2\nz = x < y', None),
    ('Text.', '#| code-fold: show\nx = 1\nassert x', None)])
def test_what_is_folded(tool, before, source, summary):
    nb, fold = notebook(('markdown', before), ('code', source)), tool.FoldPlumbing(None)
    for cell in nb.cells: fold(cell)
    assert nb.cells[1].source == (f'#| code-fold: true\n#| code-summary: "{summary}"\n{source}' if summary else source)

def run(*command, **env):
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env={**os.environ, **env})

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The folder of the site."
    if built := os.environ.get('CLIPSONIC_SITE'): return (root/built).resolve()
    out, before = tmp_path_factory.mktemp('site')/'pages', run('git', 'status', '--porcelain').stdout
    path = os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')])
    done = run(sys.executable, 'tools/site.py', '--plain', str(out), PYTHONPATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert run('git', 'status', '--porcelain').stdout == before, 'tools/site.py changes the checkout'
    return out

@pytest.fixture(scope='module')
def pages(site):
    "Every page as a tree, by its file's name."
    files = sorted(site.glob('*.html'))
    return {path.name: BeautifulSoup(path.read_text(encoding='utf-8'), 'html.parser') for path in files}

def broken_links(site, pages):
    "What a page names of this site that is not there."
    ids = {name: {tag['id'] for tag in page.find_all(id=True)} for name, page in pages.items()}
    for name, page in pages.items():
        for tag in page.find_all(['a', 'img', 'link', 'script', 'audio', 'video', 'source']):
            address = urlsplit(tag.get('href') or tag.get('src') or '#')
            if address.scheme or address.netloc or tag.get('href') in ('', '#') or tag.get('data-bs-toggle'): continue
            file = unquote(address.path).removeprefix('./') or name
            if not (site/file).is_file(): yield f'{name}: {file} is not there'
            elif address.fragment and file in ids and unquote(address.fragment) not in ids[file]:
                yield f'{name}: {file} has no #{address.fragment}'

def words(text):
    "The words of a text: Markdown's signs are none, and pandoc changes quotes and dashes."
    return ' '.join(re.findall(r'[^\W_]+', text))

def missing_api(name, page):
    "What an exported name lacks on its page: its heading, or the comment of a parameter."
    module = importlib.import_module(f'clipsonic.{name}')
    headings = {tag['id'].lower(): tag for tag in page.find_all(id=True)}
    headings |= {tag['id']: tag for tag in page.find_all(id=True)}
    for each in module.__all__:
        found = getattr(module, each, None)
        if each.startswith('_') or not (isclass(found) or isfunction(found)): continue
        if found.__module__ != module.__name__: continue
        heading = headings.get(each) or headings.get(each.lower())
        for method, value in vars(found).items() if isclass(found) else ():
            own = isfunction(value) and value.__doc__ and value.__module__ == module.__name__ and method[0] != '_'
            if own and f'{each}.{method}'.lower() not in headings: yield f'{name}: no heading of {each}.{method}'
        if heading is None: yield f'{name}: no heading of {each}'
        if heading is None or isclass(found) and not is_dataclass(found): continue
        table = heading.find_next(class_='api-table')
        for parameter, about in docments(found, full=True).items():
            if about.get('docment') and (table is None or words(about['docment']) not in words(table.get_text())):
                yield f'{name}: no comment of {parameter} in the table of {each}'

@pytest.mark.long
def test_links_and_api_of_the_site(site, pages):
    names = {re.sub(r'^\d+_', '', path.stem) for path in (root/'nbs').glob('*.ipynb')}
    assert {Path(page).stem for page in pages} >= names
    wrong = list(broken_links(site, pages))
    for name, page in pages.items():
        ids = Counter(tag['id'] for tag in page.find_all(id=True))
        code = [tag.get_text() for tag in page.select('code, .sourceCode, .api-table')]
        figures = [str(tag) for tag in page.select('.cell img') if tag.get('alt', NO_TEXT).startswith(NO_TEXT)]
        previews = [tag['content'] for tag in page.find_all('meta', property=re.compile('image'))]
        found = {'two elements with one id': [each for each in ids if ids[each] > 1],
                 'Markdown in code': [text for text in code if '[`' in text],
                 'a type of __main__': [text for text in code if re.search(r'__main__\.\w', text)],
                 'a preview that is no address': [address for address in previews if 'data:' in address],
                 'a figure without alternative text': figures}
        wrong += [f'{name}: {what}: {each[:80]}' for what, places in found.items() for each in places]
    for path in sorted((root/'clipsonic').glob('*.py')):
        if path.stem in names: wrong += missing_api(path.stem, pages[f'{path.stem}.html'])
    assert not wrong, '\n'.join(wrong)

# ---- in a browser

@pytest.fixture(scope='module')
def address(site):
    "Where the site is served."
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()

@pytest.fixture(scope='module')
def browser():
    "The plain pages are right without a network; Quarto's load MathJax and require.js."
    with open_browser(offline=not os.environ.get('CLIPSONIC_SITE')) as opened: yield opened

PLAYERS = """
const done = arguments[0], players = [...document.querySelectorAll('audio, video')];
Promise.all(players.map(player => new Promise(resolve => {
    const say = () => resolve(player.duration > 0 ? null : 'a player with a duration of ' + player.duration);
    if (player.readyState || player.error) return say();
    player.onloadedmetadata = say;
    const source = player.querySelector('source:last-of-type') || player;
    source.onerror = () => resolve('a player that cannot play');
    player.preload = 'metadata';
    player.load();
}))).then(said => done(said.filter(word => word)));
"""
PICTURES = """
return [...document.images].filter(image => !image.src.startsWith('http') || image.src.startsWith(location.origin))
    .filter(image => !(image.complete && image.naturalWidth))
    .map(image => 'a picture that does not load: ' + image.src.slice(0, 80));
"""
@pytest.mark.site
def test_pages_in_a_browser(site, pages, address, browser):
    browser.set_script_timeout(30)
    wrong, players = [], 0
    for name in pages:
        for width, height in SIZES:
            resize(browser, width, height)
            browser.get(f'{address}/{name}')
            found = browser.execute_script(WIDE)
            if (width, height) == SIZES[0]:
                heading = browser.find_elements('css selector', 'main h1')
                if not heading or not heading[0].text: found.append('no title')
                found += browser.execute_async_script(PLAYERS) + browser.execute_script(PICTURES)
                players += len(browser.find_elements('css selector', 'audio, video'))
            wrong += [f'{name}: {each}' for each in [*found, *own_errors(browser)]]
    assert players and not wrong, '\n'.join(wrong)
