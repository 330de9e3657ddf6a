"""The reference: what rules and correlations mean, in plain Python, held against every query and engine."""
