"""load: text becomes documents (rules, correlations, filters, native queries)."""
