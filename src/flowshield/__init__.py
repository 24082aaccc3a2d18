"""FlowShield's interface over Worldline: agents that obey commands, and shields that know when they cannot.

Names and arguments are translated here and nowhere else; everything that happens, happens in `worldline`.
`flowshield.training`, `flowshield.models`, `flowshield.envs` and `flowshield.evaluation` have what the document shows.
"""
