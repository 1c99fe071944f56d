"""Below the wall: the only package that imports torch."""
