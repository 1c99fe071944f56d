"""The gradient oracle: one optimizer step of the real engine against plain torch."""
