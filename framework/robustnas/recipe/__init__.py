"""From a YAML file to a checked recipe: `schema` says what may stand in one, `load` reads it."""
