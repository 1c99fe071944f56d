"""A run's ledger and validations, shown by other programs: while it runs, and afterwards."""
