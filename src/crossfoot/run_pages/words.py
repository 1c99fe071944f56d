"""What receipts, attempts and clocks say, in two languages."""

from __future__ import annotations

import re
from collections.abc import Mapping

from crossfoot.phrases import clock
from crossfoot.reports.text import Both, Text
from crossfoot.runs.attempts import Attempt
from crossfoot.watching.words import HOW

NOTHING = "-"

ROWS: Mapping[str, str] = {
    "optimizer steps": "优化器步数",
    "updates applied": "实际更新的步数",
    "samples": "样本数",
    "distinct samples": "不同样本数",
    "samples seen twice": "重复训练的样本数",
    "real tokens": "有效 token 数",
    "trained tokens": "训练 token 数",
    "forwards": "前向次数",
    "steps at another rate": "学习率不符的步数",
    "steps with a wrong token weight": "token 权重不符的步数",
    "steps with other samples": "样本不符的步数",
    "steps in another layout": "布局不符的步数",
}
"""Of a receipt."""
_ROWS_OF: Mapping[str, str] = {
    "samples of ": "样本数：",
    "trained tokens of ": "训练 token 数：",
    "steps at another rate of ": "学习率不符的步数：",
}
"""And with a name behind it."""

KINDS: Mapping[str, str] = {
    "missing sample": "计划内的样本没有训练：所在槽位被丢弃，或反向传播没有执行",
    "missing forward": "计划内的一次前向没有做反向传播，但没有样本因此缺失",
    "extra forward": "某个 rank 多做了计划之外的前向，或同一次前向做了两遍",
    "trained twice": "同一步内，样本的训练次数多于计划",
    "already trained": "同一轮（epoch）内，样本被重复训练",
    "not planned": "训练了不属于这一步计划的样本",
    "other slot": "样本在计划之外的 rank 或前向中训练",
    "label mask differs": "样本的 token 正确，但参与损失计算的 token 与计划不同",
    "tokens altered": "训练了数据中任何样本都没有的内容",
    "rate differs": "优化器更新时的学习率与计划不同",
    "token weight differs": "token 的损失没有除以整步的训练 token 数",
    "ranks disagree": "各 rank 的学习率不一致",
    "update not applied": "这一步优化器没有更新权重",
    "not finite": "损失或梯度范数为 NaN 或无穷大",
    "count differs": "样本与计划一致，但 token 计数不同",
    "missing witness": "某个 rank 没有上报这一步的记录",
    "wrong witness": "某个 rank 上报的是别的步、来自未知 rank，或重复上报",
    "witness cut": "某个 rank 的实际工作超出了记录的容量",
    "lock contradicts itself": "计划锁中的合计或哈希与其自身数字矛盾",
    "checkpoint of another run": "本次启动所用的检查点由另一份计划写出",
    "step missing": "账本缺少某一步的记录",
    "step twice": "账本中同一步有两行记录",
    "step out of order": "账本中某一步的记录排在后面的步之后",
    "step not planned": "账本中有计划之外的步",
    "does not add up": "账本行自相矛盾：各 rank 之和不等于合计",
    "unexplained difference": "账本行的计划与实际不同，却没有写明原因",
    "index differs": "数据索引被改动、不是计划锁所指的索引，或与数据文件不符",
    "rate not promised": "训练循环收到的学习率与计划锁的承诺不同",
    "samples not promised": "训练循环收到的样本与计划锁的承诺不同",
    "layout not promised": "样本所在槽位与计划锁的承诺不同",
    "counts not promised": "某个 rank 统计的样本或 token 数与计划锁的承诺不同",
    "not placed by itself": "打包行中的样本位置编号不从 0 开始，或没有与其他样本隔开",
    "nothing trained": "某一步或整个运行没有训练任何 token",
}
"""Of causes."""

_ENDS: Mapping[str, str] = {
    "finished": "正常完成",
    "stop_after": "按要求停止",
    "patience": "提前结束",
    "signal": "收到信号停止",
    "orphaned": "失去启动器",
    "interrupt": "手动中断",
    "fault": "因故障停止",
    "starting": "正在启动",
    "running": "正在运行",
    "silent": "没有心跳",
    "ended": "已结束",
    "killed": "被强制终止",
    "rank lost": "有 rank 失联",
    "given up": "已放弃",
}

_UNITS = {"step": ("步", "步"), "sample": ("个样本", "个"), "forward": ("次前向", "次")}
"""Of all of them, and of some of these."""
_AMOUNT = re.compile(
    r"(?P<least>at least )?(?P<n>[\d,]+) of (?P<all>[\d,]+) (?P<unit>\w+?)s? "
    r"\((?P<share>.*?) ?%\)(?:, (?P<factor>.*) times as much as planned)?"
)
_WHERE = re.compile(r"in steps? (?P<steps>.*?)(?:, on ranks? (?P<ranks>.*))?")
_WEIGHTS: Mapping[str, str] = {
    "as the other causes of these steps say": "见这些步的其他原因",
    "as measured in the rows; what was promised cannot be told from this lock": (
        "以各行实测为准；无法从此锁得知承诺的内容"
    ),
    "not this run's: they began from another run's": "不属于本次运行：从另一次运行的权重开始",
    "not touched by this, but what the ledger says of these steps is no proof": (
        "不受影响，但账本中这些步的记录不能作为证明"
    ),
    "trained beyond the plan; a checkpoint of the last planned step has the planned ones": (
        "训练超出了计划；计划内最后一步的检查点是计划的权重"
    ),
    "as they were before these steps: nothing was learned in them": (
        "与这些步之前相同：这些步没有学到任何内容"
    ),
}
_JUDGED = (
    (re.compile(r"usable\b.*"), "可用"),
    (re.compile(r"not usable\b.*"), "不可用"),
    (re.compile(r"not known\b.*"), "无法确认是否正确"),
    (re.compile(r".*not the planned ones: train again"), "不是计划的权重，需要重新训练"),
)
"""What a cause makes of the weights: in a word."""
_NOTES = (
    (
        re.compile(r"the index was held against its files: (\S+) of (\S+) \S+ re-tokenised, none differs"),
        r"数据索引已与原始文件核对：重新分词 \2 条记录中的 \1 条，全部一致",
    ),
    (
        re.compile(r"the run has not written how it ended: it was killed, or is still running"),
        "运行没有写下结束方式：被强制终止，或仍在运行",
    ),
    (
        re.compile(r"the ledger's last line is unfinished and was left out \((\S+) bytes\)"),
        r"账本最后一行不完整，未计入（\1 字节）",
    ),
    (
        re.compile(r"the run .* after (\S+) steps? \(exit code (\d+)\)"),
        r"运行在第 \1 步之后停止（退出码 \2）",
    ),
    (
        re.compile(r"the data index (\S+) is not here: .*"),
        r"数据索引 \1 不在本机：学习率与计划锁核对，样本与槽位只与账本记录的计划核对",
    ),
    (
        re.compile(r"(\S+) samples? held out for validation, .*"),
        r"\1 个样本留作验证（已按数据索引重新核算）：没有任何一步计划训练它们或其重复样本",
    ),
    (
        re.compile(
            r"ended after (\S+) steps?, as validation.patience (\S+) says: .* after (\S+) steps?, (\S+)"
        ),
        r"按 validation.patience \2 在第 \1 步后结束：第 \3 步后的验证损失最低，为 \4",
    ),
)
"""Those of a receipt that many runs have."""
_SCHEDULES: Mapping[str, str] = {
    "cosine": "余弦",
    "linear": "线性",
    "constant": "恒定",
    "cosine_with_restarts": "带重启的余弦",
    "wsd": "预热–稳定–衰减（WSD）",
}
_ORIGINS: Mapping[str, str] = {"default": "默认值", "command line": "命令行"}


def row_words(name: str) -> Text:
    """A row of a receipt."""
    if name in ROWS:
        return Both(name, ROWS[name])
    known = (prefix for prefix in sorted(_ROWS_OF, key=len, reverse=True) if name.startswith(prefix))
    prefix = next(known, None)
    return name if prefix is None else Both(name, _ROWS_OF[prefix] + name.removeprefix(prefix))


def end_words(how: str) -> Text:
    """How an attempt ended, or what it does."""
    return Both(HOW.get(how, how), _ENDS[how]) if how in _ENDS else how


def amount_words(amount: str) -> Text:
    """`3 of 834 samples (0.36 %)`."""
    if amount == "the run as a whole":
        return Both(amount, "整个运行")
    found = _AMOUNT.fullmatch(amount)
    if found is None:
        return amount
    every, some = _UNITS[found["unit"]]
    least = "至少 " if found["least"] else " "
    share = found["share"].replace("less than", "不到")
    factor = f"，为计划值的 {found['factor'].replace(' to ', '–')} 倍" if found["factor"] else ""
    return Both(amount, f"{found['all']} {every}中有{least}{found['n']} {some}（{share} %）{factor}")


def where_words(where: str) -> Text:
    """`in steps 2, 5 and 7, on rank 1`."""
    found = _WHERE.fullmatch(where)
    if found is None:
        return where
    ranks = f"，rank {_listed(found['ranks'])}" if found["ranks"] else ""
    return Both(where, f"第 {_listed(found['steps'])} 步{ranks}")


def weight_words(weights: str) -> Text:
    """What a cause makes of the trained weights."""
    if weights in _WEIGHTS:
        return Both(weights, _WEIGHTS[weights])
    words = next((words for pattern, words in _JUDGED if pattern.fullmatch(weights)), None)
    return weights if words is None else Both(weights, words)


def note_words(note: str) -> Text:
    """A note of a receipt; one that only few runs have stays as the terminal has it."""
    found = ((pattern.fullmatch(note), words) for pattern, words in _NOTES)
    return next((Both(note, match.expand(words)) for match, words in found if match), note)


def origin_words(origin: str) -> Text:
    """A place, `default`, `command line`."""
    return Both(origin, _ORIGINS[origin]) if origin in _ORIGINS else origin


def schedule_words(schedule: str) -> Text:
    """The shape of the rates behind the warm-up."""
    return Both(schedule, _SCHEDULES[schedule]) if schedule in _SCHEDULES else schedule


def span_words(seconds: float) -> Text:
    """`14 s`, `2:05`, `3 days`."""
    words = clock(seconds)
    return Both(words, words.replace("days", "天")) if words.endswith("days") else words


def times_words(times: int, thing: Both, things: str | None = None) -> Both:
    """`1 step`, `2 steps`. thing: of one, and its word with the unit in Chinese. things: of several."""
    return Both(f"{times:,} {thing.en if times == 1 else things or thing.en + 's'}", f"{times:,} {thing.zh}")


def _listed(words: str) -> str:
    more = re.sub(r" and ([\d,]+) more", r" 等（另有 \1 个）", words)
    return more.replace(" and ", "、").replace(", ", "、")


def engine_words(attempt: Attempt) -> str:
    """`deepspeed ZeRO-2`, `accelerate`."""
    zero = "" if attempt.zero_stage is None else f" ZeRO-{attempt.zero_stage}"
    return f"{attempt.engine}{zero}"
