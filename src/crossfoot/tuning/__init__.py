"""How a trained model answers best: `crossfoot tune`."""
