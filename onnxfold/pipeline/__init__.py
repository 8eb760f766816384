"""Passes, their order, their options, and what a run of them reports."""
