"""`crossfoot report`: a run as a page, several runs side by side."""
