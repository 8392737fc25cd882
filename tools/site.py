"""nbs/*.ipynb → the pages of the site: nbdev's processing with the API written out, then Quarto.

    python tools/site.py                  write _docs, with Quarto
    python tools/site.py --plain FOLDER   write FOLDER without Quarto: nbconvert renders the same processed notebooks

The checkout stays as it is, README.md too: everything happens in a temporary folder.

nbdev 2.4.14 makes the pages of `nbdev_docs` too, but it loses the paragraphs that share a cell with the title, the
comments of dataclass fields and the methods in class bodies; it links any word in backticks that names a function
anywhere, inside signatures too; and it drops the source of exported cells. So the processors that do this are replaced.
"""
import argparse
import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import cache, cached_property
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

import yaml
from execnb.nbio import mk_cell, read_nb, write_nb
from fastcore.docments import docments
from nbdev.config import get_config
from nbdev.doclinks import patch_name
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor
from nbdev.processors import clean_magics, filter_stream_, hide_line, populate_language, rm_header_dash, strip_ansi

root = Path(__file__).resolve().parent.parent
nbs = root/'nbs'
DEFINITIONS = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
IMPORTS = ast.Import, ast.ImportFrom
HIDDEN = {'hide', 'default_exp', 'exporti'}
EXPORTED = {'export', 'exports', 'exporti'}
PACKAGE = 'clipsonic.'
HEADING = re.compile(r'#+ (?!.*\{#\S+\}$)')   # one without an id
# what an annotation is read without
SHORT_NAMES = r'\b(typing|pathlib|collections\.abc|clipsonic\.\w+|(?<=torch\.)_C)\.'
QUOTES = '\'"'
SHORTEST_FOLD = 3      # lines of a cell that is folded
LONGEST_DEFAULT = 40   # characters of a default in a signature or table; a longer one is cut

# ---- what there is to document

@cache
def pages():
    "The page of every notebook, by the notebook's name without its suffix."
    return {path.stem: re.sub(r'^\d+_', '', path.stem) + '.html' for path in sorted(nbs.glob('*.ipynb'))}

def definitions(tree):
    "Every public function, class and method of a syntax tree: its qualified name and its node."
    for node in tree.body:
        if not isinstance(node, DEFINITIONS) or node.name.startswith('_'): continue
        yield patch_name(node), node
        methods = node.body if isinstance(node, ast.ClassDef) else []
        yield from ((f'{node.name}.{inner.name}', inner) for inner in methods
                    if isinstance(inner, DEFINITIONS[:2]) and not inner.name.startswith('_'))

@cache
def exports(module):
    "What a module defines, as {qualified name: line}."
    tree = ast.parse((root/'clipsonic'/f'{module}.py').read_text(encoding='utf-8'))
    return {name: node.lineno for name, node in definitions(tree)}

@cache
def modules():
    "The module of every notebook that has one, as {module: page}."
    stems = {re.sub(r'^\d+_', '', stem): page for stem, page in pages().items()}
    return {name: page for name, page in stems.items() if (root/'clipsonic'/f'{name}.py').exists()}

@cache
def tracked():
    "The files of the repository, and its folders."
    done = subprocess.run(['git', 'ls-files'], cwd=root, capture_output=True, text=True)
    files = {Path(line) for line in done.stdout.splitlines()}
    return {path.as_posix() for file in files for path in (file, *file.parents)} - {'.', 'clipsonic'}

def github(path):
    "The address of a file or folder of the repository at GitHub."
    config = get_config()
    return f'{config.git_url}/{"tree" if (root/path).is_dir() else "blob"}/{config.branch}/{path}'

def anchor(module, name):
    "The id of a documented name: nbdev's index of the package has it in lower case, where two names may meet."
    lower = [other for other in exports(module) if other.lower() == name.lower()]
    return name.lower() if lower[-1] == name else name

# ---- the API of one exported cell

def lookup(module, name):
    "The object of a qualified name."
    found = module
    for part in name.split('.'): found = getattr(found, part)
    return found

def function(found):
    "The function in a property or below decorators; a class stays itself."
    if isinstance(found, property): found = found.fget
    if isinstance(found, cached_property): found = found.func
    return found if inspect.isclass(found) else inspect.unwrap(found)

def is_error(found):
    "Whether this is an exception: it has no signature."
    return inspect.isclass(found) and issubclass(found, BaseException)

def kind(annotation):
    "An annotation as one reads it, in Markdown: alternatives with `or`, the bounds of a number after its type."
    if annotation in (None, inspect.Parameter.empty): return ''
    if get_origin(annotation) is Annotated:
        base, *bounds = get_args(annotation)
        return f'{kind(base)}, {" to ".join(map(str, bounds))}'
    if get_origin(annotation) in (Union, UnionType):
        return ' or '.join(kind(part) if part is not type(None) else '`None`' for part in get_args(annotation))
    words = inspect.formatannotation(annotation).strip(QUOTES).replace(' | ', ' or ')
    return f'`{re.sub(SHORT_NAMES, "", words)}`'

def short(default):
    "The repr of a default; a long one is cut to the name of its type."
    text = getattr(default, '__name__', None) or repr(default)
    return text if len(text) <= LONGEST_DEFAULT else f'{type(default).__name__}(...)'

def signature(found, name):
    "The call of a function or class as Python: one line, or one parameter a line; types are in the table below it."
    if isinstance(found, (property, cached_property)) or is_error(found): return name
    parameters = inspect.signature(function(found)).parameters.values()
    parts, bare = [], False
    for p in parameters:
        if p.name in ('self', 'cls'): continue
        if p.kind is p.KEYWORD_ONLY and not bare and not any(part.startswith('*') for part in parts): parts.append('*')
        bare |= p.kind is p.KEYWORD_ONLY
        star = {p.VAR_POSITIONAL: '*', p.VAR_KEYWORD: '**'}.get(p.kind, '')
        parts.append(star + p.name + ('' if p.default is p.empty else f'={short(p.default)}'))
    line = f'{name}({", ".join(parts)})'
    return line if len(line) <= 100 else f'{name}(\n    ' + ',\n    '.join(parts) + ')'

def table(found):
    "The parameters of a function, or the fields of a dataclass, as a Markdown table; empty where none has a comment."
    if is_error(found): return ''
    found = function(found)
    rows = docments(found, full=True)
    returns = rows.pop('return', {})
    rows = {f'`{name}`': row for name, row in rows.items() if name not in ('self', 'cls')}
    if not inspect.isclass(found) and (returns.get('docment') or kind(returns.get('anno'))):
        rows['**returns**'] = returns | {'default': inspect.Parameter.empty}
    if not any(row.get('docment') for row in rows.values()): return ''
    lines = ['| Parameter | Type | Default | |', '|:-----|:-----|:-----|:----------------|']   # pandoc takes the widths
    for name, row in rows.items():
        default = row.get('default', inspect.Parameter.empty)
        default = '' if default is inspect.Parameter.empty else f'`{short(default)}`'
        cells = name, kind(row.get('anno')), default, row.get('docment') or ''
        lines.append('| ' + ' | '.join(' '.join(cell.split()).replace('|', r'\|') for cell in cells) + ' |')
    return '::: {.api-table}\n' + '\n'.join(lines) + '\n:::'

def inherited(module, name):
    "Whether a method only fills in what a base class documents."
    owner, _, method = name.rpartition('.')
    return bool(owner) and any(hasattr(base, method) for base in lookup(module, owner).__mro__[1:])

def document(module, name, line):
    "The entry of one name, in Markdown: heading, link to the source, signature, docstring, table of parameters."
    found = lookup(module, name)
    source = github(f'clipsonic/{module.__name__.removeprefix(PACKAGE)}.py')
    words = re.split(r'\n\nParameters\n-+\n', inspect.cleandoc(found.__doc__ or ''))[0]   # these are in the table
    if inspect.isclass(found) and words.startswith(f'{found.__name__}('): words = ''   # what `dataclass` writes
    parts = [f'<a class="source" href="{source}#L{line}">source</a>',
             f'{"####" if "." in name else "###"} {name} {{#{anchor(module.__name__.removeprefix(PACKAGE), name)}}}',
             f'```python\n{signature(found, name)}\n```', words, table(found)]
    return '\n\n'.join(part for part in parts if part)

class WriteApi:
    "After a title's cell its paragraphs; before each exported cell its API, and the cell itself folded."
    def __init__(self, nb): self.nb = nb

    def begin(self):
        name = re.sub(r'^\d+_', '', Path(self.nb.path_).stem)
        module, lines = (import_module(f'clipsonic.{name}'), exports(name)) if name in modules() else (None, {})
        self.nb.cells = [new for cell in self.nb.cells for new in self.replaced(cell, module, lines)]
        for index, cell in enumerate(self.nb.cells): cell.idx_ = index

    def replaced(self, cell, module, lines):
        directives = set(cell.directives_ or {})
        if cell.cell_type != 'code' or not directives & EXPORTED: return [] if directives & HIDDEN else [cell]
        tree = ast.parse(cell.source)
        if 'hide' in directives or all(isinstance(node, IMPORTS) for node in tree.body): return []
        shown = [name for name, node in definitions(tree)
                 if name in lines and (ast.get_docstring(node) or not inherited(module, name))]
        if 'exporti' in directives: shown = [name for name in shown if '.' in name]   # methods of public classes
        if 'exporti' in directives and not shown: return []
        defines = any(isinstance(node, DEFINITIONS) for node in tree.body)
        if defines and 'exports' not in directives: folded(cell, 'Source')
        return [mk_cell(document(module, name, lines[name]), 'markdown') for name in shown] + [cell]

    def __call__(self, cell): pass

# ---- cells and their links

def split_title(nb):
    "nbdev takes title and description from a cell and drops the rest of it: the rest gets a cell of its own."
    for index, cell in enumerate(nb.cells):
        match = re.match(r'\s*# .+\n+(> .+(\n|$))?', cell.source) if cell.cell_type == 'markdown' else None
        if match is None: continue
        rest = cell.source[match.end():].strip()
        cell.source = match[0].strip()
        if rest: nb.cells.insert(index + 1, mk_cell(rest, 'markdown'))
        return

def folded(cell, summary):
    "A code cell that opens on a click."
    if '#| code-fold' not in cell.source:
        cell.source = f'#| code-fold: true\n#| code-summary: "{summary}"\n{cell.source}'

def is_check(node):
    "Whether a statement only checks: an assertion, or a call of fastcore.test."
    call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    return isinstance(node, ast.Assert) or call and ast.unparse(node.value.func).startswith('test_')

class FoldPlumbing:
    "Imports and checks that show nothing are folded, unless they are short or the text before them ends with a colon."
    def __init__(self, nb): self.introduced = False

    def __call__(self, cell):
        introduced = self.introduced
        self.introduced = cell.cell_type == 'markdown' and cell.source.rstrip().endswith(':')
        if introduced or cell.cell_type != 'code' or cell.outputs: return
        if len(cell.source.splitlines()) < SHORTEST_FOLD: return
        if re.search(r'^#\| (code-fold|echo)', cell.source, re.M): return
        try: body = ast.parse(cell.source).body
        except SyntaxError: return   # a magic
        if body and all(isinstance(node, IMPORTS) for node in body): folded(cell, 'Imports')
        elif any(map(is_check, body)): folded(cell, 'Checks')

class DescribeFigures:
    "Figures without an alternative text get the heading and the words that they stand under."
    def __init__(self, nb): self.heading, self.words = '', ''

    def __call__(self, cell):
        if cell.cell_type == 'markdown':
            prose = re.sub(r'```.*?```|<[^>]+>', '', cell.source, flags=re.S)
            headings = re.findall(r'^#+ (.+?)(?: \{#.*\})?$', prose, re.M)
            if headings: self.heading, self.words = headings[-1], ''
            said = [line.strip() for line in prose.splitlines() if line.strip() and not re.match(r'[#|:>-]', line)]
            if said: self.words = ' '.join(said)
        elif cell.cell_type == 'code' and '#| fig-alt' not in cell.source:
            kinds = [kind for output in cell.outputs for kind in output.get('data', {})]
            if not any(kind.startswith('image/') for kind in kinds): return
            plain = re.sub(r'\[(.+?)\]\(.+?\)|[`$]', r'\1', f'Figure: {self.heading}. {self.words}')
            cell.source = f'#| fig-alt: {json.dumps(shortened(plain, 200), ensure_ascii=False)}\n{cell.source}'

def shortened(text, length):
    "Text up to a word's end."
    return text if len(text) <= length else text[:length].rsplit(' ', 1)[0] + ' …'

def outside_fences(text, change):
    "Text with every line changed that is not in a fenced block."
    fence, lines = False, text.splitlines()
    for index, line in enumerate(lines):
        if line.lstrip().startswith('```'): fence = not fence
        elif not fence: lines[index] = change(line)
    return '\n'.join(lines)

class Link:
    """Words in backticks become links to what they mean in this notebook: a notebook, a documented name, a file.

    A plain word is a documented name only where the notebook defines or imports it; a name with a capital, a dot or an
    underscore is one wherever a single module defines it.
    """
    def __init__(self, nb):
        stem = Path(nb.path_).stem
        self.module = re.sub(r'^\d+_', '', stem)
        self.meaning = {}   # name: the module that it is imported from
        for cell in nb.cells:
            try: tree = ast.parse(cell.source) if cell.cell_type == 'code' else None
            except SyntaxError: continue
            for node in ast.walk(tree) if tree else ():
                if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('clipsonic.'):
                    self.meaning |= {name.asname or name.name: node.module.split('.')[1] for name in node.names}

    def documented(self, name):
        "The address of a documented name, or None."
        if self.module in modules() and name in exports(self.module): return f'#{anchor(self.module, name)}'
        first = name.split('.')[0]
        if first == 'clipsonic': return modules().get(name.removeprefix('clipsonic.'))
        owners = [self.meaning[first]] if first in self.meaning else []
        if not owners and re.search(r'[a-z][A-Z]|[A-Z][a-z]|\w[._]\w', name):
            owners = [module for module in modules() if name in exports(module)]
        if len(owners) == 1 and name in exports(owners[0]): return f'{modules()[owners[0]]}#{anchor(owners[0], name)}'

    def target(self, code):
        "The address that a piece of code names, or None."
        if page := pages().get(code.removesuffix('.ipynb')): return page if code != 'index' else None
        if re.fullmatch(r'[\w.]+(\(\))?', code) and (link := self.documented(code.removesuffix('()'))): return link
        for path in (code.rstrip('/'), f'nbs/{code.rstrip("/")}'):
            if re.search('[./]', code) and path in tracked(): return github(path)

    def line(self, line):
        def link(match):
            address = self.target(match[1])
            return f'[`{match[1]}`]({address})' if address else match[0]
        def page(match): return f']({pages()[match[1]]}{match[2] or ""})' if match[1] in pages() else match[0]
        def file(match):
            path = os.path.relpath(nbs/match[1], root)
            return f']({github(path)})' if path in tracked() and not path.endswith('.png') else match[0]
        line = re.sub(r'\]\((\w+)\.ipynb(#[^)]*)?\)', page, line)
        line = re.sub(r'\]\((?![a-z]+:|#)([\w./-]+\.(?!html)\w+)\)', file, line)
        return line if line.startswith('#') else re.sub(r'(?<![\[`\\])`([^`\n]+)`(?!`|\])', link, line)

    def __call__(self, cell):
        if cell.cell_type == 'markdown':
            cell.source = outside_fences(cell.source, lambda line: line if line.startswith('    ') else self.line(line))

class NameHeadings:
    "Every heading has its id in the text; those of documented names stay theirs."
    def __init__(self, nb): self.nb, self.used = nb, set()

    def begin(self):
        for cell in self.nb.cells: self.used |= set(re.findall(r'^#+ .*\{#(\S+)\}$', cell.source, re.M))

    def named(self, line):
        words = re.sub(r'\[(.+?)\]\(.+?\)', r'\1', line.lstrip('# ')).lower()
        first = name = re.sub(r'\s+', '-', re.sub(r'[^\w\s-]', '', words).strip()) or 'section'
        number = 1
        while name in self.used: name, number = f'{first}-{number}', number + 1
        self.used.add(name)
        return f'{line} {{#{name}}}'

    def __call__(self, cell):
        if cell.cell_type == 'markdown':
            cell.source = outside_fences(cell.source, lambda line: self.named(line) if HEADING.match(line) else line)

PROCESSORS = [FrontmatterProc, populate_language, DescribeFigures, WriteApi, strip_ansi, hide_line, filter_stream_,
              rm_header_dash, clean_magics, FoldPlumbing, Link, NameHeadings]

def process(path):
    "One notebook as its page wants it."
    os.chdir(root)   # where nbdev finds settings.ini
    nb = read_nb(path)
    split_title(nb)
    NBProcessor(nb=nb, procs=PROCESSORS).process()
    return nb

# ---- pages

def write_processed(path, folder):
    write_nb(process(path), Path(folder)/path.name)

def write_sidebar(folder):
    "The sidebar, with each notebook's number before its title: the text names notebooks by number."
    sidebar = yaml.safe_load((nbs/'sidebar.yml').read_text(encoding='utf-8'))
    def entries(items):
        for item in items:
            if isinstance(item, dict): yield item | {'contents': list(entries(item['contents']))}
            else: yield {'href': item, 'text': label(nbs/item)}
    website = sidebar['website']['sidebar']
    website['contents'] = list(entries(website['contents']))
    (folder/'sidebar.yml').write_text(yaml.safe_dump(sidebar, sort_keys=False, allow_unicode=True), encoding='utf-8')
    return website['contents']

def label(path):
    "Number and title of a notebook."
    title = re.search(r'^# (.+)', '\n'.join(cell.source for cell in read_nb(path).cells), re.M)[1]
    number = re.match(r'(\d+)_', path.stem)
    return f'{number[1]} {title}' if number else title

def build(out, plain=False, workers=None):
    "Write the site to a folder, which appears whole."
    quarto = None if plain else shutil.which('quarto')
    if quarto is None and not plain:
        sys.exit('tools/site.py: there is no quarto here (https://quarto.org); `--plain FOLDER` renders without it')
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        shutil.copytree(nbs, work/'nbs', ignore=shutil.ignore_patterns('*.ipynb', '.*', '_proc', '_docs'))
        contents = write_sidebar(work/'nbs')
        paths = sorted(nbs.glob('*.ipynb'))
        with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context('spawn')) as pool:
            list(pool.map(write_processed, paths, [work/'nbs']*len(paths)))
        if quarto:
            subprocess.run([quarto, 'render', '--no-cache', '--no-execute'], cwd=work/'nbs', check=True)
            made = work/'nbs'/get_config().doc_path.name
        else:
            from plain_pages import render
            made = render(work/'nbs', contents)
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(made, out)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--plain', metavar='FOLDER', type=Path, help='render to FOLDER without Quarto')
    args = parser.parse_args()
    os.chdir(root)
    build(args.plain.resolve() if args.plain else root/get_config().doc_path.name, plain=args.plain is not None)

if __name__ == '__main__': main()
