"""Trains several methods under one protocol and says which differences are real."""
