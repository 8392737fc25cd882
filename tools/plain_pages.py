"""Plain pages of processed notebooks, by nbconvert, where there is no Quarto: its options, its classes, none of its search."""
import re
import shutil

import nbformat
import yaml
from nbconvert import HTMLExporter
from pathlib import Path
from pygments.formatters import HtmlFormatter

OPTION = re.compile(r'\A#\|\s*([\w-]+):\s*(.*)\n?')
HEADING = re.compile(r'^(#{1,6} .+?) \{#(\S+)\}$', re.M)

def options(source):
    "Quarto's options at the head of a cell, and the cell without them."
    found = {}
    while match := OPTION.match(source):
        found[match[1]] = yaml.safe_load(match[2])
        source = source[match.end():]
    return found, source

def as_pandoc(source):
    "Pandoc's heading ids and div fences as HTML, outside code."
    parts = re.split(r'(^```.*?^```$)', source, flags=re.M | re.S)
    for index in range(0, len(parts), 2):
        text = HEADING.sub(r'<a class="anchor" id="\2"></a>\n\n\1', parts[index])
        text = re.sub(r'^::: \{\.([\w-]+)\}$', r'<div class="\1">\n', text, flags=re.M)
        parts[index] = re.sub(r'^:::$', '\n</div>', text, flags=re.M)
    return ''.join(parts)

def prepared(nb):
    "A processed notebook as the template takes it, and its front matter."
    matter = {}
    for cell in list(nb.cells):
        if cell.cell_type == 'raw' and cell.source.startswith('---'):
            matter |= yaml.safe_load(cell.source.strip().strip('-'))
            nb.cells.remove(cell)
        elif cell.cell_type == 'markdown': cell.source = as_pandoc(cell.source)
        elif cell.cell_type == 'code':
            found, cell.source = options(cell.source)
            cell.metadata['fold'] = found.get('code-summary', 'Code') if found.get('code-fold') else None
            cell.metadata['transient'] = {'remove_source': found.get('echo') is False}
            if 'fig-alt' in found: cell.metadata['alt'] = found['fig-alt']
    return nb, matter

def flat(contents):
    for item in contents: yield from flat(item['contents']) if 'section' in item else [item]

def render(folder, contents):
    "Every notebook of a folder as a page in its folder `_site`, beside the pictures and the style."
    made = folder/'_site'
    made.mkdir()
    for file in folder.glob('*.png'): shutil.copy(file, made)
    style = (Path(__file__).with_name('plain.css').read_text(encoding='utf-8') + HtmlFormatter().get_style_defs('.highlight')
             + (folder/'styles.css').read_text(encoding='utf-8'))
    (made/'styles.css').write_text(style, encoding='utf-8')
    site = yaml.safe_load((folder/'nbdev.yml').read_text(encoding='utf-8'))['website']
    exporter = HTMLExporter(template_file='plain.html.j2', extra_template_paths=[str(Path(__file__).parent)],
                            exclude_input_prompt=True, exclude_output_prompt=True, exclude_anchor_links=True)
    notebooks = {item['href']: prepared(nbformat.read(folder/item['href'], as_version=4)) for item in flat(contents)}
    address = {name: matter.get('output-file', Path(name).with_suffix('.html').name) for name, (_, matter) in notebooks.items()}
    order = list(notebooks)
    for index, (name, (nb, matter)) in enumerate(notebooks.items()):
        around = {'previous': order[index - 1] if index else None, 'next': order[index + 1] if index + 1 < len(order) else None}
        resources = {'site': site, 'matter': matter, 'contents': contents, 'address': address, 'here': name, **around,
                     'labels': {item['href']: item['text'] for item in flat(contents)}}
        nb.metadata['language_info'] = {'name': 'python'}
        body, _ = exporter.from_notebook_node(nb, resources)
        body = re.sub(r'<p><a class="anchor" id="(.*?)"></a></p>\s*<h(\d) id=".*?">', r'<h\2 id="\1">', body)
        (made/address[name]).write_text(body, encoding='utf-8')
    return made
