"""The command line by SimScaleAI's names."""
