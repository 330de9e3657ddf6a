"""map: a rule over Sigma fields becomes a query over the typed columns of one table."""
