"""Environments: `make.make_env`, and one file per environment family."""
