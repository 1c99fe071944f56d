"""stub until the shell is there"""

from __future__ import annotations


def tuning_page(file, decision, trials, prompts, effective):
    return ""
