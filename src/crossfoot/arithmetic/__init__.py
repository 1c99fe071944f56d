"""Pure numbers: integers and floats in, frozen dataclasses out. No I/O, no torch."""
