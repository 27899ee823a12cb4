"""Shared basics: errors, logging, files, interrupts, several processes. Independent of machine learning."""
