"""A notebook as one HTML page that needs no network: alt texts kept, mathematics as MathML."""

import html
import re

# nbconvert 7.17 drops an output's alt text, and loads scripts from the network.
TEMPLATE = """{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block extra_css -%}<style>
math { font-size: 1.12em; }
.highlight pre { font-family: monospace !important; font-size: 13px !important; line-height: 1.3 !important; }
</style>{%- endblock -%}
{%- block data_png scoped -%}
{%- set alt = output | get_metadata('alt', 'image/png') -%}
{%- if alt is none -%}{{ super() }}
{%- else -%}{{ super() | replace('<img ', '<img alt="' ~ (alt | escape_html) ~ '" ', 1) }}{%- endif -%}
{%- endblock -%}
"""
CODE = re.compile(r"(<pre.*?</pre>|<code.*?</code>)", re.DOTALL)
MATHS = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)


def to_html(notebook, name):
    """The page of an executed notebook; `name` becomes its title."""
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    loader = DictLoader({"rlbook.html.j2": TEMPLATE})
    exporter = HTMLExporter(template_name="lab", template_file="rlbook.html.j2", extra_loaders=[loader])
    render = exporter.markdown2html
    exporter.register_filter("markdown2html", _with_context(render, maths_to_mathml))
    return exporter.from_notebook_node(notebook, resources={"metadata": {"name": name}})[0]


def maths_to_mathml(page):
    """Replace $...$ and $$...$$ in a piece of HTML, outside code, by MathML that browsers draw themselves.

    What the converter does not know stays as it was written.
    """
    from latex2mathml.converter import convert

    def draw(found):
        display = found[1] is not None
        tex = html.unescape(found[1] if display else found[2])
        for lacking, known in (("{aligned}", "{align*}"), (r"\arg", r"\operatorname{arg}")):
            tex = tex.replace(lacking, known)
        try:
            return convert(tex.strip(), display="block" if display else "inline")
        except Exception:  # any of the converter's own errors; the source is still readable
            return found[0]

    parts = CODE.split(page)
    return "".join(part if i % 2 else MATHS.sub(draw, part) for i, part in enumerate(parts))


def _with_context(render, then):
    from jinja2 import pass_context

    @pass_context
    def both(context, source):
        return then(render(context, source))

    return both
