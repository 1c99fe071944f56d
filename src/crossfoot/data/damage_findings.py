"""What can be wrong with the bytes of a data file that is packed, or has columns: one mistake, one code, one
docstring (the manual page).
"""

from __future__ import annotations

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs


@rule_docs("CF513")
def broken_parquet(place: Place, reason: str) -> Finding:
    """CF513: a file named .parquet is not readable as Parquet, or has a column twice.

    A row is a record, and its columns are the fields; turns are a list of structs.
    """
    return Finding(
        "CF513",
        "a Parquet file cannot be used",
        place=place,
        label=reason,
        helps=("write the file again, with one column for each field of a record",),
        unreadable=True,
    )


@rule_docs("CF526")
def broken_packing(place: Place, reason: str) -> Finding:
    """CF526: a data file that is packed with gzip is damaged, or cut off.

    Its name ends in .gz, and its bytes cannot be unpacked to their end. A download that was broken off looks
    like this: what comes before would be a part of the data that nobody chose.
    """
    return Finding(
        "CF526",
        "a packed data file cannot be unpacked",
        place=place,
        label=reason,
        helps=("fetch or pack the file again",),
        unreadable=True,
    )


@rule_docs("CF527")
def broken_table(place: Place, reason: str) -> Finding:
    """CF527: a table (.csv, .tsv) has rows that its header does not fit, or a column twice.

    The first row names the fields. Each other row has as many cells; a cell with a comma or a line end in it
    stands in double quotes, and a double quote in there is written twice. An empty cell is no field.
    """
    return Finding(
        "CF527",
        "a table is not readable by its header",
        place=place,
        label=reason,
        helps=("write the table again with a CSV writer, or the records as .jsonl",),
        unreadable=True,
    )
