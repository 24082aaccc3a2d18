"""Model families, one module or package each; `registry.py` knows them by name."""
