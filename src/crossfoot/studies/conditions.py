"""What holds for all runs of a study, and what its answer cannot tell: the small print of its page."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.reports.text import Both
from crossfoot.studies.results import StudyResults


def conditions(results: StudyResults) -> Iterator[Both]:
    """A paragraph each."""
    yield _set(results)
    yield Both(
        "The critical batch is that of this model, these data, this optimizer and this loss: it grows as the "
        "loss falls. A batch that reaches the target before the end of its budget reaches it at a rate that "
        "has not yet decayed. Warm-up in samples, betas and weight decay are the same for all batches, and "
        "each of them may have another best value for another batch.",
        "临界批大小只对这个模型、这些数据、这个优化器和这个损失成立：损失越低，它越大。"
        "在预算用完之前到达目标的批大小，到达时学习率尚未衰减完。"
        "所有批大小的预热样本数、beta 和权重衰减相同，而它们各自的最佳值可能随批大小而变。",
    )
    yield Both(
        "Between two validations the loss is taken to fall evenly with the logarithm of the samples. "
        "Intervals hold what seeds and misfit show, not what other data would. A loss is no exam: crossfoot "
        "evaluate asks the models.",
        "两次验证之间，假定损失随样本数的对数均匀下降。"
        "区间只反映随机种子与拟合偏差，不反映换用其他数据的影响。"
        "损失不等于考试成绩：模型的能力由 crossfoot evaluate 评测。",
    )


def _set(results: StudyResults) -> Both:
    samples, tokens = f"{results.budget_samples:,}", f"{results.tokens_per_sample:,.0f}"
    epoch, start = f"{results.samples_per_epoch:,}", results.branch
    epochs = f"{results.budget_samples / max(1, results.samples_per_epoch):.2f}"
    return Both(
        f"Every run trains {samples} samples or up to a batch more: {epochs} epochs of {epoch} samples with "
        f"{tokens} trained tokens each in the mean, in the same order for every batch. The rates tried are "
        f"factors of what the config's rule, {results.rule}, gives for the batch. "
        + (f"All begin with {start}." if start else "Each begins with the model as it was."),
        f"每个运行训练 {samples} 个样本，至多再多一个批：即每轮 {epoch} 个样本的 {epochs} 轮，"
        f"平均每个样本训练 {tokens} 个 token，各批大小的样本顺序相同。"
        f"所试学习率是本配置的规则（{results.rule}）在该批大小下所得值的倍数。"
        + (f"全部从 {start} 开始。" if start else "每个都从原模型开始。"),
    )
