"""Where emitted KQL can run; one module per engine, each imported only when it is used."""
