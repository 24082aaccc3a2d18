"""SimScaleAI's interface over Worldline: the code that its document shows runs unchanged.

Names and arguments are translated here; what happens, happens in `worldline`.
"""
