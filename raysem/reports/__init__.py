"""Plots, players and the HTML report."""
