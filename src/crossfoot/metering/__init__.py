"""What a forward and an update really were, read from their tensors. Knows neither plan nor engine."""
