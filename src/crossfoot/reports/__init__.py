"""Pages that stand alone: one HTML file with its tables and charts, which fetches nothing when opened."""
