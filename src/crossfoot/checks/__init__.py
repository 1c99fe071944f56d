"""One rule, one function, one code, one docstring; and how findings are shown."""
