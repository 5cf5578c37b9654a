"""Workflows to look at: data, text, DOT, SVG."""
