"""What a trained model says: `crossfoot generate` and `crossfoot chat`."""
