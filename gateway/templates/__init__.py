"""Templates: texts with placeholders, and nothing else in them. Pure.

syntax.py    a text and its placeholders; filling them in, escaped for where the text goes
template.py  a template: its variants by channel and locale; what a message becomes on a channel
segments.py  how many SMS a text takes
"""

from gateway.templates.segments import Segments, segments
from gateway.templates.syntax import Missing, Source
from gateway.templates.template import (
    TEMPLATE_NAME,
    Rendered,
    Template,
    TemplateRow,
    Variant,
    compile_template,
    valid_template_name,
)

__all__ = [
    "TEMPLATE_NAME",
    "Missing",
    "Rendered",
    "Segments",
    "Source",
    "Template",
    "TemplateRow",
    "Variant",
    "compile_template",
    "segments",
    "valid_template_name",
]
