"""Groups of an exam's subjects, as its makers report them: of C-Eval (its subject_mapping.json, and the eight
subjects of C-Eval Hard), of CMMLU (its src/categories.py). A subject may be in two: hard ones are STEM too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache

from crossfoot.documents import read_object, value_of
from crossfoot.tasks.items import Form

_FILE = os.path.join(os.path.dirname(__file__), "exam_groups.json")
Groups = Mapping[str, Mapping[str, tuple[str, ...]]]


@cache
def _groups() -> Groups:
    found: Groups = value_of(dict[str, dict[str, tuple[str, ...]]], read_object(_FILE))
    return found


def groups_of(form: Form, subject: str) -> tuple[str, ...]:
    """Of a subject, by the name that its file has; none where the makers name none."""
    return tuple(group for group, subjects in _groups().get(form, {}).items() if subject in subjects)


@cache
def group_order() -> tuple[str, ...]:
    """All groups, as tables have them."""
    return tuple(dict.fromkeys(group for exam in _groups().values() for group in exam))
