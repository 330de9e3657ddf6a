"""YAML and JSON text as nodes that know where they stand."""
