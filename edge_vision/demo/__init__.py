"""The demo: the whole pipeline on one machine, and what it needs around it."""
