"""What holds for the project as a whole: layers, what an import costs, and that all that is generated is up to date."""
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import naming, root

notebooks = sorted((root/'nbs').glob('[0-9][0-9]_*.ipynb'))
exporting = re.compile(r'^#\|\s*export[si]?\b', re.M)

def cells(path, pattern):
    "Sources of the code cells of a notebook that carry a directive."
    nb = json.loads(path.read_text(encoding='utf-8'))
    sources = [''.join(cell['source']) for cell in nb['cells'] if cell['cell_type'] == 'code']
    return [source for source in sources if pattern.search(source)]

def imported(tree):
    "Modules of this package that the code imports, inside functions too."
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == 'clipsonic':
            names = [f'clipsonic.{a.name}' for a in node.names]
        elif isinstance(node, ast.ImportFrom): names = [node.module or '']
        else: continue
        yield from (name.split('.')[1] for name in names if name.startswith('clipsonic.')
                    and name != 'clipsonic.__version__')

def run(*command, cwd=root, **env):
    "Run a command, and fail with what it said."
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, f'{" ".join(command)}\n{done.stdout}{done.stderr}'
    return done.stdout

@pytest.mark.parametrize('path', notebooks, ids=lambda path: path.stem)
def test_imports_only_from_lower_numbers(path):
    layer = {nb.stem[3:]: nb.stem[:2] for nb in notebooks}
    for source in cells(path, exporting):
        assert all(layer.get(module, 'none') < path.stem[:2] for module in imported(ast.parse(source))), \
            f'{path.name} imports a module of its own or a higher number, or of no notebook:\n{source}'

@pytest.mark.parametrize('path', notebooks, ids=lambda path: path.stem)
def test_exported_cells_are_small_and_explicit(path):
    for source in cells(path, exporting):
        lines = source.splitlines()
        begins = next((line for line in lines if line.strip() and not line.startswith('#|')), '')
        assert len(lines) <= 45, f'{path.name}: an exported cell of {len(lines)} lines, which begins {begins!r}'
        assert len(source) <= 2500, f'{path.name}: an exported cell of {len(source)} characters, begins {begins!r}'
        for node in ast.walk(ast.parse(source)):
            assert not (isinstance(node, ast.ImportFrom)
                        and node.names[0].name == '*'), f'{path.name}: {ast.unparse(node)}'

comprehensions = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp

def nested(tree):
    "Comprehensions that make another one for each of their items."
    for node in ast.walk(tree):
        if not isinstance(node, comprehensions): continue
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for generator in node.generators: parts += generator.ifs
        if any(isinstance(inner, comprehensions) for part in parts for inner in ast.walk(part)): yield node

def misplaced_walruses(tree):
    "Assignment expressions outside the tests of `if`, `while`, conditional expressions and comprehensions."
    tests = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.If, ast.While, ast.IfExp)): tests.append(node.test)
        if isinstance(node, ast.comprehension): tests += node.ifs
    allowed = {id(inner) for test in tests for inner in ast.walk(test)}
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.NamedExpr) and id(node) not in allowed)

@pytest.mark.parametrize('path', notebooks, ids=lambda path: path.stem)
def test_exported_cells_are_read_from_top_to_bottom(path):
    for source in cells(path, exporting):
        tree = ast.parse(source)
        for node in nested(tree): pytest.fail(f'{path.name}: a comprehension in a comprehension: {ast.unparse(node)}')
        for node in misplaced_walruses(tree): pytest.fail(f'{path.name}: assign before: {ast.unparse(node)}')

@pytest.mark.parametrize('code, n_nested, n_walrus', [
    ('[[y for y in x] for x in z]', 1, 0), ('{x: [y for y in x] for x in z}', 1, 0),
    ('[x for x in [y for y in z]]', 0, 0),
    ('[x for x in z if any(y for y in x)]', 1, 0), ('if (x := f()): pass', 0, 0), ('while x := f(): pass', 0, 0),
    ('[y for x in z if (y := f(x))]', 0, 0), ('f(x := 1)', 0, 1), ('[(y := f(x)) for x in z]', 0, 1)])
def test_what_counts_as_nested_and_misplaced(code, n_nested, n_walrus):
    tree = ast.parse(code)
    assert (len(list(nested(tree))), len(list(misplaced_walruses(tree)))) == (n_nested, n_walrus)

modules = [path for path in sorted((root/'clipsonic').glob('*.py')) if path.stem != '_modidx']

def public_names(tree):
    "What a module defines at its top for others: no methods by `@patch`, no imports, also none by `later`."
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            if not any('patch' in ast.unparse(each) for each in node.decorator_list): yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == 'later': continue
            if isinstance(node.value, ast.Tuple) and ast.unparse(node.value).startswith('(later('): continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets: yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name))

def test_public_names_are_unique():
    homes = {}
    for path in modules:
        for name in public_names(ast.parse(path.read_text(encoding='utf-8'))):
            if not name.startswith('_'): homes.setdefault(name, set()).add(path.stem)
    twice = {name: sorted(homes[name]) for name in homes if len(homes[name]) > 1}
    assert not twice, f'one name, two meanings: {twice}'
    assert homes['Audio'] == {'core'} and homes['SAMPLERS'] == {'samplers'} and 'torch' not in homes

def test_the_answers_of_contributing_are_true():
    guide = (root/'CONTRIBUTING.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\|.*\| (\w+) \| `([\w.]+)` \| `(\d\d_\w+)` \|$', guide, re.M)
    assert len(rows) == 10
    for word, name, notebook in rows:
        tree = ast.parse((root/'clipsonic'/f'{notebook[3:]}.py').read_text(encoding='utf-8'))
        top, _, field = name.partition('.')
        assert top in public_names(tree), f'{notebook} has no {top}'
        if field:
            body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == top)
            assert field in public_names(ast.Module(body, [])), f'{top} has no {field}'
        text = ''.join(source for source in cells(root/'nbs'/f'{notebook}.ipynb', exporting))
        assert re.search(word, text, re.I), f'{notebook} does not say {word!r}'

BRITISH = re.compile('normalis|colour|grey|labelled|neighbour|centre|optimis|recognis|discretis', re.I)
KEPT = re.compile('recognisab')   # the name of notebook 75 and of its page

def identifiers(tree):
    "Every name that code gives or uses."
    for node in ast.walk(tree):
        for field in ('id', 'attr', 'arg', 'name', 'asname', 'module'):
            if isinstance(getattr(node, field, None), str): yield getattr(node, field)

@pytest.mark.parametrize('path', modules, ids=lambda path: path.stem)
def test_identifiers_are_spelt_as_in_the_libraries(path):
    names = set(identifiers(ast.parse(path.read_text(encoding='utf-8'))))
    british = sorted(name for name in names if BRITISH.search(name) and not KEPT.search(name))
    assert not british, f'{path.name}: torch and diffusers spell {british} the American way'

def test_ruff_finds_nothing():
    run(sys.executable, '-m', 'ruff', 'check', '--no-cache', 'clipsonic', 'tests', 'benchmarks', 'tools', 'nbs')

@pytest.mark.parametrize('path', notebooks, ids=lambda path: path.stem)
def test_notebook_names_its_module_and_stays_small(path):
    assert cells(path, re.compile(rf'^#\|\s*default_exp\s+{path.stem[3:]}\s*$',
                                  re.M)), f'{path.name} lacks `#| default_exp {path.stem[3:]}`'
    assert path.stat().st_size < 300_000, f'{path.name} is {path.stat().st_size} bytes: keep fewer or smaller outputs'

@pytest.mark.parametrize('path', notebooks, ids=lambda path: path.stem)
def test_stored_outputs_hold_no_path_of_a_machine(path):
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        outputs = json.dumps(cell.get('outputs', []))
        assert not re.search(r'/(tmp|home|root|Users)/', outputs), f'{path.name}, cell {cell["id"]}'

def test_readme_is_the_index_rendered():
    run(sys.executable, 'tools/readme.py', '--check')

def test_the_site_lists_every_notebook():
    def pages(node):
        if isinstance(node, str): return [node]
        return [page for item in (node.get('contents', []) if isinstance(node, dict) else node) for page in pages(item)]
    sidebar = yaml.safe_load((root/'nbs'/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']
    assert sorted(pages(sidebar)) == sorted(path.name for path in (root/'nbs').glob('*.ipynb'))

@pytest.fixture
def copy(tmp_path):
    "A copy of what nbdev reads and writes, so that a failing test leaves the work as it was."
    for name in ('nbs', 'clipsonic'):
        ignored = shutil.ignore_patterns('weights', '__pycache__', '.ipynb_checkpoints')
        shutil.copytree(root/name, tmp_path/name, symlinks=True, ignore=ignored)
    for name in ('settings.ini', 'pyproject.toml', '_quarto.yml'): shutil.copy(root/name, tmp_path)
    if (root/'clipsonic'/'weights').exists(): (tmp_path/'clipsonic'/'weights').symlink_to(root/'clipsonic'/'weights')
    return tmp_path

def generated(folder):
    "What every file that nbdev may write holds."
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*'))
            if path.suffix in ('.py', '.ipynb', '.yml', '.toml')}

def test_export_and_clean_change_nothing(copy):
    before = generated(copy)
    code = ('from nbdev.doclinks import nbdev_export; from nbdev.clean import nbdev_clean; '
            'from nbdev.quarto import refresh_quarto_yml; nbdev_export(); nbdev_clean(); refresh_quarto_yml()')
    run(sys.executable, '-c', code, cwd=copy)
    after = generated(copy)
    changed = [name for name in before | after if before.get(name) != after.get(name)]
    assert not changed, f'`nbdev_export` and `nbdev_clean` change {changed}'

def test_the_source_distribution_holds_what_a_build_needs(tmp_path):
    tree, unpacked = tmp_path/'tree', tmp_path/'unpacked'
    files = (path for path in (root/'clipsonic').rglob('*') if path.is_file() and '__pycache__' not in path.parts)
    package = {path.relative_to(root) for path in files}
    for path in package:   # the weights' names without their numbers
        (tree/path).parent.mkdir(parents=True, exist_ok=True)
        (tree/path).touch() if path.suffix == '.safetensors' else shutil.copy(root/path, tree/path)
    for name in ('LICENSE', 'MANIFEST.in', 'README.md', 'pyproject.toml', 'settings.ini', 'setup.py'):
        shutil.copy(root/name, tree)
    run(sys.executable, 'setup.py', '-q', 'sdist', cwd=tree)
    shutil.unpack_archive(next((tree/'dist').glob('*.tar.gz')), unpacked)
    built = tmp_path/'built'
    run(sys.executable, 'setup.py', '-q', 'build', '--build-lib', str(built), cwd=next(unpacked.iterdir()))
    assert {path.relative_to(built) for path in built.rglob('*') if path.is_file()} == package
    assert Path('clipsonic/py.typed') in package

@pytest.mark.parametrize('words, message, found', [
    (('steps', 0), 'steps must be at least 1, not 0', True), (('steps', 0), 'steps must be at least 10', False),
    (('steps', 0), 'n must be at least 1, not 0', False), (('best_of', 2), '--best-of is 2', True),
    (('n', 0), 'seconds must not be 0', False), ((1,), 'not -1', False), ((2,), 'not 2.5', False),
    ((600, 200.), '[600.0, 200.0] in\nwrong order', True), ((0.2,), '0.200 s', True), ((1e9,), '1000000000.0', True),
    (('nan', True), 'True, and not nan', True), (('.wav', '--extend'), '.wav goes with --extend', True)])
def test_naming_asks_for_each_word_by_itself(words, message, found):
    assert (re.search(naming(*words), message) is not None) == found
