"""Curated tables of Azure regions, VM sizes, CPUs, GPUs and countries, each row with its source."""
