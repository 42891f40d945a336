"""The configuration: one typed tree, loaded from YAML and overridden by dotted keys."""
