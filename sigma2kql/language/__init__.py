"""Sigma's own words: strings, modifiers, conditions and search identifiers as trees of tests."""
