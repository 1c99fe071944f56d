"""What a run is trained on, as people wrote it: records, templates and a tokenizer make samples."""
