"""emit: a query becomes KQL text."""
