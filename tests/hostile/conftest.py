"""What is no test is not imported a second time to look for examples: it would list its files twice."""

collect_ignore = [
    "array_files.py",
    "corpus.py",
    "data_files.py",
    "flowshield_files.py",
    "making.py",
    "model_files.py",
    "readers.py",
]
