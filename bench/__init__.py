"""Benchmarks: plain scripts that print what shipping costs. They assert nothing about time."""
