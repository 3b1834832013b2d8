"""The gate: log-odds and counts in, decisions out. Knows no records and no model."""
