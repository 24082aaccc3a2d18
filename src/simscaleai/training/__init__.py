"""Training by SimScaleAI's names."""
