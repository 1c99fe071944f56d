"""An entry of data.train that says more than a path."""

from crossfoot.written.config_values import Count, Text, Weight
from crossfoot.written.section import Section


class SourceSection(Section):
    """One entry of data.train: files that count together."""

    path: Text
    """A file, a folder or a pattern."""
    name: Text | None = None
    """What plan and receipt call it. Default: the path."""
    weight: Weight = 1.0
    """How often an epoch trains each of its samples: 0.25 is a quarter of them, 2.5 all of them twice and
    half of them a third time. Which ones, changes from epoch to epoch; in the long run all are equal.
    """
    max_samples: Count | None = None
    """Only the first so many samples are used; the weight is of these."""

    @property
    def called(self) -> str:
        """What plan and receipt call it."""
        return self.name or self.path

    @property
    def is_plain(self) -> bool:
        """Whether an epoch trains each of its samples once."""
        return self.weight == 1 and self.max_samples is None

    @property
    def shortest(self) -> "str | SourceSection":
        """The path alone, where nothing else is said."""
        return self.path if self.is_plain and self.name is None else self
